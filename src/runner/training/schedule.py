"""Learning rates over a training: closed forms of the step, and what drives them or torch's own schedulers.

A closed form has no state: the factor at a step depends on the step and the horizon alone. So a longer run follows
the longer curve from where it stands, and past the horizon the last value holds.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from runner.errors import ResumeError
from runner.records import Progress
from runner.training.optimizer_state import qualified_name
from runner.training.plan import recounted


class Curve(Protocol):
    """A closed form: by what the initial learning rate is multiplied for the step after `step` finished ones."""

    def factor(self, step: int) -> float: ...


def _check_length(total_steps: int) -> None:
    if total_steps < 1:
        raise ValueError(f"scheduler.total_steps is {total_steps!r}; wanted at least 1")


class Constant:
    """1, after a linear rise over the first `warmup_steps` steps."""

    def __init__(self, *, warmup_steps: int) -> None:
        if warmup_steps < 0:
            raise ValueError(f"scheduler.warmup_steps is {warmup_steps!r}; wanted at least 0")
        self.warmup_steps = warmup_steps

    def factor(self, step: int) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1))


class Cosine:
    """A linear rise over the share `warmup` of the training, then half a cosine down to `final` (arXiv:1608.03983)."""

    def __init__(self, *, warmup: float, final: float, total_steps: int) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"scheduler.warmup is {warmup!r}; wanted a share of the training, at least 0 and below 1")
        _check_length(total_steps)
        self.final = final
        self.total_steps = total_steps
        self.warmup_steps = int(warmup * total_steps)

    def factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        passed = (min(step, self.total_steps) - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * passed))


class StepDecay:
    """`gamma` to the power of how often `every_epochs` epochs have passed."""

    def __init__(self, *, every_epochs: int, gamma: float, steps_per_epoch: int) -> None:
        if every_epochs < 1 or steps_per_epoch < 1:
            raise ValueError(
                f"scheduler.every_epochs is {every_epochs!r} and steps_per_epoch {steps_per_epoch!r}; wanted at least 1"
            )
        self.gamma = gamma
        self.every_steps = every_epochs * steps_per_epoch

    def factor(self, step: int) -> float:
        return float(self.gamma ** (step // self.every_steps))


class OneCycle:
    """A cosine up from 1 / `start_divisor` over the share `rise`, then one down to 1 / `end_divisor`.

    As in arXiv:1708.07120.
    """

    def __init__(self, *, rise: float, start_divisor: float, end_divisor: float, total_steps: int) -> None:
        if not 0 < rise < 1:
            raise ValueError(f"scheduler.rise is {rise!r}; wanted a share of the training between 0 and 1")
        if not (start_divisor > 0 and end_divisor > 0):
            raise ValueError(
                f"scheduler.start_divisor is {start_divisor!r} and end_divisor {end_divisor!r}; wanted numbers above 0"
            )
        _check_length(total_steps)
        self.start, self.end = 1 / start_divisor, 1 / end_divisor
        self.total_steps = total_steps
        self.top = rise * total_steps

    def factor(self, step: int) -> float:
        at = min(step, self.total_steps)
        if at < self.top:
            low, passed = self.start, at / self.top
            return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * passed))
        low, passed = self.end, (at - self.top) / (self.total_steps - self.top)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * passed))


class CurveScheduler:
    """Sets the learning rates of `optimizer` by a closed form, at the times that `trainer.schedule` says.

    Its state is the step `at` which it did so last, and which `position` of the curve that was; each group holds its
    own `initial_lr`. Of a curve that is counted in epochs of `steps_per_epoch` the two differ once epochs have had
    another number of steps: the training is `ahead` of it then (see plan.py).
    """

    def __init__(
        self, optimizer: Optimizer, curve: Curve, *, steps_per_epoch: int | None = None, ahead: int = 0
    ) -> None:
        self.optimizer = optimizer
        self.curve = curve
        self.steps_per_epoch = steps_per_epoch
        self.ahead = ahead
        self.at = 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._follow(0)

    @property
    def kind(self) -> str:
        """The import path of the closed form's class."""
        return qualified_name(self.curve)

    def set(self, step: int) -> None:
        """Set the learning rates for the step after `step` finished ones."""
        self.at = step
        self._follow(step - self.ahead)

    def _follow(self, position: int) -> None:
        self.position = position
        factor = self.curve.factor(position)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def step(self, progress: Progress, metric: float | None) -> None:
        self.set(progress.step)

    def begin(self, progress: Progress) -> None:
        """Follow the curve from here on, in place of another scheduler."""
        self.set(progress.step)

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "position": self.position, "steps_per_epoch": self.steps_per_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.catch_up(state)

    def catch_up(self, state: Mapping[str, Any]) -> None:
        """Go on where the one that gave `state` stood. What the curve is follows from its settings alone."""
        self.set(state["at"])
        # The first checkpoints knew the step alone.
        then = state.get("steps_per_epoch")
        if then is not None and self.steps_per_epoch is not None:
            self._follow(recounted(state["position"], then, self.steps_per_epoch))


class TorchScheduler:
    """One of torch's own schedulers, which counts for itself and keeps its own horizon.

    `filled_in` are the lengths that it got from the runner. `steps_per_epoch` is among them where they were counted in
    epochs.
    """

    def __init__(self, scheduler: LRScheduler, *, filled_in: Mapping[str, int] | None = None) -> None:
        self.scheduler = scheduler
        self.filled_in = dict(filled_in or {})

    @property
    def kind(self) -> str:
        """The import path of the scheduler's class."""
        return qualified_name(self.scheduler)

    def step(self, progress: Progress, metric: float | None) -> None:
        if not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()
        elif metric is not None:
            # An infinite value would stay the best for ever, or the worst: what is not finite is never better.
            self.scheduler.step(metric if math.isfinite(metric) else self.scheduler.mode_worse)

    def begin(self, progress: Progress) -> None:
        """It counts for itself, from 0, as it was built."""

    def state_dict(self) -> dict[str, Any]:
        # As torch's LambdaLR does: a function is there again once the scheduler is built.
        own = {key: value for key, value in self.scheduler.state_dict().items() if not callable(value)}
        return own | {"filled_in": self.filled_in} if self.filled_in else own

    def fits(self, state: Mapping[str, Any]) -> bool:
        """Whether the one that gave `state` got the same lengths from the runner."""
        return bool(self.filled_in == state.get("filled_in", {}))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.scheduler.load_state_dict({key: value for key, value in state.items() if key != "filled_in"})
        self._note_stepped()

    def catch_up(self, state: Mapping[str, Any]) -> None:
        """Go on as far along as the one that gave `state`, with the settings that this one was built with.

        It takes the steps anew, from the learning rates with which it was built: what a setting changes inside of a
        scheduler, in one made of others or in a function of the user, only the scheduler itself knows. One that
        follows a score keeps what it has seen. Raises ResumeError if it cannot come that far.
        """
        self._note_stepped()
        live = self.scheduler
        if isinstance(live, ReduceLROnPlateau):
            live.last_epoch, live.cooldown_counter = state["last_epoch"], state["cooldown_counter"]
            if live.mode == state["mode"]:
                live.best, live.num_bad_epochs = state["best"], state["num_bad_epochs"]
            return
        count = _steps_in(state)
        then, now = (filled.get("steps_per_epoch") for filled in (state.get("filled_in", {}), self.filled_in))
        if then is not None and now is not None:
            count = recounted(count, then, now)
        try:
            for _ in range(count):
                live.step()
        except ValueError as error:
            raise ResumeError(
                f"scheduler: {self.kind} cannot go on after {count} steps with these settings ({error}); "
                "set others, or type +reset=[scheduler] to begin anew"
            ) from error

    def _note_stepped(self) -> None:
        # The optimizer has stepped, in the attempt before; otherwise torch warns of a wrong order (torch 2.13).
        vars(self.scheduler.optimizer)["_opt_called"] = True


Scheduler = CurveScheduler | TorchScheduler


def _steps_in(state: Mapping[str, Any]) -> int:
    """How many steps one of torch's schedulers has taken; one that is chained of others does not count for itself."""
    while "last_epoch" not in state and state.get("_schedulers"):
        state = state["_schedulers"][0]
    if "last_epoch" not in state:
        raise ResumeError(
            "scheduler: its saved state does not say after how many steps it was (`last_epoch`), so that it cannot go "
            "on with other settings; leave those out, or type +reset=[scheduler] to begin anew"
        )
    return int(state["last_epoch"])
