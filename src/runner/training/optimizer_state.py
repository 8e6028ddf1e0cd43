"""The state of an optimizer by parameter name, so that it outlives a change of their order.

torch numbers parameters in the order they were given; a name says which one is meant.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


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
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        | {"params": [names[parameter] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    state = {names[parameter]: dict(values) for parameter, values in optimizer.state.items()}
    return kind | {"groups": groups, "state": state}


def restore(optimizer: Optimizer, model: nn.Module, saved: Mapping[str, Any]) -> list[str]:
    """Load what `capture` gave into `optimizer`, each tensor with its own dtype; returns a line for what was left out.

    A parameter that the saved optimizer did not have starts without state. Groups are matched by their order where
    they hold the same parameters, else their settings stay those of the config.
    """
    if "own" in saved:
        optimizer.load_state_dict(saved["own"])
        return []
    notes = []
    parameters = dict(model.named_parameters())
    state: dict[nn.Parameter, Any] = {}
    for name, values in saved["state"].items():
        if name in parameters:
            state[parameters[name]] = {
                key: _placed(key, value, parameters[name], optimizer) for key, value in values.items()
            }
        else:
            notes.append(f"the optimizer's state of {name!r}: the model has no such parameter")
    names = {parameter: name for name, parameter in parameters.items()}
    groups = []
    same = [[names[p] for p in group["params"]] for group in optimizer.param_groups] == [
        group["params"] for group in saved["groups"]
    ]
    if not same:
        notes.append("the settings of the optimizer's groups: they hold other parameters now")
    for live, old in zip(optimizer.param_groups, saved["groups"] if same else optimizer.param_groups, strict=True):
        groups.append({**live, **{key: value for key, value in old.items() if key != "params"}})
    optimizer.__setstate__({"state": _per_parameter(optimizer, state), "param_groups": groups})
    return notes


def _per_parameter(optimizer: Optimizer, state: dict[nn.Parameter, Any]) -> Any:
    fresh = type(optimizer.state)(dict)
    fresh.update(state)
    return fresh


def _placed(key: str, value: Any, parameter: nn.Parameter, optimizer: Optimizer) -> Any:
    """`value` where the optimizer wants it: beside its parameter, but a step count only for fused or capturable ones."""
    if isinstance(value, torch.Tensor):
        group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
        if key == "step" and not (group.get("fused") or group.get("capturable")):
            return value.cpu()
        return value.to(parameter.device)
    if isinstance(value, list):
        return [_placed("", item, parameter, optimizer) for item in value]
    return value
