"""From a config that was found good to the objects that train: the only place that instantiates targets."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from runner.config.check import Settings
from runner.config.names import did_you_mean
from runner.errors import ConfigError
from runner.records import World
from runner.training.plan import Horizon, horizon

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

    from runner.data.batches import Batches
    from runner.data.data import Data
    from runner.data.loader_batches import LoaderBatches
    from runner.training.objective import Objective
    from runner.training.schedule import Scheduler
    from runner.training.state import TrainState

OWN_DATA_KEYS = ("batch_size", "evaluation_batch_size", "shuffle", "drop_last")
"""Keys of `data` that are the runner's; the others are arguments of its target."""


@dataclass(frozen=True)
class Training:
    """Everything that one training needs, built and fitting together."""

    state: "TrainState"
    objective: "Objective"
    data: "Data"
    train: "Batches | LoaderBatches"
    validation: "Batches | LoaderBatches | None"
    test: "Batches | LoaderBatches | None"
    horizon: Horizon
    notes: tuple[str, ...]
    """What was built in another way than the config says, a line each."""

    def close(self) -> None:
        """Stop the worker processes."""
        for batches in (self.train, self.validation, self.test):
            if batches is not None:
                batches.close()


def build(config: Mapping[str, Any], settings: Settings, *, seed: int, world: World | None = None) -> Training:
    """Build all that `config` (resolved, plain) declares.

    The generators are seeded with `seed` first, so that equal configs begin with equal weights. Raises ConfigError,
    with every mistake at once, where the parts do not fit together.
    """
    from runner.training.generators import seed_all
    from runner.training.precision import gradient_scaler
    from runner.training.state import Stateful, TrainState

    notes: list[str] = []
    seed_all(seed)
    device = device_of(settings.runtime.device)
    model = build_model(config).to(device)
    data = build_data(config)
    objective: Objective = instantiate(config["objective"], "objective")
    _check_fit(settings, data, objective)
    train, validation, test = _batches(config, settings, data, device, seed=seed, world=world or World())
    optimizer = _build_optimizer(config["optimizer"], model, device, notes)
    _check_precision(settings, optimizer)
    ends = horizon(settings.trainer, train.num_batches)
    scheduler = _build_scheduler(config["scheduler"], optimizer, ends)
    network = _compiled(model) if settings.runtime.compile else model
    state = TrainState(
        model=model,
        network=network,
        optimizer=optimizer,
        scheduler=scheduler,
        device=device,
        scaler=gradient_scaler(settings.trainer.precision, device),
        ema_decay=settings.trainer.ema_decay,
        monitor=settings.monitor,
        min_delta=settings.trainer.early_stopping.min_delta,
    )
    if isinstance(objective, Stateful):
        state.own["objective"] = objective
    if train.state_dict():
        state.own["batches"] = train
    return Training(state, objective, data, train, validation, test, ends, tuple(notes))


def build_model(config: Mapping[str, Any]) -> "nn.Module":
    """The model of `config`, with the weights it is born with. Raises ConfigError if it is none."""
    from torch import nn

    model = instantiate(config["model"], "model")
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model._target_={config['model']['_target_']}: built {type(model).__name__}; "
            "wanted a torch.nn.Module, or a function that returns one"
        )
    return model


def build_data(config: Mapping[str, Any]) -> "Data":
    """The data of `config`. Raises ConfigError if its target gives something else."""
    from runner.data.data import Data

    node = {key: value for key, value in config["data"].items() if key not in OWN_DATA_KEYS}
    data = instantiate(node, "data")
    if not isinstance(data, Data):
        raise ConfigError(
            f"data._target_={node['_target_']}: built {type(data).__name__}; "
            "wanted a runner.Data(train=..., validation=..., test=...)"
        )
    return data


def instantiate(node: Mapping[str, Any], where: str, **filled: Any) -> Any:
    """Call the `_target_` of `node`, nested ones first, with its other keys and `filled` as arguments.

    Raises ConfigError, naming `where`, if the target refuses its arguments.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as build_node

    from runner.errors import RunnerError

    try:
        return build_node(dict(node), _convert_="all", **filled)
    except InstantiationException as e:
        cause = e.__cause__
        if isinstance(cause, RunnerError):
            raise cause from None
        shown = f"{type(cause).__name__}: {cause}" if cause is not None else str(e).splitlines()[0]
        raise ConfigError(f"{where}._target_={node['_target_']}: could not be built: {shown}") from e


def device_of(name: str) -> "torch.device":
    """The device that `runtime.device` names; `auto` is the first of cuda, mps, cpu. ConfigError if it is not there."""
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    kind = name.partition(":")[0]
    if kind in present and not present[kind]:
        here = ", ".join(device for device, there in present.items() if there)
        raise ConfigError(f"runtime.device is {name!r}, and this machine has only {here}; use runtime.device=auto")
    try:
        return torch.device(name)
    except RuntimeError as e:
        raise ConfigError(f"runtime.device is {name!r}; wanted auto, cpu, cuda, cuda:N or mps") from e


def _batches(
    config: Mapping[str, Any], settings: Settings, data: "Data", device: "torch.device", *, seed: int, world: World
) -> tuple["Batches | LoaderBatches", "Batches | LoaderBatches | None", "Batches | LoaderBatches | None"]:
    from runner.data.batches import make_batches

    node, limits = config["data"], settings.trainer.limits
    make = partial(
        make_batches,
        seed=seed,
        workers=settings.runtime.workers,
        collate=data.collate,
        world=world,
        pin_memory=device.type == "cuda",
    )
    train = make(
        data.train,
        batch_size=node["batch_size"],
        shuffle=node["shuffle"],
        drop_last=node["drop_last"],
        limit=limits.train_batches,
    )
    evaluated = partial(
        make,
        batch_size=node["evaluation_batch_size"],
        shuffle=False,
        drop_last=False,
        limit=limits.evaluation_batches,
        resumable=False,
    )
    validation, test = (None if split is None else evaluated(split) for split in (data.validation, data.test))
    return train, validation, test


def _check_fit(settings: Settings, data: "Data", objective: "Objective") -> None:
    """Everything that watches the validation split needs one, and the monitored metric must be among its metrics."""
    from runner.training.evaluate import metric_names

    problems = []
    if data.validation is None:
        wants = {
            "trainer.evaluate.every_epochs": settings.trainer.evaluate.every_epochs,
            "trainer.evaluate.every_steps": settings.trainer.evaluate.every_steps,
            "trainer.early_stopping.patience": settings.trainer.early_stopping.patience,
            "monitor": settings.monitor,
        }
        problems = [
            f"{key} is set, and the data have no validation split; set {key}=null, or give Data(validation=...)"
            for key, value in wants.items()
            if value is not None
        ]
    elif settings.monitor is not None:
        names = metric_names(objective, "validation")
        if settings.monitor.metric not in names:
            hint = did_you_mean(settings.monitor.metric, names)
            problems = [
                f"monitor.metric is {settings.monitor.metric!r}, and an evaluation gives {', '.join(names)}{hint}"
            ]
    if problems:
        raise ConfigError(problems)


def _check_precision(settings: Settings, optimizer: "Optimizer") -> None:
    from runner.training.optimizer_state import needs_closure

    if settings.trainer.precision == "fp16" and needs_closure(optimizer):
        raise ConfigError(
            f"trainer.precision is 'fp16', and {type(optimizer).__name__} evaluates the model itself, which a gradient "
            "scaler does not allow; use trainer.precision=bf16 or fp32"
        )


def _build_optimizer(
    node: Mapping[str, Any], model: "nn.Module", device: "torch.device", notes: list[str]
) -> "Optimizer":
    from torch.optim import Optimizer

    arguments = {key: value for key, value in node.items() if key != "groups"}
    groups = _groups(model, node.get("groups", []))
    if arguments.get("fused") and not _fusible(model, device):
        arguments["fused"] = False
        notes.append(
            f"optimizer.fused: there is no fused kernel for these parameters on {device}; the plain one is used"
        )
    make = instantiate({**arguments, "_partial_": True}, "optimizer")
    try:
        optimizer = make(groups)
    except (TypeError, ValueError, RuntimeError) as e:
        raise ConfigError(f"optimizer._target_={node['_target_']}: could not be built: {e}") from e
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"optimizer._target_={node['_target_']}: built {type(optimizer).__name__}; wanted a torch.optim.Optimizer"
        )
    return optimizer


def _fusible(model: "nn.Module", device: "torch.device") -> bool:
    trained = [p for p in model.parameters() if p.requires_grad]
    return device.type in ("cpu", "cuda", "mps") and all(p.is_floating_point() for p in trained)


def _groups(model: "nn.Module", rules: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Parameter groups: of each parameter that is trained, the first rule whose `match` fits its name holds."""
    problems, members = [], [[] for _ in range(len(rules) + 1)]  # type: tuple[list[str], list[list[Any]]]
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    for i, rule in enumerate(rules):
        if not isinstance(rule, Mapping) or not isinstance(rule.get("match"), str):
            problems.append(
                f"optimizer.groups[{i}] is {rule!r}; wanted a pattern and settings: {{match: '*.bias', lr: 0.1}}"
            )
        elif not any(fnmatchcase(name, rule["match"]) for name, _ in trained):
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


def _build_scheduler(node: Mapping[str, Any], optimizer: "Optimizer", ends: Horizon) -> "Scheduler":
    """Our closed forms get the horizon that they ask for; torch's schedulers get the optimizer."""
    from torch.optim.lr_scheduler import LRScheduler

    from runner.training.schedule import CurveScheduler, TorchScheduler

    filled: dict[str, Any] = {}
    for name in ("total_steps", "steps_per_epoch"):
        if name in _parameters(node["_target_"]) and (name not in node or node[name] is None):
            value = getattr(ends, name)
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
    if isinstance(built, LRScheduler):
        return TorchScheduler(built)
    if callable(getattr(built, "factor", None)):
        return CurveScheduler(optimizer, built)
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


def _compiled(model: "nn.Module") -> "nn.Module":
    import torch

    return cast("nn.Module", torch.compile(model))
