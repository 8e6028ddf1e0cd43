"""Which parts of a run can be taken again: run directories with checkpoints and records, made without training."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.errors import CheckpointError, ResumeError
from runner.records import Progress
from runner.rundir import RunDir
from runner.runs.stretches import Stretch, all_stretches, one_stretch

Record = Mapping[str, Any]


def step(at: int, attempt: int = 1, **more: Any) -> Record:
    return {"event": "step", "step": at, "epoch": 0, "loss": 0.5, "lr": 0.1, "digests": {}, "attempt": attempt, **more}


def began(at: int, attempt: int) -> Record:
    return {"event": "attempt", "step": at, "epoch": 0, "batch": at, "attempt": attempt}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunDir]:
    """`make((10, 20), [step(10), ...], [{"reset": [...]}])`: checkpoints, records, facts of each attempt."""
    monkeypatch.chdir(tmp_path)

    def make(saved: Sequence[int], records: Sequence[Record] = (), attempts: Sequence[Record] = ({},)) -> RunDir:
        run = RunDir.create(Path("here"), name="here", identity="0", created=datetime(2026, 1, 2, tzinfo=UTC))
        for facts in attempts:
            run.begin_attempt(facts)
        run.metrics.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        keep = KeepPolicy(last=None, best=None, every_steps=None, every_hours=None)
        store = CheckpointStore(run.checkpoints, run=run.id, keep=keep, monitor=None)
        for at in saved:
            state = {"model": {}, "progress": {"step": at}}
            store.save(
                state,
                progress=Progress(step=at),
                reasons=("end",),
                metrics={},
                documents={},
                facts={},
            ).wait()
        store.close()
        return run

    return make


def ends(stretch: Stretch) -> tuple[int, int, int | None]:
    """Its first step, its last one, and that of the checkpoint there."""
    return stretch.first.step, stretch.end, None if stretch.last is None else stretch.last.step


@pytest.mark.parametrize(
    ("first", "to", "wanted"),
    [
        (None, None, (20, 30, 30)),
        (10, None, (10, 20, 20)),
        (30, None, (30, 36, None)),
        (10, 30, (10, 30, 30)),
        (10, 25, (10, 25, None)),
        (None, 20, (10, 20, 20)),
        (None, 24, (20, 24, None)),
        (None, 36, (30, 36, None)),
    ],
)
def test_a_stretch_ends_at_the_next_checkpoint_or_where_asked(
    make: Callable[..., RunDir], first: int | None, to: int | None, wanted: tuple[int, int, int | None]
) -> None:
    run = make((10, 20, 30), [began(0, 1), *(step(at) for at in range(4, 37, 4))])
    stretch = one_stretch(run, None if first is None else Checkpoint.open("here", first), to)
    assert ends(stretch) == wanted
    assert [line["step"] for line in stretch.recorded] == [at for at in range(4, 37, 4) if wanted[0] < at <= wanted[1]]


def test_all_stretches_are_those_between_checkpoints(make: Callable[..., RunDir]) -> None:
    run = make((10, 20, 20, 30), [began(0, 1), step(10), step(20), step(35)])
    assert [ends(one) for one in all_stretches(run, None)] == [(10, 20, 20), (20, 30, 30)]
    assert all_stretches(run, None)[1].first.path.name == "step-000000020-2"
    assert [ends(one) for one in all_stretches(run, Checkpoint.open("here", 20))] == [(20, 30, 30)]
    assert [ends(one) for one in all_stretches(run, Checkpoint.open("here", 30))] == [(30, 35, None)]


def test_what_a_later_attempt_has_taken_back_does_not_count(make: Callable[..., RunDir]) -> None:
    changed = {"differences": [{"key": "optimizer.lr", "kind": "course"}]}
    run = make(
        (10, 20), [began(0, 1), step(12), began(10, 2), step(12, 2), began(10, 3), step(14, 3)], [{}, changed, {}]
    )
    (line,) = one_stretch(run, None, None).recorded
    assert (line["step"], line["attempt"]) == (14, 3)


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        ({"differences": [{"key": "trainer.max_steps"}, {"key": "runtime.threads"}]}, "trainer.max_steps"),
        ({"differences": [{"key": "optimizer.lr"}], "reset": ["scheduler"]}, "optimizer.lr, +reset=scheduler"),
    ],
)
def test_an_attempt_with_another_config_parts_a_stretch(make: Callable[..., RunDir], facts: Record, what: str) -> None:
    run = make((10, 20), [began(0, 1), step(12), began(14, 2), step(20, 2)], [{}, facts])
    with pytest.raises(ResumeError) as error:
        one_stretch(run, None, None)
    assert str(error.value) == (
        f"here: at step 14, between 10 and 20, attempt 2 went on with another config ({what}); compare only from a "
        "checkpoint after it, by here@step=N, or up to it, by --to 14"
    )
    assert ends(one_stretch(run, None, 14)) == (10, 14, None)


@pytest.mark.parametrize("facts", [{}, {"differences": [{"key": "runtime.device"}, {"key": "name"}], "reset": []}])
def test_an_attempt_with_the_same_config_does_not(make: Callable[..., RunDir], facts: Record) -> None:
    run = make((10, 20), [began(0, 1), step(12), began(14, 2), step(20, 2)], [{}, facts])
    assert ends(one_stretch(run, None, None)) == (10, 20, 20)


def test_what_was_reset_at_its_beginning_is_reset_again(make: Callable[..., RunDir]) -> None:
    run = make((10, 20), [began(0, 1), step(10), began(10, 2), step(20, 2)], [{}, {"reset": ["optimizer"]}])
    assert one_stretch(run, None, None).reset == ("optimizer",)
    with pytest.raises(ResumeError, match=r"at step 10, between 10 and 15, attempt 2 went on with another config"):
        one_stretch(make_longer(run), None, 15)


def make_longer(run: RunDir) -> RunDir:
    """With a record in the middle, where no checkpoint says which config held."""
    with run.metrics.open("a") as file:
        file.write(json.dumps(step(12, 2)) + "\n")
    return run


def test_steps_recorded_by_an_older_version_lack_digests(make: Callable[..., RunDir]) -> None:
    old = {key: value for key, value in step(12).items() if key != "digests"}
    run = make((10, 20, 30), [began(0, 1), old, {"event": "epoch", "step": 25, "epoch": 1, "attempt": 1}])
    assert [one.lacks_digests for one in all_stretches(run, None)] == [True, False]


@pytest.mark.parametrize(
    ("saved", "first", "to", "message"),
    [
        ((), None, None, "here: has no checkpoint yet; train until one is saved"),
        (
            (40,),
            None,
            None,
            "here/checkpoints/step-000000040: nothing was saved or recorded after it to compare with; this takes a run "
            "that saves and keeps more than one (checkpoint.save, checkpoint.keep.last=2)",
        ),
        (
            (10, 40),
            40,
            None,
            "here/checkpoints/step-000000040: nothing was saved or recorded after it to compare with; name an earlier "
            "one by here@step=N, N one of 10",
        ),
        (
            (10, 20),
            10,
            10,
            "here/checkpoints/step-000000010: --to 10: wanted a step after 10, up to 24, where the records end",
        ),
        (
            (10, 20),
            10,
            25,
            "here/checkpoints/step-000000010: --to 25: wanted a step after 10, up to 24, where the records end",
        ),
        (
            (10, 20),
            None,
            9,
            "here/checkpoints/step-000000010: --to 9: wanted a step after 10, up to 24, where the records end",
        ),
        (
            (10, 20),
            10,
            11,
            "here/checkpoints/step-000000010: --to 11: nothing was saved at that step, nor recorded on the way to it; "
            "the first record after step 10 is of step 12",
        ),
    ],
)
def test_where_there_is_nothing_to_compare_it_says_what_there_is(
    make: Callable[..., RunDir], saved: Sequence[int], first: int | None, to: int | None, message: str
) -> None:
    run = make(saved, [began(0, 1), step(12), step(24)])
    with pytest.raises((CheckpointError, ResumeError)) as error:
        one_stretch(run, None if first is None else Checkpoint.open("here", first), to)
    assert str(error.value) == message
