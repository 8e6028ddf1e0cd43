import dataclasses
import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.checkpoint.policies import KeepPolicy, Kept, SavePolicy, Spending, improves_on, kept, save_reasons, why_kept
from runner.records import Monitor, Progress

NEVER: dict[str, Any] = {
    "every_steps": None,
    "at_steps": None,
    "every_epochs": None,
    "every_seconds": None,
    "budget": None,
    "on_improvement": False,
    "min_delta": 0.0,
    "at_end": False,
}
ALL: dict[str, Any] = {"last": None, "best": None, "every_steps": None, "every_hours": None}
FREE = Spending(spent=0.0, last=None, elapsed=0.0)
LOSS = Monitor("val_loss", "min")
NAN, INF = math.nan, math.inf


def reasons(rules: dict[str, Any], now: Progress, saved: Progress | None = None, **facts: Any) -> tuple[str, ...]:
    given = {"seconds_since_saved": 0.0, "spending": FREE, "improved": False, "ended": False, "stopped": None} | facts
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
        ({"at_steps": [10]}, Progress(step=9), None, {}, ()),
        ({"at_steps": [10]}, Progress(step=10), None, {}, ("at_steps",)),
        ({"at_steps": [10]}, Progress(step=10), Progress(step=9), {}, ("at_steps",)),
        # One that was missed, as after skipped saves, is made up for once; what lies behind the last save is over.
        ({"at_steps": [10]}, Progress(step=12), Progress(step=9), {}, ("at_steps",)),
        ({"at_steps": [10]}, Progress(step=12), Progress(step=10), {}, ()),
        ({"at_steps": [30, 1, 10]}, Progress(step=1), None, {}, ("at_steps",)),
        ({"at_steps": [30, 1, 10]}, Progress(step=29), Progress(step=10), {}, ()),
        ({"at_steps": [30, 1, 10]}, Progress(step=30), Progress(step=29), {}, ("at_steps",)),
        # An evaluation made up for after a resume is at the step that was saved.
        ({"at_steps": [10]}, Progress(step=10, evaluated_step=10), Progress(step=10), {}, ()),
        ({"every_epochs": 2}, Progress(step=9, epoch=1), None, {}, ()),
        ({"every_epochs": 2}, Progress(step=9, epoch=2), None, {}, ("every_epochs",)),
        ({"every_epochs": 2}, Progress(step=12, epoch=3), Progress(step=9, epoch=2), {}, ()),
        ({"every_epochs": 1}, Progress(step=12, epoch=3), Progress(step=9, epoch=2), {}, ("every_epochs",)),
        ({"every_seconds": 60.0}, Progress(step=1), None, {"seconds_since_saved": 59.9}, ()),
        ({"every_seconds": 60.0}, Progress(step=1), None, {"seconds_since_saved": 60.0}, ("every_seconds",)),
        # The first save tells what one costs; the next waits until it is within the budget, too.
        ({"budget": 5.0}, Progress(step=1), None, {"spending": Spending(0.0, None, 0.0)}, ("budget",)),
        ({"budget": 5.0}, Progress(step=2), Progress(step=1), {"spending": Spending(1.0, 1.0, 39.9)}, ()),
        ({"budget": 5.0}, Progress(step=2), Progress(step=1), {"spending": Spending(1.0, 1.0, 40.0)}, ("budget",)),
        ({"budget": 5.0}, Progress(step=2), Progress(step=1), {"spending": Spending(2.0, 0.5, 49.9)}, ()),
        ({"budget": 5.0}, Progress(step=2), Progress(step=1), {"spending": Spending(2.0, 0.5, 50.0)}, ("budget",)),
        ({"budget": 100.0}, Progress(step=2), Progress(step=1), {"spending": Spending(0.0, 0.0, 0.0)}, ("budget",)),
        # Nothing new: not even to measure.
        ({"budget": 5.0}, Progress(step=1), Progress(step=1), {"spending": FREE}, ()),
        # Right after a resume the attempt has not saved yet.
        ({"budget": 5.0}, Progress(step=11), Progress(step=10), {"spending": FREE}, ("budget",)),
        ({"budget": 5.0}, Progress(step=2), Progress(step=1), {"spending": Spending(1.0, NAN, 99.0)}, ()),
        ({}, Progress(step=2), Progress(step=1), {"spending": Spending(0.0, 0.0, 100.0)}, ()),
        ({}, Progress(step=1), None, {"improved": True, "ended": True}, ()),
        ({"on_improvement": True}, Progress(step=1), None, {"improved": True}, ("improvement",)),
        ({"on_improvement": True}, Progress(step=1), None, {}, ()),
        ({"at_end": True}, Progress(step=1), None, {"ended": True}, ("end",)),
        ({}, Progress(step=1), None, {"stopped": "signal"}, ("signal",)),
        (
            {
                "every_steps": 1,
                "at_steps": [2],
                "every_epochs": 1,
                "every_seconds": 1,
                "budget": 50.0,
                "on_improvement": True,
                "at_end": True,
            },
            Progress(step=2, epoch=1),
            Progress(step=1),
            {"seconds_since_saved": 2.0, "improved": True, "ended": True, "stopped": "signal"},
            ("every_steps", "at_steps", "every_epochs", "every_seconds", "budget", "improvement", "end", "signal"),
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


@pytest.mark.parametrize(
    ("value", "others", "mode", "min_delta", "improves"),
    [
        (1.0, (), "min", 0.0, True),
        (1.0, (2.0, 3.0), "min", 0.0, True),
        (1.0, (1.0,), "min", 0.0, False),
        (1.0, (2.0, 0.5), "min", 0.0, False),
        (1.0, (0.5, 0.9), "max", 0.0, True),
        (1.0, (2.0,), "max", 0.0, False),
        (1.0, (1.25,), "min", 0.25, False),
        (0.99, (1.25,), "min", 0.25, True),
        (-1.0, (-0.5,), "min", 0.25, True),
        (1.5, (1.25,), "max", 0.25, False),
        (1.51, (1.25,), "max", 0.25, True),
        # What is not finite improves on nothing, and stands in nobody's way.
        (NAN, (), "min", 0.0, False),
        (-INF, (1.0,), "min", 0.0, False),
        (INF, (1.0,), "max", 0.0, False),
        (1.0, (NAN, INF, -INF), "min", 0.0, True),
        (1.0, (NAN, 0.5), "min", 0.0, False),
    ],
)
def test_improves_on(value: float, others: tuple[float, ...], mode: str, min_delta: float, improves: bool) -> None:
    assert improves_on(value, others, mode, min_delta) is improves


def listed(rows: tuple[Any, ...], protected: tuple[int, ...] = ()) -> list[Kept]:
    """Rows are val_loss, or (step, metrics), or (step, metrics, hours), of the generations 1, 2, ..."""
    records = []
    for generation, row in enumerate(rows, start=1):
        given = row if isinstance(row, tuple) else (generation * 10, {} if row is None else {"val_loss": row})
        step, metrics, hours = (*given, 0.0)[:3]
        records.append(Kept(generation, Progress(step=step), metrics, hours * 3600, generation in protected))
    return records


def keep(
    rules: dict[str, Any], *rows: Any, monitor: Monitor | None = LOSS, protected: tuple[int, ...] = ()
) -> set[int]:
    return set(kept(KeepPolicy(**(ALL | rules)), listed(rows, protected), monitor))


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
        # The first of every hour that has begun to be trained for, and none of what is before the first full one.
        (
            {"every_hours": 1.0},
            ((1, {}, 0.5), (2, {}, 0.99), (3, {}, 1.0), (4, {}, 1.5), (5, {}, 2.4), (6, {}, 2.9), (7, {}, 2.95)),
            {3, 5, 7},
        ),
        ({"every_hours": 0.5}, ((1, {}, 0.4), (2, {}, 0.6), (3, {}, 0.9), (4, {}, 1.1), (5, {}, 1.2)), {2, 4, 5}),
        # Hours in which nothing was saved, and a resume from an older checkpoint, from which time counts on.
        ({"every_hours": 2.0}, ((1, {}, 1.0), (2, {}, 9.0), (3, {}, 9.5)), {2, 3}),
        ({"every_hours": 1.0}, ((10, {}, 1.0), (20, {}, 1.1), (5, {}, 1.0), (30, {}, 1.2)), {3, 4}),
        # Seconds that are no number stand nowhere.
        ({"every_hours": 1.0}, ((1, {}, NAN), (2, {}, -INF), (3, {}, 1.0), (4, {}, NAN), (5, {}, 1.5)), {3, 5}),
        ({"every_hours": 1e-300}, ((1, {}, 1e300), (2, {}, 1.0)), {1, 2}),
        ({"every_hours": 1.0, "every_steps": 100}, ((50, {}, 1.0), (100, {}, 1.2), (110, {}, 1.3)), {1, 2, 3}),
        ({"last": 1}, (), set()),
        ({"every_hours": 1.0}, (), set()),
    ],
)
def test_kept(rules: dict[str, Any], rows: tuple[Any, ...], expected: set[int]) -> None:
    assert keep(rules, *rows) == expected


def test_what_is_protected_is_kept_under_every_policy() -> None:
    for rules in ({"last": 1}, {"best": 1}, {"every_steps": 1000}):
        assert keep(rules, 9.0, 5.0, 1.0, protected=(2,)) >= {2, 3}


def test_the_order_in_which_records_are_listed_does_not_matter() -> None:
    records = listed((1.0, 5.0, 1.0))
    for ordered in itertools.permutations(records):
        assert kept(KeepPolicy(**(ALL | {"last": 1, "best": 1})), ordered, LOSS) == {1, 3}


def test_a_changed_n_or_metric_is_followed_at_once() -> None:
    rows = ((1, {"val_loss": 1.0, "acc": 0.1}), (2, {"val_loss": 2.0, "acc": 0.9}), (3, {"val_loss": 3.0}))
    assert keep({"best": 1}, *rows) == {1, 3}
    assert keep({"best": 2}, *rows) == {1, 2, 3}
    assert keep({"best": 1}, *rows, monitor=Monitor("acc", "max")) == {2, 3}
    assert keep({"best": 1}, *rows, monitor=Monitor("acc", "min")) == {1, 3}
    assert keep({"best": 1}, *rows, monitor=Monitor("never measured", "min")) == {3}


def test_after_a_resume_the_same_is_kept_as_without_one() -> None:
    """One after the other, as a store removes after each save; only what is left is looked at again."""
    rules = ALL | {"last": 2, "best": 1, "every_steps": 30, "every_hours": 1.0}
    losses = (0.9, 0.8, NAN, 0.7, 0.75, 0.7, 0.9, 0.95)
    records = [
        Kept(number, Progress(step=number * 10), {"val_loss": loss}, number * 1500.0, False)
        for number, loss in enumerate(losses, start=1)
    ]
    left: list[Kept] = []
    for record in records:
        # Another process has read them from the directory, in any order.
        left = [record, *reversed(left)]
        keep = kept(KeepPolicy(**rules), left, LOSS)
        left = [one for one in left if one.generation in keep]
    assert {one.generation for one in left} == kept(KeepPolicy(**rules), records, LOSS)


def test_a_directory_that_was_moved_is_judged_as_before(
    tmp_path: Path, make_store: Callable[..., Any], save: Callable[..., Any]
) -> None:
    def policy(**rules: Any) -> KeepPolicy:
        return KeepPolicy(**(ALL | rules))

    # `save` has trained a second for every step.
    store = make_store(monitor=LOSS, keep=policy(last=1, best=1, every_hours=10 / 3600))
    for step, loss in ((4, 0.5), (11, 0.9), (12, 0.8), (19, NAN), (21, 0.7)):
        save(store, step, val_loss=loss)
    assert [checkpoint.step for checkpoint in store.checkpoints] == [4, 11, 21]
    moved = tmp_path / "elsewhere"
    store.directory.rename(moved)
    store = make_store(moved, monitor=LOSS, keep=policy(last=1, best=1, every_hours=10 / 3600))
    save(store, 22, val_loss=0.6)
    assert [checkpoint.step for checkpoint in store.checkpoints] == [4, 11, 21, 22]
    store = make_store(moved, monitor=LOSS, keep=policy(best=2))
    save(store, 23, val_loss=NAN)
    assert [checkpoint.step for checkpoint in store.checkpoints] == [4, 22, 23]


def test_why_a_checkpoint_is_kept_is_told_by_rule() -> None:
    rules = {"last": 2, "best": {"acc": {"mode": "max", "n": 2}}, "every_steps": 30, "every_hours": 1.5}
    rows = tuple(
        (step, {"acc": acc}, step / 20) for step, acc in ((10, 0.1), (20, 0.8), (30, 0.9), (40, 0.2), (50, 0.3))
    )
    why = why_kept(KeepPolicy(**(ALL | rules)), listed(rows, protected=(2,)), None)
    assert list(why.items()) == [
        (2, ("best 2 by acc", "protected")),
        (3, ("best 2 by acc", "every 30 steps", "every 1.5 hours")),
        (4, ("last 2",)),
        (5, ("newest", "last 2")),
    ]
    assert why_kept(KeepPolicy(**ALL), listed((1.0, 2.0)), None) == {1: ("no rule is set",), 2: ("no rule is set",)}
    assert why_kept(KeepPolicy(**(ALL | {"best": 1})), listed((1.0, 2.0)), LOSS)[1] == ("best by val_loss",)


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
        (
            SavePolicy,
            {"at_steps": [5, 0]},
            "checkpoint.save.at_steps is [5, 0]; wanted a list of whole numbers from 1, or null",
        ),
        (
            SavePolicy,
            {"at_steps": []},
            "checkpoint.save.at_steps is []; wanted a list of whole numbers from 1, or null",
        ),
        (SavePolicy, {"budget": 0.0}, "checkpoint.save.budget is 0.0; wanted a percentage in (0, 100], or null"),
        (SavePolicy, {"budget": NAN}, "checkpoint.save.budget is nan; wanted a percentage in (0, 100], or null"),
        (SavePolicy, {"budget": 101}, "checkpoint.save.budget is 101; wanted a percentage in (0, 100], or null"),
        (SavePolicy, {"min_delta": -0.1}, "checkpoint.save.min_delta is -0.1; wanted a number from 0"),
        (SavePolicy, {"min_delta": INF}, "checkpoint.save.min_delta is inf; wanted a number from 0"),
        (KeepPolicy, {"every_hours": 0.0}, "checkpoint.keep.every_hours is 0.0; wanted a number above 0, or null"),
        (KeepPolicy, {"every_hours": INF}, "checkpoint.keep.every_hours is inf; wanted a number above 0, or null"),
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


def test_every_problem_of_a_policy_is_told_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        KeepPolicy(last=0, best={"a": {"mode": "up", "n": 0}, "b": 2}, every_steps=-1, every_hours=None)
    assert str(caught.value).splitlines() == [
        "checkpoint.keep.last is 0; wanted a whole number from 1, or null",
        "checkpoint.keep.best.a.mode is 'up'; wanted min or max",
        "checkpoint.keep.best.a.n is 0; wanted a whole number from 1, or null",
        "checkpoint.keep.best.b is 2; wanted {mode: min|max, n: a whole number from 1}",
        "checkpoint.keep.every_steps is -1; wanted a whole number from 1, or null",
    ]


def test_looking_at_checkpoints_imports_no_torch() -> None:
    modules = (
        "runner.checkpoint.policies, runner.checkpoint.manifest, runner.checkpoint.handle, runner.checkpoint.store"
    )
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
