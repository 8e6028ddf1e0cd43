"""Echo state networks: a random recurrent reservoir that stays as it is, and a linear readout that is trained.

B batch, T time, F input, U driver, O output, N units, D what the readout sees.
"""

import os
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from runner.errors import ConfigError
from runner.models.drawing import Drawing
from runner.models.esn_file import load_file, save_file
from runner.models.esn_options import OF_RESERVOIR, dtype_of, option_problems, plain_numbers
from runner.models.readout import Readout
from runner.models.reservoir import Reservoir

Input = Tensor | Mapping[str, Tensor]
"""x: (B, T, F), {"input": x}, or with a driver {"input": x, "driver": u}, u: (B, T, U)."""


class ESNModel(nn.Module):
    """An echo state network. Called with (B, T, F) it returns (B, T, O), or the states (B, T, N) without a readout.

    Every call, of `fit` and `forecast` too, goes on from the state in which the last one left the reservoir. A new
    model is cold; `reset_reservoirs` makes it so again.
    """

    def __init__(
        self,
        reservoir_size: int,
        input_size: int,
        output_size: int | None = None,
        *,
        squared: bool = False,
        activation: str = "tanh",
        leak_rate: float = 1.0,
        spectral_radius: float = 0.9,
        connectivity: float = 1.0,
        input_scaling: float = 1.0,
        driver_size: int = 0,
        driver_scaling: float = 1.0,
        bias: float = 1.0,
        trainable: bool = False,
        stateful: bool = True,
        readout_bias: bool = True,
        readout_trainable: bool = True,
        seed: int | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> None:
        """Raises ConfigError, with a line for each argument that is out of range.

        output_size: None for no readout. squared: the readout sees the states of even units squared.
        connectivity: the probability that a recurrent weight is not zero. input_scaling, driver_scaling, bias: the
        bounds between which the weights of the input, those of a driver, and the bias are drawn; a bias of 0 is none.
        trainable: the reservoir learns by gradients. stateful: false lets each call begin cold.
        seed: of all weights, which then leave torch's generator alone; None draws from that. dtype: None is torch's.
        """
        super().__init__()
        held = self._hyperparameters = plain_numbers(
            {
                "reservoir_size": reservoir_size,
                "input_size": input_size,
                "output_size": output_size,
                "squared": squared,
                "activation": activation,
                "leak_rate": leak_rate,
                "spectral_radius": spectral_radius,
                "connectivity": connectivity,
                "input_scaling": input_scaling,
                "driver_size": driver_size,
                "driver_scaling": driver_scaling,
                "bias": bias,
                "trainable": trainable,
                "stateful": stateful,
                "readout_bias": readout_bias,
                "readout_trainable": readout_trainable,
                "seed": seed,
            }
        )
        if problems := option_problems(held):
            raise ConfigError(problems)
        drawing = Drawing(held["seed"], dtype_of(dtype))
        self._modules_dict = nn.ModuleDict()
        self._modules_dict["reservoir"] = Reservoir(
            held["reservoir_size"],
            held["input_size"],
            **{name: held[name] for name in OF_RESERVOIR},
            drawing=drawing,
        )
        if held["output_size"] is not None:
            self._modules_dict["output"] = Readout(
                held["input_size"] + held["reservoir_size"],
                held["output_size"],
                bias=readout_bias,
                trainable=readout_trainable,
                drawing=drawing,
            )

        # Each process of a data-parallel training has sequences of its own: the states and sums of the first one must
        # not be given to the others.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
            self, _transient(self)
        )

    @property
    def config(self) -> dict[str, Any]:
        """How to build a model like this one, as plain values; its weights are not in it."""
        kind = type(self)
        dtype = str(self.reservoir.weight_hh.dtype).removeprefix("torch.")
        return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **self._hyperparameters, "dtype": dtype}

    @property
    def reservoir(self) -> Reservoir:
        return cast(Reservoir, self._modules_dict["reservoir"])

    @property
    def readout(self) -> Readout | None:
        return cast(Readout, self._modules_dict["output"]) if "output" in self._modules_dict else None

    @property
    def fitted(self) -> bool:
        """Whether the readout was solved for directly, by `fit` say; it is saved with the weights."""
        return self.readout is not None and bool(self.readout.fitted)

    def forward(self, x: Input) -> Tensor:
        features_BTD = self.features(x)
        return features_BTD if self.readout is None else self.readout(features_BTD)

    def features(self, x: Input) -> Tensor:
        """What the readout sees: the input and the states, (B, T, F + N); without a readout the states, (B, T, N)."""
        x_BTF, driver_BTU = self._parts(x)
        return self._seen(x_BTF, self.reservoir(x_BTF, driver_BTU))

    def reset_reservoirs(self) -> None:
        """Make the reservoir cold."""
        self.reservoir.reset()

    @torch.no_grad()
    def fit(self, x: Input, y: Tensor, *, washout: int = 0, alpha: float = 1e-6) -> "ESNModel":
        """Solve for the readout that gives y: (B, T, O), by ridge regression in float64.

        The first `washout` steps of each sequence only bring the reservoir up to date. See Readout for `alpha`.
        """
        readout = self._readout("fit")
        x_BTF, _ = self._parts(x)
        if y.shape != (*x_BTF.shape[:2], readout.out_features):
            wanted = (*x_BTF.shape[:2], readout.out_features)
            raise ValueError(f"the targets are {tuple(y.shape)}; wanted {wanted}, one for each step of the input")
        if not 0 <= washout < x_BTF.shape[1]:
            raise ValueError(f"washout is {washout}; wanted 0 or more, and fewer than the {x_BTF.shape[1]} steps")
        features_BTD = self.features(x)
        readout.clear()
        try:
            readout.gather(features_BTD[:, washout:], y[:, washout:])
            readout.solve(alpha)
        finally:
            readout.clear()
        return self

    @torch.no_grad()
    def forecast(self, warmup: Input, horizon: int, *, driver: Tensor | None = None) -> Tensor:
        """What follows `warmup`: (B, horizon, O), each output being the next input.

        The first is the output at the last step of the warm-up: the forecast of the step behind it. A model that is
        driven needs `driver`: (B, horizon - 1, U), for the steps that are forecast and fed back.
        """
        readout = self._readout("forecast")
        x_BTF, driver_BTU = self._parts(warmup)
        if readout.out_features != x_BTF.shape[-1]:
            raise ValueError(
                f"the model has {x_BTF.shape[-1]} inputs and {readout.out_features} outputs; wanted as many, for each "
                "output of a forecast is the next input"
            )
        if type(horizon) is not int or horizon < 1:
            raise ValueError(f"horizon is {horizon!r}; wanted a whole number of at least 1")
        if horizon > 1:
            _check_driver(driver, (len(x_BTF), horizon - 1, self._hyperparameters["driver_size"]), "the forecast")
        reservoir = self.reservoir
        states_BTN = reservoir.advance(x_BTF, driver_BTU, reservoir.begin(len(x_BTF)))
        x_BTF, states_BTN = x_BTF[:, -1:], states_BTN[:, -1:]
        outputs = [readout(self._seen(x_BTF, states_BTN))]
        for step in range(horizon - 1):
            x_BTF = outputs[-1].to(x_BTF.dtype)
            driven = None if driver is None else driver[:, step : step + 1]
            states_BTN = reservoir.advance(x_BTF, driven, states_BTN[:, -1])
            outputs.append(readout(self._seen(x_BTF, states_BTN)))
        reservoir.keep(states_BTN[:, -1])
        return torch.cat(outputs, dim=1)

    def save(self, path: str | os.PathLike[str], include_states: bool = False, **kwargs: Any) -> None:
        """Save the weights, and the reservoir's state if asked, durably; what stood there stays until that is done.

        `kwargs` go to torch.save. Folders are made. The file opens with torch.load and is described in esn_file.py.
        """
        save_file(self, path, include_states=include_states, **kwargs)

    def load(self, path: str | os.PathLike[str], strict: bool = True, load_states: bool = False) -> None:
        """Load weights; the reservoir is cold then, or in the file's state if asked.

        Takes what `save` writes, and every other file or run that holds such weights; `strict=False` allows names that
        are missing or too many. Raises MissingError (a FileNotFoundError), and MismatchError (a RuntimeError) for
        other names, shapes or hyperparameters; then the model is as it was.
        """
        load_file(self, path, strict=strict, load_states=load_states)

    @classmethod
    def load_from_file(
        cls,
        path: str | os.PathLike[str],
        model: "ESNModel | None" = None,
        strict: bool = True,
        load_states: bool = False,
    ) -> "ESNModel":
        """The same `model`, with the file's weights."""
        if not isinstance(model, ESNModel):
            raise ValueError(
                f"model is {type(model).__name__}; wanted an ESNModel to load into, as in "
                "ESNModel.load_from_file(path, model=classic_esn(100, 1, 1)); runner.load(path) builds one"
            )
        model.load(path, strict=strict, load_states=load_states)
        return model

    def _seen(self, x_BTF: Tensor, states_BTN: Tensor) -> Tensor:
        if self.readout is None:
            return states_BTN
        if self._hyperparameters["squared"]:
            even = torch.arange(states_BTN.shape[-1], device=states_BTN.device) % 2 == 0
            states_BTN = torch.where(even, states_BTN.square(), states_BTN)
        return torch.cat([x_BTF, states_BTN], dim=-1)

    def _readout(self, what: str) -> Readout:
        if self.readout is None:
            raise ConfigError(f"{what}: the model has no readout; build it with an output_size, as classic_esn does")
        return self.readout

    def _parts(self, x: Input) -> tuple[Tensor, Tensor | None]:
        held = self._hyperparameters
        dtype = self.reservoir.weight_hh.dtype
        return _parts(x, input_size=held["input_size"], driver_size=held["driver_size"], dtype=dtype)


def _parts(x: Input, *, input_size: int, driver_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The input and what drives it. Raises ValueError, or TypeError for what is no tensor, unless they fit."""
    driver: Tensor | None = None
    if isinstance(x, Mapping):
        if "input" not in x or not x.keys() <= {"input", "driver"}:
            raise ValueError(f"the input has the keys {list(x)}; wanted 'input', and 'driver' for a model with one")
        driver = x.get("driver")
        x = x["input"]
    if not isinstance(x, Tensor):
        raise TypeError(f"the input is a {type(x).__name__}; wanted a tensor (batch, time, features)")
    if x.ndim != 3 or x.shape[-1] != input_size or not x.shape[1]:
        hint = "; for one sequence x[None]" if x.ndim == 2 and x.shape[-1] == input_size else ""
        raise ValueError(f"the input is {tuple(x.shape)}; wanted (batch, time of 1 or more, {input_size}){hint}")
    if x.dtype != dtype:
        raise ValueError(f"the input is {x.dtype}, and the model {dtype}; wanted the same, as by x.to({dtype})")
    _check_driver(driver, (*x.shape[:2], driver_size), "the input")
    return x, driver


def _check_driver(driver: Tensor | None, wanted: tuple[int, int, int], of: str) -> None:
    """Raise ValueError unless it has the shape that is wanted, or is None where that has no features."""
    there = None if driver is None else tuple(driver.shape)
    if there != (wanted if wanted[-1] else None):
        raise ValueError(
            f"the driver of {of} is {there}; wanted {wanted if wanted[-1] else None}, for the model has "
            f"driver_size={wanted[-1]}"
        )


def _transient(model: nn.Module) -> list[str]:
    return [
        f"{prefix}.{name}" for prefix, module in model.named_modules() for name in module._non_persistent_buffers_set
    ]
