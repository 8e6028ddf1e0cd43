"""The state of an optimizer by parameter name, so that it outlives a change of their order.

torch numbers parameters in the order they were given; a name says which one is meant.
"""

import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

_HOW = ("foreach", "fused", "capturable", "differentiable")
"""Settings of a group that say how it is computed, not what: a matter of this machine, and of how it was built."""
_KEPT_FOR = {"amsgrad": "max_exp_avg_sq", "centered": "grad_avg", "momentum": "momentum_buffer"}
"""What torch's optimizers keep for each parameter because of a setting, and expect to find once they have begun."""


def qualified_name(value: object) -> str:
    """The import path of the class of `value`."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether `optimizer.step` evaluates the model itself, as LBFGS does."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def takes_one_pass(optimizer: Optimizer) -> bool:
    """Whether it has all it can have after one pass over the data, as a closed form says of itself by `one_pass`."""
    return bool(getattr(optimizer, "one_pass", False))


def _keeps_its_own(optimizer: Optimizer) -> bool:
    return type(optimizer).state_dict is not Optimizer.state_dict


def capture(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """Class, groups and per-parameter state; tensors are the live ones."""
    kind = {"class": qualified_name(optimizer)}
    if _keeps_its_own(optimizer):
        return kind | {"own": optimizer.state_dict()}
    names = _names(model)
    groups = [
        {key: value for key, value in group.items() if key != "params"} | {"params": params}
        for group, params in zip(optimizer.param_groups, _names_by_group(optimizer, names), strict=True)
    ]
    state = {names[key]: dict(values) for key, values in optimizer.state.items() if isinstance(key, nn.Parameter)}
    shared = {key: value for key, value in optimizer.state.items() if not isinstance(key, nn.Parameter)}
    return kind | {"groups": groups, "state": state, "shared": shared}


def by_index(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What `capture` gave as torch itself has it: parameters by number, in the order in which the groups have them."""
    if "own" in saved:
        return dict(saved["own"])
    numbers = {
        name: number for number, name in enumerate(name for group in saved["groups"] for name in group["params"])
    }
    groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in saved["groups"]]
    state = {numbers[name]: values for name, values in saved["state"].items()}
    return {"state": {**state, **saved["shared"]}, "param_groups": groups}


def same_groups(optimizer: Optimizer, model: nn.Module, saved: Mapping[str, Any]) -> bool:
    """Whether there are as many groups as in `saved`, and no parameter has moved from one to another."""
    if "own" in saved:
        return True
    live = _names_by_group(optimizer, _names(model))
    then = [group["params"] for group in saved["groups"]]
    before = {name: i for i, names in enumerate(then) for name in names}
    return len(live) == len(then) and all(before.get(name, i) == i for i, names in enumerate(live) for name in names)


def rates(saved: Mapping[str, Any]) -> list[float]:
    """The learning rate of each group in what `capture` gave."""
    groups = saved["own"].get("param_groups", []) if "own" in saved else saved["groups"]
    return [float(group["lr"]) for group in groups if "lr" in group]


def restore(optimizer: Optimizer, model: nn.Module, saved: Mapping[str, Any]) -> list[str]:
    """Load what `capture` gave into `optimizer`, each tensor with its own dtype; returns a line for state left out.

    A parameter that the saved optimizer did not have starts without state. The groups' settings are restored if no
    parameter has moved from one group to another, else they stay what they are.
    """
    if "own" in saved:
        optimizer.load_state_dict(saved["own"])
        return []
    if same_groups(optimizer, model, saved):
        restore_settings(optimizer, saved)
    return restore_state(optimizer, model, saved)


def restore_settings(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Give each group the settings that it had, learning rate included. Only where the groups are the same."""
    for live, old in zip(optimizer.param_groups, saved["groups"], strict=True):
        live.update({key: value for key, value in old.items() if key not in ("params", *_HOW)})


def restore_state(optimizer: Optimizer, model: nn.Module, saved: Mapping[str, Any]) -> list[str]:
    """Give each parameter the state that it had, under the settings that its group has now; returns what was not."""
    state, notes = _state_of(optimizer, model, saved)
    # As Optimizer.load_state_dict does, but without its cast of every state to the dtype of the parameter.
    optimizer.__setstate__({"state": state, "param_groups": optimizer.param_groups})
    return notes


def _state_of(
    optimizer: Optimizer, model: nn.Module, saved: Mapping[str, Any]
) -> tuple[defaultdict[Any, Any], list[str]]:
    """The saved state keyed by the live parameters, and a line for what has no place."""
    state: defaultdict[Any, Any] = defaultdict(dict, saved["shared"])
    then = [name for group in saved["groups"] for name in group["params"]]
    names = _names(model)
    if isinstance(optimizer, LBFGS) and _names_by_group(optimizer, names) != [then]:
        return state, ["the optimizer's state: LBFGS keeps one for all parameters together, and they are others now"]
    notes, added = [], set()
    live = {names[parameter]: (parameter, group) for group in optimizer.param_groups for parameter in group["params"]}
    for name, values in saved["state"].items():
        if name not in live:
            notes.append(f"the optimizer's state of {name!r}: it trains no such parameter now")
            continue
        parameter, group = live[name]
        counts_on_device = bool(group.get("fused") or group.get("capturable"))
        state[parameter] = {
            key: _placed(value, parameter, on_device=key != "step" or counts_on_device) for key, value in values.items()
        }
        if isinstance(optimizer, LBFGS):
            _fit_history(state[parameter], group["history_size"])
        for setting, key in _KEPT_FOR.items():
            if values and group.get(setting) and key not in values:
                state[parameter][key] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                added.add(f"the optimizer's {key}: the checkpoint has none; with {setting} it starts from zero")
    return state, [*notes, *sorted(added)]


def _fit_history(values: dict[str, Any], size: int) -> None:
    """LBFGS remembers so many of its last steps; what it has room for is set up but once."""
    if len(values.get("al", ())) not in (0, size):
        del values["al"]
        for key in ("old_dirs", "old_stps", "ro"):
            values[key] = values[key][-size:]


def _names(model: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def _names_by_group(optimizer: Optimizer, names: Mapping[nn.Parameter, str]) -> list[list[str]]:
    return [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]


def _placed(value: Any, parameter: nn.Parameter, *, on_device: bool) -> Any:
    """`value` where the optimizer wants it: beside its parameter, or on the CPU."""
    if isinstance(value, Tensor):
        value = value.to(parameter.device if on_device else "cpu")
        if value.shape == parameter.shape and value.stride() != parameter.stride():
            # In the memory order of its parameter, as it was made: kernels choose their way by it.
            return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        return value
    if isinstance(value, Mapping):
        return {key: _placed(item, parameter, on_device=on_device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_placed(item, parameter, on_device=on_device) for item in value)
    return value
