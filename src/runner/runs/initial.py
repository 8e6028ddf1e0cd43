"""Weights of another run or program into a model that was just built, and a report of what came of it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from runner.checkpoint.interop import Weights, read_weights
from runner.checkpoint.matching import Matching, Spec, match, suggestion
from runner.config.initial import Initial
from runner.errors import CheckpointError, ConfigError
from runner.quantities import size
from runner.training.state import TrainState

_MOST = 8
"""How many names are told of each kind."""


def initialize(state: TrainState, initial: Initial) -> list[str]:
    """Load the weights that a new run is to begin with, into the averaged ones too; the lines of the report.

    Raises ConfigError, naming every tensor that does not fit, unless `init.strict` is false.
    """
    where = f"init_from={initial.text}"
    try:
        weights = read_weights(initial.path, initial.which, weights=initial.init.weights)
    except CheckpointError as error:
        raise ConfigError(f"{where}: {error}") from error
    matching = _matched(state.model, weights, initial)
    refusal = _refusal(state.model, weights, matching, initial)
    if refusal:
        raise ConfigError([f"{where}: {refusal[0]}", *refusal[1:]])
    try:
        state.model.load_state_dict(
            {name: weights.tensors[source] for name, source in matching.loaded.items()}, strict=False
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{where}: {type(state.model).__name__} refuses the weights: {reason}") from error
    if state.averaged is not None:
        state.averaged.module.load_state_dict(state.model.state_dict())
    return [_summary(weights, matching, state.device), *differences(matching), *weights.notes]


def specs_of(tensors: Mapping[str, object]) -> dict[str, Spec]:
    """What the tensors among some values are."""
    return {
        name: Spec(tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in tensors.items()
        if isinstance(value, Tensor)
    }


def _matched(model: nn.Module, weights: Weights, initial: Initial) -> Matching:
    live = model.state_dict()
    try:
        return match(
            specs_of(weights.tensors),
            specs_of(live),
            rename=initial.init.rename,
            include=initial.init.include,
            exclude=initial.init.exclude,
            tied=tied(live),
        )
    except ValueError as error:
        raise ConfigError([f"init_from={initial.text}: {line}" for line in str(error).splitlines()]) from error


def tied(live: Mapping[str, object]) -> list[list[str]]:
    """The names of each tensor that has several."""
    groups: dict[object, list[str]] = {}
    for name, value in live.items():
        if isinstance(value, Tensor) and value.numel() and not value.is_meta:
            identity = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
            groups.setdefault(identity, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _refusal(model: nn.Module, weights: Weights, matching: Matching, initial: Initial) -> list[str]:
    """Why the weights are not loaded, and what to type; [] if they are."""
    if matching.loaded and (matching.whole or not initial.init.strict):
        return []
    advice = []
    if not matching.loaded:
        head = f"{weights.what}: none of its {len(weights.tensors)} tensors fits {type(model).__name__}"
    else:
        head = f"{weights.what}: does not fit {type(model).__name__}"
        advice = ["type init.strict=false to load what fits"]
    rule = suggestion(weights.tensors.keys(), specs_of(model.state_dict()).keys()) if not initial.init.rename else None
    if rule is not None:
        left, right = next(iter(rule.items()))
        advice.insert(0, f"""type 'init.rename={{{left}:{right or '""'}}}', after which most names are the same""")
    elif matching.loaded and (part := _one_part([*matching.mismatched, *matching.missing, *matching.unexpected])):
        advice.insert(0, f"type 'init.exclude=[{part}.*]' to leave {part} as it is built")
    return [head, *differences(matching), *(["; or ".join(advice)] if advice else [])]


def _one_part(names: Sequence[str]) -> str | None:
    """The part of a model that all names are in, if they are in one: another head, say."""
    parts = {name.rpartition(".")[0] for name in names}
    return parts.pop() or None if len(parts) == 1 else None


def _summary(weights: Weights, matching: Matching, device: torch.device) -> str:
    total = len(matching.loaded) + len(matching.missing) + len(matching.mismatched)
    held = size(sum(weights.tensors[source].nbytes for source in matching.loaded.values()))
    line = f"begins with {len(matching.loaded)} of {total} tensors ({held}) out of {weights.what}"
    if device.type != "cpu":
        line += f", onto {device}"
    casts = sorted({f"{there} to {here}" for there, here in matching.cast.values()})
    return line + (f"; {len(matching.cast)} of them cast from {', '.join(casts)}" if casts else "")


def differences(matching: Matching) -> list[str]:
    lines = []
    if matching.missing:
        lines.append(f"missing in the file: {_listed(matching.missing)}")
    if matching.unexpected:
        lines.append(f"not in the model: {_listed(matching.unexpected)}")
    if matching.mismatched:
        told = [f"{name} is {there} there and {here} here" for name, (there, here) in matching.mismatched.items()]
        lines.append(f"does not fit: {_listed(told)}")
    if matching.left_out:
        lines.append(f"left as built by init.include and init.exclude: {matching.left_out} tensors")
    return lines


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more
