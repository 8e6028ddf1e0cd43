import dataclasses
import math
import subprocess
import sys
from typing import Any

import pytest

from runner.checkpoint.policies import KeepPolicy, Kept, SavePolicy, kept, save_reasons
from runner.records import Monitor, Progress

NEVER: dict[str, Any] = {
    "every_steps": None,
    "every_epochs": None,
    "every_seconds": None,
    "on_improvement": False,
    "at_end": False,
}
LOSS = Monitor("val_loss", "min")
NAN, INF = math.nan, math.inf


def reasons(rules: dict[str, Any], now: Progress, saved: Progress | None = None, **facts: Any) -> tuple[str, ...]:
    given = {"seconds_since_saved": 0.0, "improved": False, "ended": False, "stopped": None} | facts
    return save_reasons(SavePolicy(**(NEVER | rules)), now, saved=saved, **given)


@pytest.mark.parametrize(
    ("rules", "now", "saved", "facts", "expected"),
    [
        ({}, Progress(step=10, epoch=3), None, {}, ()),
        ({"every_steps": 5}, Progress(step=4), None, {}, ()),
        ({"every_steps": 5}, Progress(step=5), None, {}, ("every_steps",)),
        ({"every_steps": 5}, Progress(step=9), Progress(step=5), {}, ()),
        ({"every_steps": 5}, Progress(step=10), Progress(step=5), {}, ("every_steps",)),
        # An irregular save between shifts nothing, and one that came late makes up for nothing.
        ({"every_steps": 5}, Progress(step=10), Progress(step=8), {}, ("every_steps",)),
        ({"every_steps": 5}, Progress(step=12), Progress(step=10), {}, ()),
        ({"every_steps": 5}, Progress(step=23), Progress(step=4), {}, ("every_steps",)),
        ({"every_epochs": 2}, Progress(step=9, epoch=1), None, {}, ()),
        ({"every_epochs": 2}, Progress(step=9, epoch=2), None, {}, ("every_epochs",)),
        ({"every_epochs": 2}, Progress(step=12, epoch=3), Progress(step=9, epoch=2), {}, ()),
        ({"every_epochs": 1}, Progress(step=12, epoch=3), Progress(step=9, epoch=2), {}, ("every_epochs",)),
        ({"every_seconds": 60.0}, Progress(step=1), None, {"seconds_since_saved": 59.9}, ()),
        ({"every_seconds": 60.0}, Progress(step=1), None, {"seconds_since_saved": 60.0}, ("every_seconds",)),
        ({}, Progress(step=1), None, {"improved": True, "ended": True}, ()),
        ({"on_improvement": True}, Progress(step=1), None, {"improved": True}, ("improvement",)),
        ({"on_improvement": True}, Progress(step=1), None, {}, ()),
        ({"at_end": True}, Progress(step=1), None, {"ended": True}, ("end",)),
        ({}, Progress(step=1), None, {"stopped": "signal"}, ("signal",)),
        (
            {"every_steps": 1, "every_epochs": 1, "every_seconds": 1, "on_improvement": True, "at_end": True},
            Progress(step=2, epoch=1),
            Progress(step=1),
            {"seconds_since_saved": 2.0, "improved": True, "ended": True, "stopped": "signal"},
            ("every_steps", "every_epochs", "every_seconds", "improvement", "end", "signal"),
        ),
        # What was saved at this step is not saved again, whatever happens.
        (
            {"every_steps": 1, "at_end": True, "on_improvement": True},
            Progress(step=4, epoch=1, evaluated_step=4),
            Progress(step=4, epoch=1, evaluated_step=4),
            {"ended": True, "improved": True, "stopped": "time"},
            (),
        ),
        # Saved while an evaluation was interrupted, and evaluated after the resume: its scores are worth saving.
        (
            {"every_steps": 1, "every_epochs": 1, "at_end": True, "on_improvement": True},
            Progress(step=4, epoch=1, evaluated_step=4),
            Progress(step=4, epoch=1, evaluated_step=2),
            {"improved": True},
            ("improvement",),
        ),
    ],
)
def test_save_reasons(
    rules: dict[str, Any], now: Progress, saved: Progress | None, facts: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert reasons(rules, now, saved, **facts) == expected


def keep(
    rules: dict[str, Any], *rows: Any, monitor: Monitor | None = LOSS, protected: tuple[int, ...] = ()
) -> set[int]:
    """Rows are val_loss, or (step, metrics), of the generations 1, 2, ..."""
    records = []
    for generation, row in enumerate(rows, start=1):
        step, metrics = row if isinstance(row, tuple) else (generation * 10, {} if row is None else {"val_loss": row})
        records.append(Kept(generation, Progress(step=step), metrics, "2026", generation in protected))
    policy = KeepPolicy(**({"last": None, "best": None, "every_steps": None} | rules))
    return set(kept(policy, records, monitor))


@pytest.mark.parametrize(
    ("rules", "rows", "expected"),
    [
        ({"last": 2}, (), set()),
        ({}, (3.0, 2.0, 1.0), {1, 2, 3}),
        ({"last": 1}, (3.0, 2.0, 1.0), {3}),
        ({"last": 2}, (3.0, 2.0, 1.0), {2, 3}),
        ({"last": 9}, (3.0, 2.0, 1.0), {1, 2, 3}),
        # The newest is kept whatever the rules are.
        ({"best": 1}, (1.0, 2.0, 3.0), {1, 3}),
        ({"best": 2}, (5.0, 1.0, 4.0, 2.0, 9.0), {2, 4, 5}),
        ({"best": 1, "last": 2}, (1.0, 2.0, 3.0, 4.0), {1, 3, 4}),
        # NaN, infinite and missing values never win, and never block.
        ({"best": 1}, (NAN, 2.0, NAN), {2, 3}),
        ({"best": 1}, (-INF, 2.0, INF), {2, 3}),
        ({"best": 2}, (None, 2.0, None), {2, 3}),
        ({"best": 1}, (NAN, None, INF), {3}),
        # Of equals, the first.
        ({"best": 1}, (1.0, 1.0, 1.0, 5.0), {1, 4}),
        (
            {"best": {"val_accuracy": {"mode": "max", "n": 1}}},
            ((1, {"val_accuracy": 0.9}), (2, {"val_accuracy": 0.5})),
            {1, 2},
        ),
        (
            {"best": {"a": {"mode": "max", "n": 1}, "b": {"mode": "min", "n": 2}}},
            (
                (1, {"a": 0.1, "b": 0.1}),
                (2, {"a": 0.9, "b": 0.9}),
                (3, {"b": 0.2}),
                (4, {"a": NAN, "b": 0.3}),
                (5, {}),
            ),
            {1, 2, 3, 5},
        ),
        ({"every_steps": 20}, (None,) * 6, {2, 4, 6}),
        # The first of every 100 steps, also where saves are irregular; none for what is before the first hundred.
        ({"every_steps": 100}, ((50, {}), (110, {}), (190, {}), (200, {}), (450, {}), (460, {})), {2, 4, 5, 6}),
        # A step written once more stands for the one that was there.
        ({"every_steps": 100}, ((100, {}), (100, {}), (150, {}), (160, {})), {2, 4}),
        ({"last": 1, "best": 1, "every_steps": 20}, (9.0, 8.0, 1.0, 7.0, 6.0), {2, 3, 4, 5}),
    ],
)
def test_kept(rules: dict[str, Any], rows: tuple[Any, ...], expected: set[int]) -> None:
    assert keep(rules, *rows) == expected


def test_what_is_protected_is_kept_under_every_policy() -> None:
    for rules in ({"last": 1}, {"best": 1}, {"every_steps": 1000}):
        assert keep(rules, 9.0, 5.0, 1.0, protected=(2,)) >= {2, 3}


def test_the_order_in_which_records_are_listed_does_not_matter() -> None:
    records = [Kept(g, Progress(step=g), {"val_loss": v}, "", False) for g, v in ((3, 1.0), (1, 1.0), (2, 5.0))]
    assert kept(KeepPolicy(last=1, best=1, every_steps=None), records, LOSS) == {1, 3}


def test_a_changed_n_or_metric_is_followed_at_once() -> None:
    rows = ((1, {"val_loss": 1.0, "acc": 0.1}), (2, {"val_loss": 2.0, "acc": 0.9}), (3, {"val_loss": 3.0}))
    assert keep({"best": 1}, *rows) == {1, 3}
    assert keep({"best": 2}, *rows) == {1, 2, 3}
    assert keep({"best": 1}, *rows, monitor=Monitor("acc", "max")) == {2, 3}


def test_best_without_a_monitor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.keep\.best is 2 and there is no monitor.*set monitor\.metric"):
        keep({"best": 2}, 1.0, monitor=None)


@pytest.mark.parametrize(
    ("policy", "values", "message"),
    [
        (SavePolicy, {"every_steps": 0}, "checkpoint.save.every_steps is 0; wanted a whole number from 1, or null"),
        (SavePolicy, {"every_epochs": -1}, "checkpoint.save.every_epochs is -1; wanted a whole number from 1, or null"),
        (SavePolicy, {"every_seconds": 0.0}, "checkpoint.save.every_seconds is 0.0; wanted a number above 0, or null"),
        (SavePolicy, {"every_seconds": NAN}, "checkpoint.save.every_seconds is nan; wanted a number above 0, or null"),
        (KeepPolicy, {"last": 0}, "checkpoint.keep.last is 0; wanted a whole number from 1, or null"),
        (KeepPolicy, {"best": True}, "checkpoint.keep.best is True; wanted a whole number from 1, or null"),
        (KeepPolicy, {"best": "all"}, "checkpoint.keep.best is 'all'; wanted a whole number from 1, or null"),
        (
            KeepPolicy,
            {"best": {"a": 2}},
            "checkpoint.keep.best.a is 2; wanted {mode: min|max, n: a whole number from 1}",
        ),
        (KeepPolicy, {"best": {"a": {"mode": "up", "n": 1}}}, "checkpoint.keep.best.a.mode is 'up'; wanted min or max"),
        (
            KeepPolicy,
            {"best": {"a": {"mode": "min", "n": None}}},
            "checkpoint.keep.best.a.n is None; wanted a whole number from 1",
        ),
    ],
)
def test_values_out_of_range_are_refused(policy: type, values: dict[str, Any], message: str) -> None:
    given = {field.name: values.get(field.name, NEVER.get(field.name)) for field in dataclasses.fields(policy)}
    with pytest.raises(ValueError) as caught:
        policy(**given)
    assert str(caught.value) == message


def test_looking_at_checkpoints_imports_no_torch() -> None:
    modules = (
        "runner.checkpoint.policies, runner.checkpoint.manifest, runner.checkpoint.handle, runner.checkpoint.store"
    )
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
