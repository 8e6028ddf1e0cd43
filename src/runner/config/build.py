"""From a config that was found good to the objects that train, built in one order and fitting together."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.checkpoint.naming import metrics_in
from runner.config.build_evaluation import compiled, evaluation_batches
from runner.config.build_optimizer import build_optimizer, build_scheduler
from runner.config.check import Settings
from runner.config.names import did_you_mean
from runner.config.nodes import build_data, build_model, device_of, instantiate
from runner.errors import ConfigError
from runner.records import World
from runner.training.plan import Horizon, Past, horizon

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer

    from runner.data.batches import AnyBatches
    from runner.data.data import Data
    from runner.training.objective import Objective
    from runner.training.state import TrainState


@dataclass(frozen=True)
class Training:
    """Everything that one training needs, built and fitting together."""

    state: "TrainState"
    objective: "Objective"
    data: "Data"
    train: "AnyBatches"
    validation: "AnyBatches | None"
    test: "AnyBatches | None"
    horizon: Horizon
    notes: tuple[str, ...]
    """What was built in another way than the config says, a line each."""

    def close(self) -> None:
        """Stop the worker processes."""
        for batches in (self.train, self.validation, self.test):
            if batches is not None:
                batches.close()


def build(
    config: Mapping[str, Any], settings: Settings, *, seed: int, world: World | None = None, past: Past | None = None
) -> Training:
    """Build all that `config` (resolved, plain) declares; `past` is that of a training that is gone on with.

    The generators are seeded with `seed` first, so that equal configs begin with equal weights. Raises ConfigError,
    with every mistake at once, where the parts do not fit together.
    """
    from runner.data.loader_batches import LoaderBatches
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
    train, validation, test = _batches(settings, data, device, seed=seed, world=world or World())
    optimizer = build_optimizer(config["optimizer"], model, device, notes)
    _check_precision(settings, optimizer)
    ends = horizon(settings.trainer, train.num_batches, past)
    _check_passes(settings, optimizer, ends)
    scheduler = build_scheduler(config["scheduler"], optimizer, ends, max_steps=settings.trainer.max_steps)
    network = compiled(model) if settings.runtime.compile else model
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
    if isinstance(train, LoaderBatches):
        notes += train.notes
    return Training(state, objective, data, train, validation, test, ends, tuple(notes))


def _batches(
    settings: Settings, data: "Data", device: "torch.device", *, seed: int, world: World
) -> tuple["AnyBatches", "AnyBatches | None", "AnyBatches | None"]:
    from runner.data.batches import make_batches

    batching, limits = settings.batching, settings.trainer.limits
    train = make_batches(
        data.train,
        batch_size=batching.batch_size,
        shuffle=batching.shuffle,
        drop_last=batching.drop_last,
        seed=seed,
        workers=settings.runtime.workers,
        collate=data.collate,
        world=world,
        pin_memory=device.type == "cuda",
        limit=limits.train_batches,
    )
    evaluated = partial(
        evaluation_batches,
        data=data,
        batching=batching,
        limits=limits,
        runtime=settings.runtime,
        device=device,
        seed=seed,
        world=world,
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
    else:
        names = metric_names(objective, "validation")
        asked = {} if settings.monitor is None else {"monitor.metric": (settings.monitor.metric, names)}
        # A checkpoint carries the training's own two as well, and at the end the scores of the test.
        carried = (*names, *metric_names(objective, "test"), "loss", "lr")
        best, name = settings.checkpoint.keep.best, settings.checkpoint.name
        if isinstance(best, Mapping):
            asked |= {f"checkpoint.keep.best.{metric}": (metric, carried) for metric in best}
        asked |= {f"{{{metric}}} in checkpoint.name": (metric, carried) for metric in metrics_in(name)}
        problems = [
            f"{key} is {metric!r}, and an evaluation gives {', '.join(given)}{did_you_mean(metric, given)}"
            for key, (metric, given) in asked.items()
            if metric not in given
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


def _check_passes(settings: Settings, optimizer: "Optimizer", ends: Horizon) -> None:
    from runner.training.optimizer_state import takes_one_pass

    max_epochs, total, per_epoch = settings.trainer.max_epochs, ends.total_steps, ends.steps_per_epoch
    by_steps = total is not None and per_epoch is not None and total <= per_epoch
    if takes_one_pass(optimizer) and max_epochs != 1 and not by_steps:
        now = "null" if max_epochs is None else max_epochs
        raise ConfigError(
            f"trainer.max_epochs is {now}, and {type(optimizer).__name__} takes one pass over the data, for a second "
            "one would count the same again; set trainer.max_epochs=1"
        )
