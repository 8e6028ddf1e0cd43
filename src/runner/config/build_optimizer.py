"""The optimizer of a config, with its parameter groups, and the scheduler that drives it."""

import inspect
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from runner.config.names import did_you_mean
from runner.config.nodes import instantiate
from runner.config.targets import GROUP_LEVEL, parameters_of
from runner.errors import ConfigError
from runner.training.plan import Horizon

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

    from runner.training.schedule import Scheduler


def build_optimizer(
    node: Mapping[str, Any], model: "nn.Module", device: "torch.device", notes: list[str]
) -> "Optimizer":
    """The optimizer that `node` names, for the parameters of `model` that are trained, in groups by `node.groups`.

    One whose first parameter is called `model` is given the model itself, as a closed form or a second-order optimizer
    needs it; it chooses its parameters, so that there are no groups then. A line for what is not as asked for is added
    to `notes`. Raises ConfigError.
    """
    from torch.optim import Optimizer

    arguments = {key: value for key, value in node.items() if key not in GROUP_LEVEL["optimizer"]}
    rules = node.get("groups") or []
    groups = _groups(model, rules)
    if arguments.get("fused") and not _fusible(model, device):
        arguments["fused"] = False
        notes.append(
            f"optimizer.fused: there is no fused kernel for these parameters on {device}; the plain one is used"
        )
    make = instantiate({**arguments, "_partial_": True}, "optimizer")
    takes_model = _takes_model(node["_target_"])
    if takes_model and rules:
        raise ConfigError(f"optimizer.groups: {node['_target_']} takes the whole model, and no groups; leave them out")
    try:
        optimizer = make(model if takes_model else groups)
    except (TypeError, ValueError, RuntimeError) as e:
        raise ConfigError(f"optimizer._target_={node['_target_']}: could not be built: {e}") from e
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"optimizer._target_={node['_target_']}: built {type(optimizer).__name__}; wanted a torch.optim.Optimizer"
        )
    # torch takes any key in a group, and reads those that it knows.
    problems = [
        f"optimizer.groups[{i}].{key}: {type(optimizer).__name__} has no such setting"
        f"{did_you_mean(key, optimizer.defaults, prefix=f'optimizer.groups[{i}].')}"
        for i, rule in enumerate(rules)
        for key in rule
        if key != "match" and key not in optimizer.defaults
    ]
    if problems:
        raise ConfigError(problems)
    return optimizer


def _takes_model(target: str) -> bool:
    from hydra.utils import get_object

    return next(iter(parameters_of(get_object(target)) or ()), None) == "model"


def _fusible(model: "nn.Module", device: "torch.device") -> bool:
    trained = [p for p in model.parameters() if p.requires_grad]
    return device.type in ("cpu", "cuda", "mps") and all(p.is_floating_point() for p in trained)


def _groups(model: "nn.Module", rules: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Parameter groups: of each parameter that is trained, the first rule whose `match` fits its name holds."""
    problems, members = [], [[] for _ in range(len(rules) + 1)]  # type: tuple[list[str], list[list[Any]]]
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    for i, rule in enumerate(rules):
        if not any(fnmatchcase(name, rule["match"]) for name, _ in trained):
            hint = did_you_mean(rule["match"], [name for name, _ in trained])
            problems.append(f"optimizer.groups[{i}].match is {rule['match']!r}, which fits no trained parameter{hint}")
    if not trained:
        problems.append(
            f"model: {type(model).__name__} has no parameter to train; every one is frozen, or there is none"
        )
    if problems:
        raise ConfigError(problems)
    for name, parameter in trained:
        first = next((i for i, rule in enumerate(rules) if fnmatchcase(name, rule["match"])), len(rules))
        members[first].append(parameter)
    settings = [{key: value for key, value in rule.items() if key != "match"} for rule in rules] + [{}]
    return [{"params": found, **own} for found, own in zip(members, settings, strict=True) if found]


def build_scheduler(
    node: Mapping[str, Any], optimizer: "Optimizer", ends: Horizon, *, max_steps: int | None = None
) -> "Scheduler":
    """Our closed forms get the horizon that they ask for; torch's schedulers get the optimizer.

    `max_steps` is `trainer.max_steps`: where it is what ends the training, the horizon is not counted in epochs.
    """
    from torch.optim.lr_scheduler import LRScheduler

    from runner.training.schedule import CurveScheduler, TorchScheduler

    by_epochs, filled = ends.total_steps != max_steps, dict[str, Any]()
    for name in ("total_steps", "steps_per_epoch"):
        if name in _parameters(node["_target_"]) and (name not in node or node[name] is None):
            value = getattr(ends, name)
            if name == "total_steps" and by_epochs and value is not None:
                value -= ends.ahead
            if value is None:
                raise ConfigError(
                    f"scheduler._target_={node['_target_']}: needs {name}, which is not known here; "
                    f"set scheduler.{name} or trainer.max_steps, or use scheduler=constant"
                )
            filled[name] = value
    try:
        built = _with_optimizer({**node, **filled}, optimizer)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"scheduler._target_={node['_target_']}: could not be built: {e}") from e
    steps_per_epoch = None
    if "steps_per_epoch" in filled or ("total_steps" in filled and by_epochs):
        steps_per_epoch = ends.steps_per_epoch
    if isinstance(built, LRScheduler):
        if steps_per_epoch is not None:
            filled["steps_per_epoch"] = steps_per_epoch
        return TorchScheduler(built, filled_in=filled)
    if callable(getattr(built, "factor", None)):
        ahead = 0 if steps_per_epoch is None else ends.ahead
        return CurveScheduler(optimizer, built, steps_per_epoch=steps_per_epoch, ahead=ahead)
    raise ConfigError(
        f"scheduler._target_={node['_target_']}: built {type(built).__name__}; wanted a torch scheduler or an object "
        "with factor(step)"
    )


def _with_optimizer(node: Mapping[str, Any], optimizer: "Optimizer") -> Any:
    """Build a scheduler; it and the schedulers among its arguments, as SequentialLR has them, get the optimizer."""

    def built(value: Any) -> Any:
        if isinstance(value, list):
            return [built(item) for item in value]
        if not isinstance(value, Mapping) or "_target_" not in value:
            return value
        if "optimizer" in _parameters(value["_target_"]):
            return _with_optimizer(value, optimizer)
        return instantiate(value, "scheduler")

    from hydra.utils import get_object

    arguments = {key: built(value) for key, value in node.items() if key != "_target_"}
    if "optimizer" in _parameters(node["_target_"]):
        arguments["optimizer"] = optimizer
    return get_object(node["_target_"])(**arguments)


def _parameters(target: str) -> Mapping[str, inspect.Parameter]:
    from hydra.utils import get_object

    return inspect.signature(get_object(target)).parameters
