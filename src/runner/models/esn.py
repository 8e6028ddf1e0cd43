"""Echo state networks: a random recurrent reservoir that stays as it is, and a linear readout that is trained.

    classic_esn    input -> reservoir -> (input, states) -> readout
    ott_esn        the same with the states of even units squared
    linear_esn     the same with a reservoir without non-linearity
    headless_esn   input -> reservoir -> states

B batch, T time, F input, O output, D what the readout sees.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import ConfigError
from runner.models.drawing import Drawing
from runner.models.readout import Readout
from runner.models.reservoir import Reservoir


class ESNModel(nn.Module):
    """An echo state network. It is called with x: (B, T, F), or {"input": x}, and returns (B, T, O).

    Each call goes on from the state in which the last one left the reservoir; `reset_reservoirs` begins anew.
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
        bias: float = 0.0,
        trainable: bool = False,
        stateful: bool = True,
        readout_bias: bool = True,
        readout_trainable: bool = True,
        seed: int | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> None:
        super().__init__()
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.get_default_dtype()
        drawing = Drawing(seed, dtype)
        self.squared = squared
        self._modules_dict = nn.ModuleDict()
        self._modules_dict["reservoir"] = Reservoir(
            reservoir_size,
            input_size,
            driver_size=driver_size,
            activation=activation,
            leak_rate=leak_rate,
            spectral_radius=spectral_radius,
            connectivity=connectivity,
            input_scaling=input_scaling,
            driver_scaling=driver_scaling,
            bias=bias,
            trainable=trainable,
            stateful=stateful,
            drawing=drawing,
        )
        if output_size is not None:
            self._modules_dict["output"] = Readout(
                input_size + reservoir_size,
                output_size,
                bias=readout_bias,
                trainable=readout_trainable,
                drawing=drawing,
            )

    @property
    def reservoir(self) -> Reservoir:
        return self._modules_dict["reservoir"]  # type: ignore[return-value]

    @property
    def readout(self) -> Readout:
        if "output" not in self._modules_dict:
            raise ConfigError("the model has no readout")
        return self._modules_dict["output"]  # type: ignore[return-value]

    @property
    def fitted(self) -> bool:
        """Whether the readout was solved for directly."""
        return "output" in self._modules_dict and bool(self.readout.fitted)

    def forward(self, x: Tensor | Mapping[str, Tensor]) -> Tensor:
        features_BTD = self.features(x)
        return self.readout(features_BTD) if "output" in self._modules_dict else features_BTD

    def features(self, x: Tensor | Mapping[str, Tensor]) -> Tensor:
        """What the readout sees, (B, T, D); without a readout the states."""
        x_BTF = x["input"] if isinstance(x, Mapping) else x
        states_BTN = self.reservoir(x_BTF)
        return self._seen(x_BTF, states_BTN)

    def _seen(self, x_BTF: Tensor, states_BTN: Tensor) -> Tensor:
        if "output" not in self._modules_dict:
            return states_BTN
        if self.squared:
            even = torch.arange(states_BTN.shape[-1], device=states_BTN.device) % 2 == 0
            states_BTN = torch.where(even, states_BTN**2, states_BTN)
        return torch.cat([x_BTF, states_BTN], dim=-1)

    def reset_reservoirs(self) -> None:
        self.reservoir.reset()

    @torch.no_grad()
    def fit(self, x: Tensor | Mapping[str, Tensor], y: Tensor, *, washout: int = 0, alpha: float = 1e-6) -> "ESNModel":
        """Solve for the readout directly, in float64, without the first `washout` steps of each sequence."""
        features = self.features(x)
        self.readout.clear()
        self.readout.gather(features[:, washout:], y[:, washout:])
        self.readout.solve(alpha)
        self.readout.clear()
        return self

    @torch.no_grad()
    def forecast(self, warmup: Tensor | Mapping[str, Tensor], horizon: int) -> Tensor:
        """What follows `warmup`, (B, horizon, O): each output is the next input, the first that of the last warm-up step."""
        out = self(warmup)[:, -1:]
        outs = [out]
        for _ in range(horizon - 1):
            out = self(out)
            outs.append(out)
        return torch.cat(outs, dim=1)


def classic_esn(reservoir_size: int, input_size: int, output_size: int, **options: Any) -> ESNModel:
    return ESNModel(reservoir_size, input_size, output_size, **options)


def ott_esn(reservoir_size: int, input_size: int, output_size: int, **options: Any) -> ESNModel:
    return ESNModel(reservoir_size, input_size, output_size, squared=True, **options)


def linear_esn(reservoir_size: int, input_size: int, output_size: int, **options: Any) -> ESNModel:
    return ESNModel(reservoir_size, input_size, output_size, activation="identity", **options)


def headless_esn(reservoir_size: int, input_size: int, **options: Any) -> ESNModel:
    return ESNModel(reservoir_size, input_size, None, **options)
