"""In which order things happen in a training, and when it stops."""

import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.config.build import build
from runner.config.prepare import prepare
from runner.records import Epoch, Evaluating, Evaluation, Progress, Record, Saved, SaveFailed, Step
from runner.runs.loop import TIME_LIMIT, Loop, Stop
from runner.runs.saver import Saver
from runner.training.signals import Signals

COMMON = (
    "runtime.device=cpu",
    "data.batch_size=256",  # An epoch has 5 steps.
    "trainer.max_epochs=2",
    "checkpoint.asynchronous=false",
)
STOPPING = ("trainer.max_epochs=9", "trainer.early_stopping.patience=2", "trainer.early_stopping.min_delta=100")
ALL = KeepPolicy(last=None, best=None, every_steps=None, every_hours=None)


class Watched:
    """A training that saves below a directory, and all that happens in it. Every record takes a second of its clock."""

    def __init__(self, directory: Path, *overrides: str) -> None:
        self.directory, self.overrides = directory, overrides
        ready = prepare([*COMMON, *overrides])
        self.settings = ready.settings
        self.training = build(ready.config.resolved, ready.settings, seed=0)
        self.store = CheckpointStore(directory, run="watched", keep=ALL, monitor=None)
        self.signals = Signals()
        self.happened: list[str] = []
        self.time = 0.0
        self.after: Callable[[Record], None] = lambda record: None
        self.under_way: Callable[[Evaluating], None] = lambda record: None
        self.earlier: tuple[float, ...] = ()

    @property
    def saves(self) -> list[tuple[Progress, tuple[str, ...], Mapping[str, float]]]:
        return [(one.progress, one.reasons, one.metrics) for one in self.store.checkpoints]

    def run(self) -> Stop:
        return self.loop().run()

    def loop(self, *, saved: Progress | None = None, scores: Mapping[str, float] | None = None) -> Loop:
        saver = Saver(
            self.store,
            self.training.state,
            self.settings.checkpoint,
            saved=saved,
            documents={},
            facts={},
            before=lambda: None,
            observe=self.observe,
            began=0.0,
            earlier=self.earlier,
            clock=lambda: self.time,
        )
        return Loop(
            self.training,
            self.settings.trainer,
            self.settings.checkpoint.save,
            observe=self.observe,
            saver=saver,
            scores=scores or {},
            signals=self.signals,
            began=0.0,
            clock=lambda: self.time,
        )

    def observe(self, record: Record) -> None:
        if isinstance(record, Evaluating):
            self.under_way(record)
            return
        names = {Step: "step", Epoch: "epoch", Saved: "saved", SaveFailed: "not saved"}
        name = record.split if isinstance(record, Evaluation) else names[type(record)]
        self.happened.append(f"{name} {record.progress.step}")
        self.time += 1.0
        self.after(record)

    def resumed(self, number: int = -1) -> tuple["Watched", Loop]:
        """What another process goes on with from one of the saves."""
        checkpoint = self.store.checkpoints[number]
        again = Watched(self.directory / f"again-{number}", *self.overrides)
        again.training.state.load_state_dict(checkpoint.state())
        return again, again.loop(saved=checkpoint.progress, scores=checkpoint.metrics)

    def pass_time(self, seconds: float) -> None:
        self.time += seconds

    def interrupt_at(self, what: str) -> None:
        """Let SIGTERM come when `what` has happened."""

        def after(record: Record) -> None:
            if self.happened[-1] == what:
                self.signals.note(signal.SIGTERM, None)

        self.after = after


def test_steps_epoch_evaluation_save_and_test_come_in_this_order(tmp_path: Path) -> None:
    one = Watched(tmp_path, "trainer.evaluate.every_steps=4", "checkpoint.save.every_steps=3")
    assert one.run() == Stop("finished", "max_epochs", 0)
    assert one.happened == [
        "step 1", "step 2", "step 3", "saved 3",
        "step 4", "validation 4", "saved 4",
        "step 5", "epoch 5", "validation 5", "saved 5",
        "step 6", "saved 6", "step 7",
        "step 8", "validation 8", "saved 8",
        "step 9", "saved 9",
        "step 10", "epoch 10", "validation 10", "test 10", "saved 10",
    ]  # fmt: skip
    reasons = {progress.step: reasons for progress, reasons, _ in one.saves}
    assert reasons[3] == ("every_steps",)
    assert reasons[4] == ("improvement",)
    assert reasons[5] == ("every_epochs", "improvement")
    assert reasons[10] == ("every_epochs", "improvement", "end")


def test_a_checkpoint_carries_the_scores_of_its_own_step_or_none(tmp_path: Path) -> None:
    one = Watched(
        tmp_path,
        "trainer.evaluate.every_steps=4",
        "trainer.evaluate.every_epochs=null",
        "checkpoint.save.every_steps=2",
    )
    one.run()
    metrics = {progress.step: metrics for progress, _, metrics in one.saves}
    assert metrics[2].keys() == metrics[6].keys() == {"loss", "lr"}
    assert metrics[4].keys() == metrics[8].keys() == {"loss", "lr", "val_loss", "val_accuracy"}
    assert metrics[10].keys() == metrics[4].keys() | {"test_loss", "test_accuracy"}


def test_the_loss_of_a_checkpoint_is_the_mean_since_its_epoch_began(tmp_path: Path) -> None:
    one = Watched(tmp_path, "checkpoint.save.every_steps=1")
    losses: dict[int, float] = {}
    epochs: dict[int, float] = {}

    def after(record: Record) -> None:
        if isinstance(record, Step):
            losses[record.progress.step] = record.loss
        elif isinstance(record, Epoch):
            epochs[record.progress.step] = record.loss

    one.after = after
    one.run()
    metrics = {progress.step: metrics for progress, _, metrics in one.saves}
    assert metrics[1]["loss"] == pytest.approx(losses[1], rel=1e-6)  # Added up in float64.
    assert metrics[5]["loss"] == epochs[5]
    assert metrics[6]["loss"] == pytest.approx(losses[6], rel=1e-6)
    assert metrics[10]["loss"] == epochs[10]


def test_nothing_is_due_twice_after_a_resume(tmp_path: Path) -> None:
    one = Watched(tmp_path, "trainer.evaluate.every_steps=4", "checkpoint.save.every_steps=3")
    one.run()
    for number, (progress, *_) in enumerate(one.saves[:-1]):
        again, loop = one.resumed(number)
        assert loop.run() == Stop("finished", "max_epochs", 0)
        at = one.happened.index(f"saved {progress.step}")
        assert again.happened == one.happened[at + 1 :]
        assert again.saves == one.saves[number + 1 :]


def test_a_resume_first_does_what_was_due_where_it_stands(tmp_path: Path) -> None:
    one = Watched(tmp_path)
    one.interrupt_at("epoch 5")
    assert one.run() == Stop("stopped", "SIGTERM", 128 + signal.SIGTERM)
    # The evaluation was broken off, so it is not recorded, and the checkpoint has no scores.
    assert one.happened[-2:] == ["epoch 5", "saved 5"]
    progress, reasons, metrics = one.saves[0]
    assert (progress.evaluated_step, reasons) == (0, ("every_epochs", "signal"))
    assert metrics.keys() == {"loss", "lr"}
    again, loop = one.resumed()
    loop.run()
    assert again.happened[:3] == ["validation 5", "saved 5", "step 6"]
    late, reasons, scored = again.saves[0]
    assert (late.step, late.evaluated_step, reasons) == (5, 5, ("improvement",))
    assert scored["loss"] == metrics["loss"] and "val_loss" in scored


def test_a_signal_during_the_test_at_the_end_stops_and_the_test_is_done_again(tmp_path: Path) -> None:
    one = Watched(tmp_path)
    one.interrupt_at("validation 10")
    assert one.run() == Stop("stopped", "SIGTERM", 128 + signal.SIGTERM)
    assert one.happened[-1] == "saved 10" and "test 10" not in one.happened
    again, loop = one.resumed()
    assert loop.run() == Stop("finished", "max_epochs", 0)
    assert again.happened == ["test 10", "saved 10"]
    (end,) = again.store.checkpoints
    assert end.reasons == ("end",) and end.metrics.keys() >= {"loss", "val_loss", "test_loss"}


def test_a_signal_in_the_middle_of_an_epoch_ends_after_the_step(tmp_path: Path) -> None:
    one = Watched(tmp_path)
    one.interrupt_at("step 3")
    assert one.run() == Stop("stopped", "SIGTERM", 128 + signal.SIGTERM)
    assert one.happened == ["step 1", "step 2", "step 3", "saved 3"]
    assert one.saves[0][1] == ("signal",)


@pytest.mark.parametrize("limit", ["3", "'0:03'", "0:03", "0:00:03"])
def test_when_time_is_up_the_run_stops_saved_and_can_go_on(tmp_path: Path, limit: str) -> None:
    one = Watched(tmp_path, f"trainer.max_time={limit}")
    assert one.run() == Stop("stopped", "max_time", TIME_LIMIT)
    assert TIME_LIMIT == 75
    assert one.happened == ["step 1", "step 2", "step 3", "saved 3"]
    assert one.saves[0][1] == ("time",)
    # The limit is that of an attempt: the next one has the same time again.
    again, loop = one.resumed()
    assert loop.run().reason == "max_time"
    assert again.happened == ["step 4", "step 5", "epoch 5", "saved 5"]
    # No time was left to evaluate: that is done first, by the one after.
    last, loop = again.resumed()
    assert loop.run().reason == "max_time"
    assert last.happened == ["validation 5", "saved 5", "step 6", "saved 6"]


@pytest.mark.parametrize(
    ("limit", "earlier", "step_takes", "stops_at"),
    [
        (9, (), 0.0, 7),  # The records of an epoch and of its save take a second each, as those of the steps do.
        (9, (1.0, 2.5, 0.5), 0.0, 6),
        (9, (), 2.0, 3),
        (9, (1.5,), 2.0, 2),
        (9, (100.0,), 0.0, 5),  # Half of the time is there to train in, whatever saves have taken.
    ],
)
def test_a_run_stops_so_early_that_a_step_and_the_save_at_its_end_fit_into_its_time(
    tmp_path: Path, limit: int, earlier: tuple[float, ...], step_takes: float, stops_at: int
) -> None:
    one = Watched(tmp_path, f"trainer.max_time={limit}", "trainer.evaluate.every_epochs=null")
    one.earlier = earlier
    one.training.state.model.register_forward_pre_hook(lambda *_: one.pass_time(step_takes))
    assert one.run() == Stop("stopped", "max_time", TIME_LIMIT)
    progress, reasons, _ = one.saves[-1]
    assert progress.step == stops_at and "time" in reasons
    assert one.time <= limit + 1  # The record of the last save.


def test_time_that_is_up_during_an_evaluation_ends_it_and_it_is_done_again(tmp_path: Path) -> None:
    one = Watched(tmp_path, "trainer.max_epochs=1", "trainer.max_time=8", "data.evaluation_batch_size=64")
    seen: list[tuple[str, int, int | None]] = []

    def under_way(record: Evaluating) -> None:
        seen.append((record.split, record.batches, record.num_batches))
        one.pass_time(1.0)

    one.under_way = under_way
    assert one.run() == Stop("stopped", "max_time", TIME_LIMIT)
    # The training has reached its length, but neither its last scores nor its end are there.
    assert one.happened == ["step 1", "step 2", "step 3", "step 4", "step 5", "epoch 5", "saved 5"]
    assert seen == [("validation", 0, 5), ("validation", 1, 5)]
    assert one.saves[0][1] == ("every_epochs", "time") and "val_loss" not in one.saves[0][2]
    again, loop = one.resumed()
    assert loop.run() == Stop("finished", "max_epochs", 0)
    assert again.happened == ["validation 5", "test 5", "saved 5"]


def test_time_that_is_up_during_the_test_at_the_end_ends_it_and_it_is_done_again(tmp_path: Path) -> None:
    one = Watched(tmp_path, "trainer.max_epochs=1", "trainer.max_time=9")
    one.under_way = lambda record: one.pass_time(5.0 if record.split == "test" else 0.0)
    assert one.run() == Stop("stopped", "max_time", TIME_LIMIT)
    assert one.happened[-2:] == ["validation 5", "saved 5"]
    again, loop = one.resumed()
    assert loop.run() == Stop("finished", "max_epochs", 0)
    assert again.happened == ["test 5", "saved 5"]


def test_an_uncommonly_long_step_is_forgotten_after_a_while(tmp_path: Path) -> None:
    one = Watched(tmp_path, "trainer.max_epochs=20")
    long = [100.0]
    one.training.state.model.register_forward_pre_hook(lambda *_: one.pass_time(long.pop() if long else 1.0))
    loop = one.loop()
    paces: list[float] = []
    one.after = lambda record: paces.append(loop.pace)
    loop.run()
    assert paces[0] == 100.0 and paces[-1] == pytest.approx(1.0)
    assert paces == sorted(paces, reverse=True)


def test_seconds_count_from_the_last_save(tmp_path: Path) -> None:
    one = Watched(
        tmp_path,
        "checkpoint.save.every_seconds=4",
        "checkpoint.save.every_epochs=null",
        "trainer.evaluate.every_epochs=null",
    )
    one.run()
    # The record of a save takes a second, too, as that of an epoch does.
    assert [progress.step for progress, reasons, _ in one.saves if "every_seconds" in reasons] == [4, 6, 9, 10]


def test_early_stopping_counts_evaluations_without_improvement(tmp_path: Path) -> None:
    one = Watched(
        tmp_path, "trainer.max_epochs=9", "trainer.early_stopping.patience=2", "trainer.early_stopping.min_delta=100"
    )
    assert one.run() == Stop("finished", "early_stopping", 0)
    assert one.happened[-3:] == ["validation 15", "test 15", "saved 15"]
    assert one.saves[-1][1][-1] == "end"


def test_early_stopping_is_remembered_over_a_resume(tmp_path: Path) -> None:
    one = Watched(
        tmp_path, "trainer.max_epochs=9", "trainer.early_stopping.patience=2", "trainer.early_stopping.min_delta=100"
    )
    one.interrupt_at("step 12")
    one.run()
    again, loop = one.resumed()
    assert loop.run().reason == "early_stopping"
    assert again.happened[-3:] == ["validation 15", "test 15", "saved 15"]


@pytest.mark.parametrize("where", ["reading", "half a step", "evaluating"])
def test_after_an_exception_what_is_whole_and_new_is_saved(tmp_path: Path, where: str) -> None:
    one = Watched(tmp_path, "trainer.max_epochs=2")
    loop = one.loop()

    def fail(*_: object) -> None:
        raise OverflowError(where)

    def after(record: Record) -> None:
        if one.happened[-1] == "step 5" and where == "evaluating":
            one.training.objective.metrics["accuracy"] = fail  # type: ignore[index]
        if one.happened[-1] == "step 7" and where == "half a step":
            one.training.state.model.register_forward_pre_hook(fail)
        if one.happened[-1] == "step 7" and where == "reading":
            fail()

    one.after = after
    with pytest.raises(OverflowError, match=where):
        loop.run()
    before = len(one.saves)
    loop.save_after_exception()
    loop.save_after_exception()
    saved = [(progress.step, reasons) for progress, reasons, _ in one.saves[before:]]
    expected = {"reading": [(7, ("exception",))], "half a step": [], "evaluating": [(5, ("exception",))]}
    assert saved == expected[where]


def test_a_training_without_evaluation_saves_and_ends(tmp_path: Path) -> None:
    one = Watched(tmp_path, "trainer.evaluate.every_epochs=null", "trainer.max_epochs=1")
    assert one.run() == Stop("finished", "max_epochs", 0)
    assert one.happened[-4:] == ["step 5", "epoch 5", "test 5", "saved 5"]
