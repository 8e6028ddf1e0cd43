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


def qualified_name(value: object) -> str:
    """The import path of the class of `value`."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether `optimizer.step` evaluates the model itself, as LBFGS does."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


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


def restore(optimizer: Optimizer, model: nn.Module, saved: Mapping[str, Any]) -> list[str]:
    """Load what `capture` gave into `optimizer`, each tensor with its own dtype; returns a line for what was left out.

    A parameter that the saved optimizer did not have starts without state. The groups' settings are restored if no
    parameter has moved from one group to another, else they stay those of the config.
    """
    if "own" in saved:
        optimizer.load_state_dict(saved["own"])
        return []
    notes = []
    if same_groups(optimizer, model, saved):
        for live, old in zip(optimizer.param_groups, saved["groups"], strict=True):
            live.update({key: value for key, value in old.items() if key != "params"})
    else:
        notes.append("the settings of the optimizer's groups: they hold other parameters now")
    state, left_out = _state_of(optimizer, model, saved)
    # As Optimizer.load_state_dict does, but without its cast of every state to the dtype of the parameter.
    optimizer.__setstate__({"state": state, "param_groups": optimizer.param_groups})
    return notes + left_out


def _state_of(
    optimizer: Optimizer, model: nn.Module, saved: Mapping[str, Any]
) -> tuple[defaultdict[Any, Any], list[str]]:
    """The saved state keyed by the live parameters, and a line for what has no place."""
    state: defaultdict[Any, Any] = defaultdict(dict, saved["shared"])
    then = [name for group in saved["groups"] for name in group["params"]]
    names = _names(model)
    if isinstance(optimizer, LBFGS) and _names_by_group(optimizer, names) != [then]:
        return state, ["the optimizer's state: LBFGS keeps one for all parameters together, and they are others now"]
    notes = []
    live = {
        names[parameter]: (parameter, bool(group.get("fused") or group.get("capturable")))
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, values in saved["state"].items():
        if name in live:
            parameter, counts_on_device = live[name]
            state[parameter] = {
                key: _placed(value, parameter, on_device=key != "step" or counts_on_device)
                for key, value in values.items()
            }
        else:
            notes.append(f"the optimizer's state of {name!r}: it trains no such parameter now")
    return state, notes


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
