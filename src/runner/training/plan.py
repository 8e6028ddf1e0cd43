"""How long and how to train: the typed settings of `trainer`, and the pure questions that the loop asks of them."""

from dataclasses import dataclass
from typing import Any

from runner.records import Progress

PRECISIONS = ("fp32", "bf16", "fp16")
SCHEDULES = ("step", "epoch", "evaluation")
NONFINITE = ("stop", "skip")
WEIGHTS = ("raw", "averaged")


def _refuse(*problems: str | None) -> None:
    """Raise ValueError with every problem that there is, a line each."""
    found = [problem for problem in problems if problem is not None]
    if found:
        raise ValueError("\n".join(found))


def _unless(condition: bool, message: str) -> str | None:
    return None if condition else message


def _at_least(name: str, value: float, least: float) -> str | None:
    return _unless(value >= least, f"{name} is {value!r}; wanted a number of at least {least}")


def _at_least_1_or_null(name: str, value: int | None) -> str | None:
    return _unless(value is None or value >= 1, f"{name} is {value!r}; wanted a number of at least 1, or null")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str | None:
    return _unless(value in choices, f"{name} is {value!r}; wanted one of {', '.join(choices)}")


def seconds_of(value: float | str) -> float:
    """A length of time in seconds: a number as it is, or text as "[hours:]minutes:seconds". Raises ValueError."""
    if isinstance(value, str):
        parts = value.split(":")
        if not 2 <= len(parts) <= 3 or not all(part.isdecimal() for part in parts):
            raise ValueError(f'{value!r} is no length of time; wanted seconds or "hours:minutes:seconds"')
        seconds = 0.0
        for part in parts:
            seconds = seconds * 60 + int(part)
        return seconds
    return float(value)


@dataclass
class Evaluate:
    """`trainer.evaluate`: when the validation split is evaluated, and with which weights."""

    every_epochs: int | None
    every_steps: int | None
    weights: str

    def __post_init__(self) -> None:
        _refuse(
            _at_least_1_or_null("trainer.evaluate.every_epochs", self.every_epochs),
            _at_least_1_or_null("trainer.evaluate.every_steps", self.every_steps),
            _one_of("trainer.evaluate.weights", self.weights, WEIGHTS),
        )

    @property
    def wanted(self) -> bool:
        return self.every_epochs is not None or self.every_steps is not None


@dataclass
class EarlyStopping:
    """`trainer.early_stopping`: after how many evaluations without improvement a run ends."""

    patience: int | None
    min_delta: float

    def __post_init__(self) -> None:
        _refuse(
            _at_least_1_or_null("trainer.early_stopping.patience", self.patience),
            _at_least("trainer.early_stopping.min_delta", self.min_delta, 0),
        )


@dataclass
class Limits:
    """`trainer.limits`: the first so many batches of an epoch or an evaluation, instead of all."""

    train_batches: int | None
    evaluation_batches: int | None

    def __post_init__(self) -> None:
        _refuse(
            _at_least_1_or_null("trainer.limits.train_batches", self.train_batches),
            _at_least_1_or_null("trainer.limits.evaluation_batches", self.evaluation_batches),
        )


@dataclass
class Trainer:
    """`trainer`: everything about the training that is neither model, data nor optimizer."""

    max_epochs: int | None
    max_steps: int | None
    max_time: Any
    """Seconds, or "hours:minutes:seconds"; None for no limit. Measured over this attempt."""
    accumulate: int
    clip_norm: float | None
    precision: str
    ema_decay: float | None
    schedule: str
    nonfinite: str
    deterministic: bool
    log_every: int
    evaluate: Evaluate
    early_stopping: EarlyStopping
    limits: Limits

    def __post_init__(self) -> None:
        _refuse(
            _at_least_1_or_null("trainer.max_epochs", self.max_epochs),
            _at_least_1_or_null("trainer.max_steps", self.max_steps),
            _unless(
                self.max_time is None or _is_positive(self.max_time),
                f'trainer.max_time is {self.max_time!r}; wanted seconds above 0, "hours:minutes:seconds", or null',
            ),
            _unless(
                not (self.max_epochs is None and self.max_steps is None and self.max_time is None),
                "trainer.max_epochs, max_steps and max_time are all null; set one of them, or the run would never end",
            ),
            _at_least("trainer.accumulate", self.accumulate, 1),
            _unless(
                self.clip_norm is None or self.clip_norm > 0,
                f"trainer.clip_norm is {self.clip_norm!r}; wanted a number above 0, or null",
            ),
            _one_of("trainer.precision", self.precision, PRECISIONS),
            _unless(
                self.ema_decay is None or 0 < self.ema_decay < 1,
                f"trainer.ema_decay is {self.ema_decay!r}; wanted a number between 0 and 1, or null",
            ),
            _one_of("trainer.schedule", self.schedule, SCHEDULES),
            _one_of("trainer.nonfinite", self.nonfinite, NONFINITE),
            _at_least("trainer.log_every", self.log_every, 1),
            _unless(
                not (self.evaluate.weights == "averaged" and self.ema_decay is None),
                "trainer.evaluate.weights is 'averaged' but trainer.ema_decay is null; "
                "set trainer.ema_decay (e.g. 0.999) to have averaged weights",
            ),
        )


def _is_positive(time: Any) -> bool:
    try:
        return not isinstance(time, bool) and seconds_of(time) > 0
    except (TypeError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class Horizon:
    """Where a training ends, in optimizer steps, as far as its data tells."""

    steps_per_epoch: int | None
    """None for data whose length is not known beforehand."""
    total_steps: int | None
    """None where only a time limit, or an unknown length, ends the training."""
    ahead: int = 0
    """How many steps more the epochs so far had than they would have now; below 0 if they had fewer."""


@dataclass(frozen=True, slots=True)
class Past:
    """Where a training stands that is gone on with, and what its horizon was."""

    step: int
    steps_per_epoch: int | None
    ahead: int


def horizon(trainer: Trainer, num_batches: int | None, past: Past | None = None) -> Horizon:
    """The horizon of `trainer` over data of `num_batches` an epoch. An accumulation window never spans an epoch.

    A training that is gone on with, say with another batch size, has had epochs of another number of steps.
    """
    per_epoch = None if num_batches is None else -(-num_batches // trainer.accumulate)
    ahead = 0
    if past is not None and past.steps_per_epoch is not None and per_epoch is not None:
        ahead = past.step - recounted(past.step - past.ahead, past.steps_per_epoch, per_epoch)
    lengths = [trainer.max_steps]
    if trainer.max_epochs is not None and per_epoch is not None:
        lengths.append(trainer.max_epochs * per_epoch + ahead)
    known = [length for length in lengths if length is not None]
    return Horizon(per_epoch, min(known) if known else None, ahead)


def recounted(steps: int, then: int, now: int) -> int:
    """So many steps of epochs that had `then` steps, in epochs that have `now`: the same share of the training."""
    return (steps * now + then // 2) // then


def evaluation_due(trainer: Trainer, progress: Progress, *, ended: bool) -> bool:
    """Whether the validation split is to be evaluated now. Where it is evaluated at all, it is at the end too."""
    if not trainer.evaluate.wanted or progress.step == progress.evaluated_step:
        return False
    by_epochs, by_steps = trainer.evaluate.every_epochs, trainer.evaluate.every_steps
    at_epoch = by_epochs is not None and progress.batch == 0 and progress.epoch % by_epochs == 0
    at_step = by_steps is not None and progress.step // by_steps > progress.evaluated_step // by_steps
    return at_epoch or at_step or ended


def time_is_up(limit: float, elapsed: float, *, step: float, save: float) -> bool:
    """Whether a training that may take `limit` seconds stops now, so as to end within them, saved.

    `step` and `save` are what the next step and the save at the end may take. At most half of the limit is kept for
    them: the other half is there to train in, whatever they take.
    """
    return elapsed + min(step + save, limit / 2) >= limit


def limit_reached(trainer: Trainer, progress: Progress) -> str | None:
    """The length that `progress` has reached (`max_steps`, `max_epochs`), or None."""
    if trainer.max_steps is not None and progress.step >= trainer.max_steps:
        return "max_steps"
    if trainer.max_epochs is not None and progress.epoch >= trainer.max_epochs:
        return "max_epochs"
    return None
