import math
from collections.abc import Callable
from typing import Any

import pytest

from runner.records import Progress
from runner.training.plan import (
    EarlyStopping,
    Evaluate,
    Horizon,
    Limits,
    Past,
    Trainer,
    evaluation_due,
    horizon,
    limit_reached,
    seconds_of,
    time_is_up,
)

Plan = Callable[..., Trainer]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(5, 5.0), (0.5, 0.5), ("0:30", 30.0), ("90:00", 5400.0), ("1:00:00", 3600.0), ("23:50:00", 85800.0)],
)
def test_a_length_of_time_is_seconds_or_a_clock(value: float | str, seconds: float) -> None:
    assert seconds_of(value) == seconds


@pytest.mark.parametrize("value", ["", "5", "1:2:3:4", "a:b", "1:-2", "1.5:00", ":", "1:²"])
def test_other_text_is_no_length_of_time(value: str) -> None:
    with pytest.raises(ValueError) as caught:
        seconds_of(value)
    assert str(caught.value) == f'{value!r} is no length of time; wanted seconds or "hours:minutes:seconds"'


@pytest.mark.parametrize(
    ("changes", "num_batches", "expected"),
    [
        ({"max_epochs": 4}, 10, Horizon(10, 40)),
        ({"max_epochs": 4, "accumulate": 3}, 10, Horizon(4, 16)),
        ({"max_epochs": 4, "max_steps": 7}, 10, Horizon(10, 7)),
        ({"max_epochs": 4, "max_steps": 70}, 10, Horizon(10, 40)),
        ({"max_epochs": None, "max_steps": 7}, None, Horizon(None, 7)),
        ({"max_epochs": 4}, None, Horizon(None, None)),
        ({"max_epochs": None, "max_time": 60}, 10, Horizon(10, None)),
    ],
)
def test_the_horizon_is_the_nearest_known_end(
    plan: Plan, changes: dict[str, Any], num_batches: int | None, expected: Horizon
) -> None:
    assert horizon(plan(**changes), num_batches) == expected


@pytest.mark.parametrize(
    ("past", "num_batches", "expected"),
    [
        (Past(step=20, steps_per_epoch=10, ahead=0), 10, Horizon(10, 40)),
        # Two epochs of 10 steps, then two of 5; then of 20.
        (Past(step=20, steps_per_epoch=10, ahead=0), 5, Horizon(5, 30, ahead=10)),
        (Past(step=25, steps_per_epoch=5, ahead=10), 5, Horizon(5, 30, ahead=10)),
        (Past(step=25, steps_per_epoch=5, ahead=10), 20, Horizon(20, 45, ahead=-35)),
        # Steps that were left out are no reason to count anew.
        (Past(step=17, steps_per_epoch=10, ahead=0), 10, Horizon(10, 40)),
        (Past(step=20, steps_per_epoch=None, ahead=0), 5, Horizon(5, 20)),
        (Past(step=90, steps_per_epoch=10, ahead=0), 5, Horizon(5, 50, ahead=45)),
    ],
)
def test_a_training_that_is_gone_on_with_has_its_epochs_before_it_and_behind_it(
    plan: Plan, past: Past, num_batches: int, expected: Horizon
) -> None:
    assert horizon(plan(max_epochs=4, max_steps=50), num_batches, past) == expected


@pytest.mark.parametrize(
    ("every_epochs", "every_steps", "progress", "ended", "due"),
    [
        (None, None, Progress(step=9, epoch=3), True, False),
        (1, None, Progress(step=3, epoch=1), False, True),
        (1, None, Progress(step=3, epoch=1, evaluated_step=3), False, False),
        (1, None, Progress(step=4, epoch=1, batch=1, evaluated_step=3), False, False),
        (1, None, Progress(step=4, epoch=1, batch=1, evaluated_step=3), True, True),
        (2, None, Progress(step=3, epoch=1), False, False),
        (2, None, Progress(step=6, epoch=2), False, True),
        (None, 4, Progress(step=3), False, False),
        (None, 4, Progress(step=4, batch=4), False, True),
        (None, 4, Progress(step=5, batch=5, evaluated_step=4), False, False),
        (None, 4, Progress(step=9, batch=9, evaluated_step=6), False, True),
        (1, 4, Progress(step=6, epoch=1, evaluated_step=4), False, True),
        (1, None, Progress(), False, False),
        (1, None, Progress(step=0, epoch=1), True, False),
    ],
)
def test_an_evaluation_is_due_by_epochs_by_steps_and_at_the_end(
    plan: Plan, every_epochs: int | None, every_steps: int | None, progress: Progress, ended: bool, due: bool
) -> None:
    trainer = plan(evaluate=Evaluate(every_epochs=every_epochs, every_steps=every_steps, weights="raw"))
    assert evaluation_due(trainer, progress, ended=ended) is due


@pytest.mark.parametrize(
    ("changes", "progress", "limit"),
    [
        ({"max_epochs": 2}, Progress(step=5, epoch=1, batch=2), None),
        ({"max_epochs": 2}, Progress(step=6, epoch=2), "max_epochs"),
        ({"max_epochs": None, "max_steps": 5}, Progress(step=4), None),
        ({"max_epochs": None, "max_steps": 5}, Progress(step=5), "max_steps"),
        ({"max_epochs": 2, "max_steps": 5}, Progress(step=7, epoch=3), "max_steps"),
        ({"max_epochs": None, "max_time": "1:00"}, Progress(step=10**9, epoch=10**6), None),
    ],
)
def test_a_limit_is_reached_at_its_number_or_beyond(
    plan: Plan, changes: dict[str, Any], progress: Progress, limit: str | None
) -> None:
    assert limit_reached(plan(**changes), progress) == limit


@pytest.mark.parametrize(
    ("limit", "elapsed", "step", "save", "up"),
    [
        (100, 99.9, 0.0, 0.0, False),
        (100, 100.0, 0.0, 0.0, True),
        (100, 89.9, 3.0, 7.0, False),
        (100, 90.0, 3.0, 7.0, True),
        (100, 49.9, 10.0, 600.0, False),  # Half of the time is always there to train in.
        (100, 50.0, 10.0, 600.0, True),
        (0.5, 0.0, 9.0, 9.0, False),
    ],
)
def test_time_is_up_when_a_step_and_a_save_would_not_fit_any_more(
    limit: float, elapsed: float, step: float, save: float, up: bool
) -> None:
    assert time_is_up(limit, elapsed, step=step, save=save) is up


def at_least_1_or_null(key: str) -> str:
    return f"{key} is 0; wanted a number of at least 1, or null"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_epochs": 0}, at_least_1_or_null("trainer.max_epochs")),
        ({"max_steps": 0}, at_least_1_or_null("trainer.max_steps")),
        ({"accumulate": 0}, "trainer.accumulate is 0; wanted a number of at least 1"),
        ({"log_every": 0}, "trainer.log_every is 0; wanted a number of at least 1"),
        ({"precision": "fp8"}, "trainer.precision is 'fp8'; wanted one of fp32, bf16, fp16"),
        ({"schedule": "batch"}, "trainer.schedule is 'batch'; wanted one of step, epoch, evaluation"),
        ({"nonfinite": "raise"}, "trainer.nonfinite is 'raise'; wanted one of stop, skip"),
        ({"clip_norm": 0.0}, "trainer.clip_norm is 0.0; wanted a number above 0, or null"),
        ({"clip_norm": math.nan}, "trainer.clip_norm is nan; wanted a number above 0, or null"),
        ({"ema_decay": 1.0}, "trainer.ema_decay is 1.0; wanted a number between 0 and 1, or null"),
        ({"ema_decay": 0.0}, "trainer.ema_decay is 0.0; wanted a number between 0 and 1, or null"),
        *(
            (
                {"max_time": value},
                f'trainer.max_time is {value!r}; wanted seconds above 0, "hours:minutes:seconds", or null',
            )
            for value in (0, -1, "soon", True, [1], math.nan, "0:00")
        ),
        (
            {"max_epochs": None},
            "trainer.max_epochs, max_steps and max_time are all null; set one of them, or the run would never end",
        ),
        (
            {"evaluate": Evaluate(every_epochs=1, every_steps=None, weights="averaged")},
            "trainer.evaluate.weights is 'averaged' but trainer.ema_decay is null; "
            "set trainer.ema_decay (e.g. 0.999) to have averaged weights",
        ),
    ],
)
def test_a_trainer_that_cannot_be_is_refused(plan: Plan, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        plan(**changes)
    assert str(caught.value) == message


def test_every_problem_of_a_trainer_is_told_at_once(plan: Plan) -> None:
    with pytest.raises(ValueError) as caught:
        plan(max_epochs=0, accumulate=0, precision="fp8", ema_decay=1.0, max_time="soon")
    assert [line.partition(" is ")[0] for line in str(caught.value).splitlines()] == [
        "trainer.max_epochs",
        "trainer.max_time",
        "trainer.accumulate",
        "trainer.precision",
        "trainer.ema_decay",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Evaluate(0, None, "raw"), at_least_1_or_null("trainer.evaluate.every_epochs")),
        (lambda: Evaluate(None, 0, "raw"), at_least_1_or_null("trainer.evaluate.every_steps")),
        (lambda: Evaluate(None, None, "ema"), "trainer.evaluate.weights is 'ema'; wanted one of raw, averaged"),
        (lambda: EarlyStopping(0, 0.0), at_least_1_or_null("trainer.early_stopping.patience")),
        (
            lambda: EarlyStopping(None, -0.1),
            "trainer.early_stopping.min_delta is -0.1; wanted a number of at least 0",
        ),
        (lambda: Limits(0, None), at_least_1_or_null("trainer.limits.train_batches")),
        (lambda: Limits(None, 0), at_least_1_or_null("trainer.limits.evaluation_batches")),
    ],
)
def test_a_part_of_a_trainer_that_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


def test_evaluations_are_wanted_by_epochs_or_by_steps() -> None:
    assert not Evaluate(None, None, "raw").wanted
    assert Evaluate(1, None, "raw").wanted
    assert Evaluate(None, 1, "raw").wanted
