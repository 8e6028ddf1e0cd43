"""Saving as the loop sees it: what waits for what, what a failure does, what it has cost."""

import errno
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from runner.checkpoint.policies import KeepPolicy, save_reasons
from runner.checkpoint.store import CheckpointStore
from runner.config.build import build
from runner.config.prepare import prepare
from runner.errors import SaveError
from runner.records import Evaluation, Progress, Record, Saved, SaveFailed
from runner.runs.saver import Saver

PERIODIC = ("every_steps",)


class Watched:
    """A saver of a small training, whose writing thread can be held up, and what it has told."""

    def __init__(
        self, directory: Path, *overrides: str, saved: Progress | None = None, earlier: Sequence[float] = ()
    ) -> None:
        ready = prepare(["runtime.device=cpu", "model.hidden=[4]", *overrides])
        self.state = build(ready.config.resolved, ready.settings, seed=0).state
        self.store = CheckpointStore(
            directory, run="watched", keep=KeepPolicy(None, None, None, None), monitor=self.state.monitor
        )
        self.told: list[Record] = []
        self.free = threading.Event()
        self.free.set()
        self.time = 100.0
        self.saver = Saver(
            self.store,
            self.state,
            ready.settings.checkpoint,
            saved=saved,
            documents={},
            facts={},
            before=lambda: self._hold(),
            observe=self.told.append,
            began=0.0,
            seconds_before=1000.0,
            earlier=earlier,
            clock=lambda: self.time,
        )

    def _hold(self) -> None:
        assert self.free.wait(60)

    def save(self, step: int, *reasons: str, **metrics: float) -> None:
        self.state.progress = Progress(step=step, evaluated_step=step)
        self.saver.save(reasons or PERIODIC, metrics)

    def steps(self) -> list[int]:
        return [checkpoint.step for checkpoint in self.store.checkpoints]


def scores(value: float, improved: bool = True) -> Evaluation:
    return Evaluation(Progress(), "validation", {"val_loss": value}, "raw", improved, 0.0)


@pytest.fixture
def watched(tmp_path: Path) -> Callable[..., Watched]:
    return lambda *overrides, **more: Watched(tmp_path / "checkpoints", *overrides, **more)


def test_what_is_saved_is_told_once_it_is_durable_and_not_before(watched: Callable[..., Watched]) -> None:
    one = watched()
    one.free.clear()
    one.save(1)
    one.saver.collect()
    assert one.told == [] and one.saver.begun == Progress(step=1, evaluated_step=1) and one.saver.saved is None
    one.free.set()
    one.saver.collect(wait=True)
    (saved,) = one.told
    assert isinstance(saved, Saved) and saved.progress == one.saver.saved == one.saver.begun
    assert one.store.checkpoints[0].manifest.seconds == 1100.0
    one.saver.collect(wait=True)
    assert len(one.told) == 1


def test_blocking_saves_are_durable_when_they_return(watched: Callable[..., Watched]) -> None:
    one = watched("checkpoint.asynchronous=false")
    one.save(1)
    (saved,) = one.told
    assert isinstance(saved, Saved) and saved.path.is_dir()
    assert saved.stats.stall >= saved.stats.seconds
    assert saved.stats.cost == saved.stats.stall


def test_a_save_that_is_due_while_another_is_under_way_waits_for_it(watched: Callable[..., Watched]) -> None:
    one = watched("checkpoint.when_busy=wait")
    for step in range(1, 6):
        one.save(step)
    one.saver.finish()
    assert one.steps() == [1, 2, 3, 4, 5]
    assert [record.progress.step for record in one.told] == [1, 2, 3, 4, 5]


def test_a_save_can_be_put_off_until_the_one_before_is_done_with_one_warning(
    watched: Callable[..., Watched], caplog: pytest.LogCaptureFixture
) -> None:
    one = watched("checkpoint.when_busy=skip")
    one.saver.collect(wait=True)
    one.free.clear()
    one.save(1)
    for step in (2, 3, 4):
        one.save(step)
        assert one.saver.begun is not None and one.saver.begun.step == 1  # So it stays due.
    one.free.set()
    one.saver.collect(wait=True)
    one.save(5)
    one.saver.finish()
    assert one.steps() == [1, 5]
    assert one.saver.account.postponed == 1
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "step 2: the checkpoint before is still being written" in warning.getMessage()
    assert "checkpoint.when_busy=wait" in warning.getMessage()


def test_a_budget_allows_no_save_while_the_cost_of_one_is_not_known(watched: Callable[..., Watched]) -> None:
    one = watched()
    policy = replace(one.saver.settings.save, budget=100.0, every_epochs=None)

    def due() -> tuple[str, ...]:
        return save_reasons(
            policy,
            Progress(step=9),
            saved=one.saver.begun,
            seconds_since_saved=one.saver.seconds_since_saved,
            spending=one.saver.spending,
            improved=False,
            ended=False,
            stopped=None,
        )

    assert due() == ("budget",)
    one.free.clear()
    one.save(1)
    one.time += 1000
    assert due() == ()
    one.free.set()
    one.saver.collect(wait=True)
    assert due() == ("budget",)


def test_a_budget_is_not_spent_on_one_failure_after_the_other(
    watched: Callable[..., Watched], full_disk: Callable[[bool], None]
) -> None:
    one = watched("checkpoint.on_failure=continue")
    full_disk(True)
    one.save(1)
    one.saver.collect(wait=True)
    first = one.saver.spending
    assert first.last is not None and first.spent == first.last > 0
    one.save(2)
    one.saver.collect(wait=True)
    assert one.saver.spending.spent > first.spent


@pytest.mark.parametrize("reason", ["improvement", "at_steps", "end", "signal", "time", "exception"])
def test_what_must_not_be_lost_is_never_put_off(reason: str, watched: Callable[..., Watched]) -> None:
    one = watched("checkpoint.when_busy=skip")
    one.free.clear()
    one.save(1)
    threading.Timer(0.05, one.free.set).start()
    one.save(2, "every_steps", reason)
    one.saver.finish()
    assert one.steps() == [1, 2]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    real = os.posix_fallocate

    def fill(full: bool) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", refuse if full else real)

    return fill


@pytest.mark.parametrize("when", ["collect", "save", "finish"])
def test_a_failure_in_the_background_stops_the_training(
    when: str, watched: Callable[..., Watched], full_disk: Callable[[bool], None]
) -> None:
    one = watched()
    one.save(1)
    one.saver.collect(wait=True)
    full_disk(True)
    one.save(2)
    act = {"collect": lambda: one.saver.collect(wait=True), "save": lambda: one.save(3), "finish": one.saver.finish}
    with pytest.raises(SaveError, match="No space left on device"):
        act[when]()
    assert one.steps() == [1]
    one.saver.close()


def test_with_on_failure_continue_it_is_recorded_and_the_training_goes_on(
    watched: Callable[..., Watched], full_disk: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    one = watched("checkpoint.on_failure=continue")
    full_disk(True)
    one.save(1)
    one.saver.collect(wait=True)
    (failed,) = one.told
    assert isinstance(failed, SaveFailed) and failed.progress.step == 1 and "No space left" in failed.message
    assert one.saver.saved is None and one.saver.begun is not None
    assert "step 1 was not saved, and the training goes on" in caplog.text
    full_disk(False)
    one.save(2)
    one.saver.finish()
    assert one.steps() == [2] and (one.saver.account.count, one.saver.account.failed) == (1, 1)


def test_the_end_is_not_left_with_a_state_that_could_not_be_saved(
    watched: Callable[..., Watched], full_disk: Callable[[bool], None]
) -> None:
    one = watched("checkpoint.on_failure=continue")
    full_disk(True)
    one.save(1, "end")
    with pytest.raises(SaveError, match="No space left"):
        one.saver.finish()
    one.saver.close()


def test_seconds_count_from_when_it_was_durable(watched: Callable[..., Watched]) -> None:
    one = watched()
    one.free.clear()
    one.save(1)
    one.time += 5
    assert one.saver.seconds_since_saved == 5
    one.free.set()
    one.saver.collect(wait=True)
    assert one.saver.seconds_since_saved == 0


@pytest.mark.parametrize(
    ("min_delta", "value", "saved", "expected"),
    [
        (0.0, 0.5, {}, True),
        (0.0, 0.5, {1: 0.6}, True),
        (0.2, 0.5, {1: 0.6}, False),
        (0.2, 0.3, {1: 0.6}, True),
        (0.2, 0.5, {1: 0.9, 2: 0.6}, False),
        (0.2, 0.5, {1: float("nan")}, True),
        (0.0, float("nan"), {}, False),
    ],
)
def test_an_improvement_is_measured_by_what_is_saved(
    min_delta: float, value: float, saved: Mapping[int, float], expected: bool, watched: Callable[..., Watched]
) -> None:
    one = watched(f"checkpoint.save.min_delta={min_delta}")
    for step, loss in saved.items():
        one.saver.collect(wait=True)
        if step == len(saved):
            one.free.clear()  # The last of them is still under way when the question comes.
        one.save(step, val_loss=loss)
    assert one.saver.improves(scores(value)) is expected
    assert one.saver.improves(scores(value, improved=False)) is False
    assert one.saver.improves(None) is False
    one.free.set()
    one.saver.finish()
    assert one.saver.improves(scores(value)) is expected


def test_the_account_adds_up(watched: Callable[..., Watched]) -> None:
    one = watched()
    one.time += 50
    for step in (1, 2, 3):
        one.save(step)
    one.saver.finish()
    account, saved = one.saver.account, [record for record in one.told if isinstance(record, Saved)]
    assert account.count == 3 and account.failed == account.postponed == 0
    assert account.written == sum(record.stats.written for record in saved)
    assert account.stall == sum(record.stats.stall for record in saved)
    assert account.slowest == max(record.stats.seconds for record in saved)
    spending = one.saver.spending
    assert (spending.spent, spending.last, spending.elapsed) == (account.cost, saved[-1].stats.cost, 50.0)
    assert [record.stats.share for record in saved] == sorted(record.stats.share for record in saved)
    assert saved[-1].stats.share == account.stall / 50.0


def test_how_long_a_save_may_take_is_judged_by_the_latest_ones(watched: Callable[..., Watched]) -> None:
    one = watched()
    assert one.saver.seconds_to_save == 0.0
    one = watched(earlier=[5.0, 1.0])
    assert one.saver.seconds_to_save == 5.0
    one.free.clear()
    one.save(1)
    # The one under way comes first.
    assert one.saver.seconds_to_save == 10.0
    one.free.set()
    one.saver.collect(wait=True)
    assert one.saver.seconds_to_save == 5.0
    for step in range(2, 9):
        one.save(step)
        one.saver.collect(wait=True)
    durations = [record.stats.seconds for record in one.told if isinstance(record, Saved)]
    assert len(durations) == 8 and one.saver.seconds_to_save == max(durations)
