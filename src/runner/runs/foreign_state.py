"""What a file of another program holds of a training, as this program has it.

    {"epoch": 3, "model_state_dict": ..., "optimizer_state_dict": ..., "loss": 0.25}     torch's tutorial
    {"epoch": 3, "global_step": 96, "state_dict": ..., "optimizer_states": [...], "lr_schedulers": [...]}   Lightning

The states of an optimizer, a scheduler and a gradient scaler are known by what they are made of, under any key.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runner.checkpoint.interop import read_weights
from runner.checkpoint.matching import unwrapped
from runner.checkpoint.tensors import can_store
from runner.records import Progress
from runner.training import optimizer_state

STEPS = ("global_step", "step", "iteration", "iter_num")
EPOCHS = ("epoch", "current_epoch")
"""How programs call their counts, the most telling first."""

_NUMPY = "say numbers of NumPy; in the program that wrote the file, make plain ones of them"
_KINDS: Mapping[str, Callable[[Mapping[Any, Any]], bool]] = {
    "optimizer": lambda value: {"state", "param_groups"} <= value.keys(),
    "scheduler": lambda value: "last_epoch" in value or "_schedulers" in value,
    "scaler": lambda value: {"scale", "growth_factor"} <= value.keys(),
}
_ELEMENTWISE = frozenset(
    {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "acc_delta", "grad_avg"}
    | {"sum", "prev", "step_size", "ax"}
)
"""What optimizers keep for each element of a parameter, by torch's names."""
_LATER = frozenset(
    {"maximize", "foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay", "amsgrad", "nesterov"}
)
"""Settings that torch's optimizers got with the years: older files lack them, and torch fills them in."""
_TELLING = frozenset(
    {"amsgrad", "dampening", "betas", "alpha", "centered", "rho", "lr_decay", "initial_accumulator_value"}
    | {"momentum_decay", "etas", "step_sizes", "lambd", "t0", "max_iter", "history_size", "beta2_decay", "ns_steps"}
)
"""Settings that say which optimizer it was."""
_CAME_AND_WENT = frozenset({"verbose", "default_min_lr", "min_lr", "filled_in"})
"""What torch's schedulers keep in some versions only, or only this program."""


@dataclass(frozen=True)
class Told:
    """What numbers beside the weights say of a training."""

    progress: Progress
    metrics: Mapping[str, float]
    position: str
    """Where the training stood, as far as it is told: `step 96, epoch 3`; empty if it is not."""


@dataclass(frozen=True)
class Foreign:
    """What is in a file of another program."""

    told: Told
    saved: Mapping[str, Any]
    """`model`: the tensors by name; `optimizer`, `scheduler`, `scaler`: their own state dicts, where there are any."""
    unusable: Mapping[str, str]
    """What else is there for a part, and why it is none of `saved`."""
    notes: tuple[str, ...]
    """What else is there, and is not restored."""


def read_foreign(path: Path, which: str | int) -> Foreign:
    """Read a file, running nothing that is in it. Raises CheckpointError."""
    weights = read_weights(path, which)
    beside = weights.others
    found = {part: list(_states(beside, is_one)) for part, is_one in _KINDS.items()}
    unusable = {part: why for part, states in found.items() if states and (why := _why_not(states)) is not None}
    metadata = beside.get("metadata")
    told = told_by({**(metadata if isinstance(metadata, Mapping) else {}), **beside})
    used = {*STEPS, *EPOCHS, *told.metrics, *(state.key for states in found.values() for state in states)}
    rest = [str(key) for key, value in beside.items() if key not in used and not _nothing(value)]
    return Foreign(
        told,
        {
            "model": weights.tensors,
            **{part: states[0].value for part, states in found.items() if states and part not in unusable},
        },
        unusable,
        (*weights.notes, *([f"{', '.join(rest[:8])}: not restored"] if rest else [])),
    )


@dataclass(frozen=True)
class _State:
    """A state dict in a file: the key that it is under, how its place is written, and itself."""

    key: Any
    place: str
    value: Mapping[Any, Any]


def _states(values: Mapping[Any, Any], is_one: Callable[[Mapping[Any, Any]], bool]) -> Iterator[_State]:
    for key, value in values.items():
        if isinstance(value, list | tuple):
            yield from (_State(key, f"{key}[{i}]", one) for i, one in enumerate(value) if _is(one, is_one))
        elif _is(value, is_one):
            yield _State(key, str(key), value)


def _why_not(states: Sequence[_State]) -> str | None:
    """Why states of one kind cannot be used, if they cannot."""
    if len(states) > 1:
        places = ", ".join(state.place for state in states[:4])
        return f"the file has several ({places}), and which of them is meant cannot be known"
    try:
        built = _is_whole(states[0].value)
    except RecursionError:
        return f"{states[0].place} in the file is nested too deeply; it is no state"
    return None if built else f"{states[0].place} in the file holds what was not built, {_NUMPY}"


def _is(value: Any, is_one: Callable[[Mapping[Any, Any]], bool]) -> bool:
    return isinstance(value, Mapping) and is_one(value)


def _nothing(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping | list | tuple | str) and not value)


def told_by(values: Mapping[Any, Any]) -> Told:
    """What the numbers among `values` say: counts of steps and epochs, and scores by their names."""
    numbers = {key: _number(value) for key, value in values.items() if isinstance(key, str)}
    step, epoch = (
        next((count for key in keys if (count := _count(numbers.get(key))) is not None), None)
        for keys in (STEPS, EPOCHS)
    )
    parts = [f"{what} {count}" for what, count in (("step", step), ("epoch", epoch)) if count is not None]
    metrics = {
        key: float(number) for key, number in numbers.items() if number is not None and key not in (*STEPS, *EPOCHS)
    }
    return Told(Progress(step=step or 0, epoch=epoch or 0), metrics, ", ".join(parts))


def _number(value: Any) -> int | float | None:
    if isinstance(value, Tensor) and can_store(value) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(number: float | None) -> int | None:
    return int(number) if number is not None and number >= 0 and float(number).is_integer() else None


def optimizer_as_ours(
    saved: Mapping[str, Any], optimizer: Optimizer, model: nn.Module
) -> tuple[dict[str, Any], list[str]]:
    """The state dict of one of torch's optimizers as `optimizer_state.capture` gives it, and what does not fit.

    torch tells parameters by their numbers alone, in the order of the groups. So whose state is whose follows from
    that order, once all that can be compared is the same: the groups, how many parameters they have, and shapes. State
    of another shape than its parameter is left out; if more than that does not fit, the result is empty.
    """
    live = optimizer_state.capture(optimizer, model)
    problems = _group_problems(saved, optimizer)
    if problems:
        return {}, problems
    if "own" in live:
        return {"class": live["class"], "own": dict(saved)}, []
    problems = _name_problems(saved, live["groups"])
    if problems:
        return {}, problems
    names = {
        number: name
        for old, new in zip(saved["param_groups"], live["groups"], strict=True)
        for number, name in zip(old["params"], new["params"], strict=True)
    }
    groups = [
        {**{key: value for key, value in old.items() if key != "param_names"}, "params": new["params"]}
        for old, new in zip(saved["param_groups"], live["groups"], strict=True)
    ]
    state = {names[number]: values for number, values in saved["state"].items() if number in names}
    parameters = dict(model.named_parameters())
    for name, values in list(state.items()):
        if of_another := _shape_problems(name, values, parameters[name]):
            problems += of_another
            del state[name]
    shared = {key: value for key, value in saved["state"].items() if key not in names}
    ours = {"class": live["class"], "groups": groups, "state": state, "shared": shared}
    return ours, problems


def _group_problems(saved: Mapping[str, Any], optimizer: Optimizer) -> list[str]:
    then, now = saved["param_groups"], optimizer.param_groups
    if not _well_formed(saved):
        return ["its state in the file is not what torch's optimizers give"]
    if len(then) != len(now):
        return [f"{_counted(len(then), 'group')} of parameters in the file, and {len(now)} here"]
    problems = [
        f"group {i} has {_counted(len(old['params']), 'parameter')} in the file, and {len(new['params'])} here"
        for i, (old, new) in enumerate(zip(then, now, strict=True))
        if len(old["params"]) != len(new["params"])
    ]
    kind = type(optimizer).__name__
    lacking = sorted(optimizer.defaults.keys() - _LATER - then[0].keys())
    more = sorted((then[0].keys() & _TELLING) - now[0].keys())
    if lacking or more:
        told = [f"has no {', '.join(lacking)}"] if lacking else []
        told += [f"has {', '.join(more)}"] if more else []
        problems.insert(0, f"its state in the file {' and '.join(told)}, and is none of a {kind}")
    key = "decoupled_weight_decay"
    if isinstance(optimizer, torch.optim.Adam) and then[0].get(key, optimizer.defaults[key]) != optimizer.defaults[key]:
        problems.insert(0, f"{key} is {then[0][key]} in the file, so that it is none of an {kind}")
    return problems


def _name_problems(saved: Mapping[str, Any], live: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where a parameter has another name now. Optimizers know names if they were made of `named_parameters()`."""
    return [
        f"parameter {number} of group {i} is {then} in the file, and {now} here"
        for i, (old, new) in enumerate(zip(saved["param_groups"], live, strict=True))
        if isinstance(old.get("param_names"), list)
        for number, (then, now) in enumerate(zip(old["param_names"], new["params"], strict=False))
        # The names in the file may be those of something around the model.
        if not f".{unwrapped(str(then))}".endswith(f".{now}")
    ][:4]


def _well_formed(saved: Mapping[str, Any]) -> bool:
    groups, state = saved["param_groups"], saved["state"]
    return (
        isinstance(groups, list)
        and all(isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups)
        and all(isinstance(number, int | str) for group in groups for number in group["params"])
        and all(isinstance(group.get("lr"), int | float | Tensor | None) for group in groups)
        and isinstance(state, Mapping)
        and all(isinstance(values, Mapping) for key, values in state.items() if isinstance(key, int))
    )


def _is_whole(value: Any) -> bool:
    """Whether nothing in a value stands for something that was not built when its file was read."""
    if isinstance(value, Mapping):
        return not (type(value) is OrderedDict and not value) and all(map(_is_whole, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_whole, value))
    return value is None or isinstance(value, Tensor | int | float | complex | str | bytes | torch.dtype | torch.device)


def _shape_problems(name: str, values: Mapping[str, Any], parameter: Tensor) -> list[str]:
    there = {
        key: list(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        for key, value in values.items()
        if key in _ELEMENTWISE and value is not None
    }
    here = list(parameter.shape)
    return [
        f"{key} of {name} is {shape} in the file, and the parameter {here}"
        for key, shape in there.items()
        if shape != here
    ]


def scheduler_problem(saved: Mapping[str, Any], live: Mapping[str, Any], kind: str) -> str | None:
    """Why the state dict of a scheduler is none of one that has `live`, if it is not."""
    there, here = (
        {key for key in state if isinstance(key, str) and key not in _CAME_AND_WENT and not _is_about_itself(key)}
        for state in (saved, live)
    )
    if there != here:
        told = [f"has {', '.join(sorted(there - here))}"] if there - here else []
        told += [f"has no {', '.join(sorted(here - there))}"] if here - there else []
        return f"its state in the file {' and '.join(told)}, and is none of a {kind}"
    groups = [len(state["base_lrs"]) for state in (saved, live) if isinstance(state.get("base_lrs"), list)]
    if len(set(groups)) > 1:
        return f"{_counted(groups[0], 'group')} of parameters in the file, and {groups[1]} here"
    return None


def prefix_of(saved: Mapping[str, Any], live: Mapping[str, Any]) -> str:
    """What stands before every saved name and no name of the model, as in a LightningModule around it; mostly ""."""
    prefix = next(iter(saved), "").partition(".")[0] + "."
    bare_names = {name.removeprefix(prefix) for name in saved if name.startswith(prefix)}
    return prefix if len(bare_names) == len(saved) and bare_names == live.keys() else ""


def _is_about_itself(key: str) -> bool:
    return key.startswith("_") and key not in ("_schedulers", "_milestones")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
