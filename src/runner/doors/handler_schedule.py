"""The learning rates of a handler: torch's schedulers as the engine drives them, and none at all."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from runner.errors import ConfigError
from runner.training.schedule import Constant, CurveScheduler, Scheduler, TorchScheduler


def driven(built: Any) -> TorchScheduler:
    """A scheduler as the engine drives it. ConfigError for what is none."""
    if not isinstance(built, LRScheduler):
        raise ConfigError(f"set_scheduler: made a {type(built).__name__}; wanted one of torch's schedulers")
    return TorchScheduler(built)


def unscheduled(optimizer: Optimizer) -> CurveScheduler:
    """Keeps the learning rates that the groups have when a training begins."""
    scheduler = CurveScheduler(optimizer, Constant(warmup_steps=0))
    forget_rates(optimizer)
    return scheduler


def keep_rates(optimizer: Optimizer) -> None:
    """Where no scheduler was set, let the rates of now stay: the user may have changed them."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]


def forget_rates(optimizer: Optimizer) -> None:
    """Let a scheduler that is made later begin from the rates that there are then."""
    for group in optimizer.param_groups:
        group.pop("initial_lr", None)


def set_rates(optimizer: Optimizer, rates: Sequence[float]) -> None:
    """Let the groups have these learning rates."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def holds_schedulers(arguments: Mapping[str, Any]) -> bool:
    """Whether schedulers are among the arguments of one, as SequentialLR has them: they have set the rates already."""
    values = [item for value in arguments.values() for item in (value if isinstance(value, list | tuple) else [value])]
    return any(isinstance(value, LRScheduler) for value in values)


def schedule_of(scheduler: Scheduler) -> str:
    """After what it is stepped: torch's own counts epochs, but for those whose length is counted in steps."""
    if isinstance(scheduler, CurveScheduler):
        return "step"
    if isinstance(scheduler.scheduler, ReduceLROnPlateau):
        return "evaluation"
    return "step" if isinstance(scheduler.scheduler, OneCycleLR | CyclicLR) else "epoch"
