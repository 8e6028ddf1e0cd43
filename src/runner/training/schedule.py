"""Learning rates over a training: closed forms of the step, and what drives them or torch's own schedulers.

A closed form has no state: the factor at a step depends on the step and the horizon alone. So a longer run follows
the longer curve from where it stands, and past the horizon the last value holds.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from runner.records import Progress


class Curve(Protocol):
    """A closed form: by what the initial learning rate is multiplied for the step after `step` finished ones."""

    def factor(self, step: int) -> float: ...


class Constant:
    """1, after a linear rise over the first `warmup_steps` steps."""

    def __init__(self, *, warmup_steps: int) -> None:
        self.warmup_steps = warmup_steps

    def factor(self, step: int) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1))


class Cosine:
    """A linear rise over the share `warmup` of the training, then half a cosine down to `final` (arXiv:1608.03983)."""

    def __init__(self, *, warmup: float, final: float, total_steps: int) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"scheduler.warmup is {warmup!r}; wanted a share of the training, at least 0 and below 1")
        self.final = final
        self.total_steps = total_steps
        self.warmup_steps = int(warmup * total_steps)

    def factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        passed = (min(step, self.total_steps) - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * passed))


class StepDecay:
    """`gamma` to the power of how often `every_epochs` epochs have passed."""

    def __init__(self, *, every_epochs: int, gamma: float, steps_per_epoch: int) -> None:
        self.gamma = gamma
        self.every_steps = every_epochs * steps_per_epoch

    def factor(self, step: int) -> float:
        return float(self.gamma ** (step // self.every_steps))


class OneCycle:
    """A cosine up from 1 / `start_divisor` over the share `rise`, then one down to 1 / `end_divisor` (arXiv:1708.07120)."""

    def __init__(self, *, rise: float, start_divisor: float, end_divisor: float, total_steps: int) -> None:
        if not 0 < rise < 1:
            raise ValueError(f"scheduler.rise is {rise!r}; wanted a share of the training between 0 and 1")
        self.start, self.end = 1 / start_divisor, 1 / end_divisor
        self.total_steps = total_steps
        self.top = rise * total_steps

    def factor(self, step: int) -> float:
        at = min(step, self.total_steps)
        if at < self.top:
            low, passed = self.start, at / self.top
            return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * passed))
        low, passed = self.end, (at - self.top) / max(1e-9, self.total_steps - self.top)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * passed))


class CurveScheduler:
    """Sets the learning rates of `optimizer` by a closed form. Its only state is each group's `initial_lr`."""

    def __init__(self, optimizer: Optimizer, curve: Curve) -> None:
        self.optimizer = optimizer
        self.curve = curve
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.set(0)

    def set(self, step: int) -> None:
        """Set the learning rates for the step after `step` finished ones."""
        factor = self.curve.factor(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def step(self, progress: Progress, metric: float | None) -> None:
        self.set(progress.step)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any], progress: Progress) -> None:
        self.set(progress.step)


class TorchScheduler:
    """One of torch's own schedulers, which counts for itself and keeps its own horizon."""

    def __init__(self, scheduler: LRScheduler) -> None:
        self.scheduler = scheduler

    def step(self, progress: Progress, metric: float | None) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if metric is not None and not math.isnan(metric):
                self.scheduler.step(metric)
        else:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], progress: Progress) -> None:
        self.scheduler.load_state_dict(dict(state))


Scheduler = CurveScheduler | TorchScheduler
