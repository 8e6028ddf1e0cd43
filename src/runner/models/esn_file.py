"""Files of echo state networks, as torch.save writes them:

    state_dict         the weights, by name
    metadata           the version of torch; the user's own, once written there
    config             how to build such a model: a node of a config, in plain values
    reservoir_states   {"reservoir": (B, N)}, if asked

Whoever opens one with torch.load, changes it and writes it with torch.save has a file that still loads.
"""

import inspect
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from runner.checkpoint.durable import write_all
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.interop import is_ours, model_tensors, read_weights
from runner.checkpoint.matching import Matching, Spec, match, unwrapped
from runner.checkpoint.single import written
from runner.checkpoint.tensors import can_store
from runner.errors import MismatchError, MissingError
from runner.models.esn_options import FIXED

if TYPE_CHECKING:
    from runner.models.esn import ESNModel

RESERVOIR = "reservoir"
"""The only reservoir, in `reservoir_states`."""
FITTED = "_modules_dict.output.fitted"
SAFE_PROTOCOLS = (2, 3)
"""Protocols of pickle that `torch.load(weights_only=True)` knows; the first is torch's own."""

_UNSEEN = (
    *("squared", "activation", "leak_rate", "spectral_radius", "connectivity"),
    *("input_scaling", "driver_scaling", "bias"),
)
"""Hyperparameters that the shapes of the weights do not show."""


@dataclass(frozen=True)
class _Found:
    """What a file holds."""

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None
    states: Tensor | None = None
    saved_cold: bool = False
    """Whether the states were asked for when there were none."""


def save_file(model: "ESNModel", path: str | os.PathLike[str], *, include_states: bool, **kwargs: Any) -> None:
    """Save a model; `kwargs` are torch.save's. Raises SaveError, and what stood there still does."""
    weights = {unwrapped(name): value for name, value in model.state_dict().items()}
    if any(value.is_meta for value in weights.values()):
        raise ValueError('the model is on the device "meta" and has no weights to save; load or draw some first')
    content: dict[str, Any] = {
        # On the CPU, so that a plain torch.load opens it on any machine; copies, for of a view torch saves the whole.
        "state_dict": {name: value.detach().to("cpu", copy=True) for name, value in weights.items()},
        "metadata": {"torch": str(torch.__version__)},
        "config": model.config,
    }
    state = model.reservoir.state
    if include_states:
        content["reservoir_states"] = {} if state is None else {RESERVOIR: state.cpu()}
    if kwargs.get("pickle_protocol", SAFE_PROTOCOLS[0]) not in SAFE_PROTOCOLS:
        warnings.warn(
            f"{path}: pickle_protocol={kwargs['pickle_protocol']!r} is a format that torch.load reads only by running "
            f"what is in a file; saved with {SAFE_PROTOCOLS[0]}, which every torch reads",
            stacklevel=3,
        )
        kwargs["pickle_protocol"] = SAFE_PROTOCOLS[0]
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    with written(Path(path), buffer.getbuffer().nbytes, overwrite=True) as descriptor:
        write_all(descriptor, buffer.getbuffer())


def load_file(model: "ESNModel", path: str | os.PathLike[str], *, strict: bool, load_states: bool) -> None:
    """Load into `model`, which stays as it was if this raises. See ESNModel.load."""
    found = _read(Path(path))
    live = model.state_dict()
    matching = _matching(found, live)
    problems = [f"missing: {name}" for name in matching.missing]
    problems += [f"unexpected: {name}" for name in matching.unexpected]
    sizes = [
        f"size mismatch for {name}: the file has {there}, the model {wanted}"
        for name, (there, wanted) in matching.mismatched.items()
    ]
    if sizes or (problems and (strict or not matching.loaded)):
        raise MismatchError(f"{found.path}: does not fit the model: {_listed(sizes + problems)}; {_advice(found)}")
    _check_config(found, model)
    if load_states:
        _check_states(found, model)
    # Weights on the device "meta" have no place to copy to: they become the file's.
    anew = any(live[name].is_meta for name in matching.loaded)
    weights = {name: found.tensors[source].to(live[name].dtype) for name, source in matching.loaded.items()}
    model.load_state_dict(weights, strict=False, assign=anew)
    model.reset_reservoirs()
    if load_states and found.states is not None:
        model.reservoir.restore(found.states)
    for note in _notes(found, model, problems, load_states=load_states):
        warnings.warn(f"{found.path}: {note}", stacklevel=3)


def _notes(found: _Found, model: "ESNModel", problems: list[str], *, load_states: bool) -> Iterator[str]:
    """What whoever has loaded a file should know."""
    if problems:
        yield f"not all was loaded: {_listed(problems)}"
    if found.config is None:
        held = ", ".join(f"{name}={model.config[name]!r}" for name in _UNSEEN)
        yield f"has no config, so that nothing tells whether it was saved with what this model has: {held}"
    if load_states and found.saved_cold:
        yield (
            "no reservoir states found: it was saved with include_states=True before the model had read anything; the "
            "reservoir is cold"
        )
    elif load_states and found.states is None:
        yield (
            "no reservoir states found; save with include_states=True, or load without load_states; the reservoir is "
            "cold"
        )


def _read(path: Path) -> _Found:
    if not path.exists():
        raise MissingError(f"{path}: is not there; wanted a file that model.save(path) has written")
    if is_ours(path):
        checkpoint = Checkpoint.open(path)
        return _Found(path, model_tensors(checkpoint, "raw"), _mapping(checkpoint.config.get("model")))
    weights = read_weights(path)
    states = _mapping(weights.others.get("reservoir_states"))
    state = (states or {}).get(RESERVOIR)
    config = _mapping(weights.others.get("config"))
    return _Found(path, weights.tensors, config, state if isinstance(state, Tensor) else None, states == {})


def _mapping(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


def _matching(found: _Found, live: Mapping[str, Tensor]) -> Matching:
    bare = {unwrapped(name): name for name in found.tensors}
    twice = [f"{name} and {bare[unwrapped(name)]}" for name in found.tensors if bare[unwrapped(name)] != name]
    if twice:
        raise MismatchError(f"{found.path}: has {_listed(twice)}, which are of the same weight; leave one out")
    wanted = {unwrapped(name): name for name in live}
    # Weights that no call of `solve` has set, and those of other programs, need not say so.
    stood_in = {wanted[FITTED]} if FITTED in wanted and FITTED not in bare else set()
    try:
        return match(
            # What has no numbers is nothing: some programs keep a place for a driver that is not there.
            {name: _spec(value) for name, value in found.tensors.items() if value.numel() or unwrapped(name) in wanted},
            {name: _spec(value) for name, value in live.items() if name not in stood_in},
            rename={},
        )
    except ValueError as error:
        raise MismatchError(f"{found.path}: {error}") from error


def _spec(value: Tensor) -> Spec:
    return Spec(tuple(value.shape), str(value.dtype).removeprefix("torch."))


def _check_config(found: _Found, model: "ESNModel") -> None:
    """Raise MismatchError for a file whose weights were drawn for, or used in, another network of the same shapes."""
    if found.config is None:
        return
    there, live = hyperparameters_of(found.config, type(model)), model.config
    differing = {
        name: f"{there[name]!r:.80}" for name in _UNSEEN if name in there and not _equal(there[name], live[name])
    }
    problems = [f"{name} is {value} in the file and {live[name]!r} in the model" for name, value in differing.items()]
    if problems:
        given = ", ".join(f"{name}={value}" for name, value in differing.items())
        raise MismatchError(f"{found.path}: {'; '.join(problems)}; build the model with {given}")


def _equal(value: Any, plain: Any) -> bool:
    # A file may hold anything, tensors too, of which no comparison says one thing.
    return isinstance(value, bool | int | float | str) and bool(value == plain)


def hyperparameters_of(node: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The hyperparameters that a node names or leaves at their defaults, whether it names `kind` or one of the
    functions that make a network."""
    values: dict[str, Any] = {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is not parameter.empty
    }
    nested = node.get("reservoir_config")
    values |= {name: value for name, value in node.items() if name in values}
    values |= {name: value for name, value in (nested if isinstance(nested, Mapping) else {}).items() if name in values}
    return {**values, **FIXED.get(str(node.get("_target_")).rpartition(".")[2], {})}


def _check_states(found: _Found, model: "ESNModel") -> None:
    units, states = len(model.reservoir.weight_hh), found.states
    if states is None:
        return
    numbers = can_store(states) and states.is_floating_point()
    if not numbers or states.ndim != 2 or states.shape[1] != units or not len(states):
        kind = str(states.dtype).removeprefix("torch.")
        raise MismatchError(
            f"{found.path}: size mismatch for the reservoir states: the file has {kind} {list(states.shape)}, the "
            f"model real numbers (sequences, {units}); load without load_states"
        )


def _advice(found: _Found) -> str:
    sizes = ("reservoir_size", "input_size", "output_size", "driver_size")
    held = [f"{name}={found.config[name]!r}" for name in sizes if found.config is not None and name in found.config]
    return f"build the model with the sizes of the file, {', '.join(held)}" if held else "build such a model"


def _listed(problems: list[str]) -> str:
    return "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
