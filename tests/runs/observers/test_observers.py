"""An observer that fails is named once and left out; the training does not notice."""

import json
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.records import Ended, Progress, Record, Saved, SaveStats, Started, Step
from runner.runs.observers.memory import Memory
from runner.runs.observers.observers import Observers

FAILING = """
class Failing:
    def __init__(self, when):
        self.when, self.seen = when, 0

    def observe(self, record):
        self.seen += 1
        if self.when == "observe" and self.seen >= 3:
            raise RuntimeError(f"the tracker is away ({self.seen})")

    def close(self):
        if self.when == "close":
            raise OSError("the tracker is away (close)")
"""


class Notes:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.closed = 0

    def observe(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.closed += 1


class Breaks(Notes):
    def observe(self, record: Record) -> None:
        super().observe(record)
        raise ZeroDivisionError("broken")


def test_one_that_fails_is_closed_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, broken, after = Notes(), Breaks(), Notes()
    observers = Observers({"before": before, "broken": broken, "after": after}, Memory(tmp_path))
    for step in range(3):
        observers.observe(Ended(Progress(step), "finished", "max_steps"))
    assert [len(one.records) for one in (before, broken, after)] == [3, 1, 3]
    assert broken.closed == 1
    observers.close()
    observers.close()
    assert [one.closed for one in (before, broken, after)] == [1, 1, 1]
    assert caplog.messages == ["observer broken failed and is left out from now on: ZeroDivisionError: broken"]


def test_what_they_have_made_is_known_when_they_are_closed(tmp_path: Path) -> None:
    class Draws(Notes):
        def __init__(self, *names: str) -> None:
            super().__init__()
            self.made = [tmp_path / name for name in names]

    observers = Observers({"notes": Notes(), "one": Draws("a.png"), "two": Draws("b.png", "c.png")}, Memory(tmp_path))
    assert observers.made == []
    observers.close()
    observers.close()
    assert observers.made == [tmp_path / name for name in ("a.png", "b.png", "c.png")]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("observe", "observer own failed and is left out from now on: RuntimeError: the tracker is away (3)"),
        ("close", "observer own could not be closed: OSError: the tracker is away (close)"),
    ],
)
def test_the_training_goes_on_and_ends_well(short, tmp_path, capfd, when: str, said: str) -> None:
    (tmp_path / f"tracker_{when}.py").write_text(FAILING)
    observer = [f"+observers.own._target_=tracker_{when}.Failing", f"+observers.own.when={when}"]
    run = short(*observer, "hydra.run.dir=here")
    assert run.outcome == "finished" and run.checkpoint().step == 5
    assert (run.directory / "runner.log").read_text().count(said) == 1
    assert capfd.readouterr().err.count(f"WARNING {said}") == 1


def test_one_that_cannot_be_built_refuses_before_anything_is_moved(short, tmp_path) -> None:
    (tmp_path / "locked_tracker.py").write_text(
        "class Tracker:\n    def __init__(self):\n        raise PermissionError('no login')\n"
    )
    keep_all = ["checkpoint.keep.last=null", "checkpoint.keep.best=null"]
    run = short("hydra.run.dir=here", "checkpoint.save.every_steps=2", *keep_all)
    steps = sorted(path.name for path in (run.directory / "checkpoints").iterdir())
    with pytest.raises(runner.ConfigError, match=r"observers.own._target_=.*no login"):
        runner.run(["+resume=here@step=2", "+observers.own._target_=locked_tracker.Tracker"])
    assert sorted(path.name for path in (run.directory / "checkpoints").iterdir()) == steps


TRACKER = """
import json

class Tracker:
    def __init__(self):
        self.id, self.restored = None, []

    def state_dict(self):
        return {"id": self.id, "restored": self.restored}

    def load_state_dict(self, state):
        self.id, self.restored = state["id"], state["restored"]

    def observe(self, record):
        if type(record).__name__ == "Started":
            # As a tracker does that opens its run here.
            self.restored.append([record.attempt, self.id])
            self.id = self.id or f"run-{record.attempt}"

    def close(self):
        pass
"""


def test_what_an_observer_keeps_comes_back_before_the_first_record_of_a_resume(short, tmp_path: Path) -> None:
    (tmp_path / "remembering.py").write_text(TRACKER)
    run = short("+observers.mine._target_=remembering.Tracker", "hydra.run.dir=here")
    file = run.directory / "observers" / "mine.json"
    assert json.loads(file.read_text()) == {"id": "run-1", "restored": [[1, None]]}
    runner.run(["+resume=here", "trainer.max_epochs=2"])
    assert json.loads(file.read_text()) == {"id": "run-1", "restored": [[1, None], [2, "run-1"]]}
    # A run of its own begins without.
    fresh = short("+observers.mine._target_=remembering.Tracker", "hydra.run.dir=there", "seed=1")
    assert json.loads((fresh.directory / "observers" / "mine.json").read_text())["restored"] == [[1, None]]
    assert list((run.directory / "observers").iterdir()) == [file]


def test_a_run_without_such_an_observer_has_no_directory_for_it(short) -> None:
    assert not (short().directory / "observers").exists()


class Keeps(Notes):
    """Keeps the number of records that it has seen, or what else it is told to."""

    def __init__(self, state: Any = None) -> None:
        super().__init__()
        self.state, self.given = state, None

    def state_dict(self) -> Any:
        return {"seen": len(self.records)} if self.state is None else self.state

    def load_state_dict(self, state: Any) -> None:
        assert self.records == []
        self.given = state


STARTED = Started(Progress(), 1, "name", 10, 5, Path("run"), {})
SAVED = Saved(Progress(2), Path("step-000000002"), ("every_steps",), {}, SaveStats(1, 1, 0.0, 0.0, 0.0))


def test_the_state_is_written_at_the_start_after_saves_and_at_the_end(tmp_path: Path) -> None:
    observers = Observers({"a/b": Keeps()}, Memory(tmp_path / "observers"))
    seen = []
    for record in (STARTED, Step(Progress(1), 0.1), SAVED, Step(Progress(3), 0.1), Ended(Progress(3), "finished", "x")):
        observers.observe(record)
        seen.append(json.loads((tmp_path / "observers" / "a%2Fb.json").read_text())["seen"])
    assert seen == [1, 1, 3, 3, 5]


@pytest.mark.parametrize("damaged", [b"", b'{"seen": 1', b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_state_is_said_and_kept_and_the_observer_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    file = tmp_path / "one.json"
    file.write_bytes(damaged)
    one = Keeps()
    Observers({"one": one}, Memory(tmp_path)).observe(STARTED)
    assert one.given is None and len(one.records) == 1
    (message,) = caplog.messages
    assert message.startswith(f"{file}: cannot be read (")
    assert message.endswith("), so observer one begins anew; it is kept as one.damaged")
    assert (tmp_path / "one.damaged").read_bytes() == damaged
    assert json.loads(file.read_text()) == {"seen": 1}


@pytest.mark.parametrize("state", [{"tensor": object()}, {"loss": float("nan")}])
def test_what_json_cannot_hold_is_said_once_and_the_observer_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, state: Any
) -> None:
    one = Keeps(state)
    observers = Observers({"one": one}, Memory(tmp_path))
    for record in (STARTED, SAVED, SAVED):
        observers.observe(record)
    assert len(one.records) == 3 and list(tmp_path.iterdir()) == []
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 'one.json'}: the state of observer one cannot be kept (")


def test_a_state_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "observers").write_text("a file in the way")
    observers = Observers({"one": Keeps()}, Memory(tmp_path / "observers"))
    for record in (STARTED, SAVED, SAVED):
        observers.observe(record)
    assert [message.partition(": ")[2].partition(" (")[0] for message in caplog.messages] == [
        "cannot be read",
        "the state of observer one cannot be kept",
    ]


def test_an_observer_that_does_not_take_its_state_back_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Refuses(Keeps):
        def load_state_dict(self, state: Any) -> None:
            raise KeyError("id")

    (tmp_path / "one.json").write_text("{}")
    one = Refuses()
    Observers({"one": one}, Memory(tmp_path)).observe(STARTED)
    assert (one.records, one.closed) == ([], 1)
    assert caplog.messages == ["observer one failed and is left out from now on: KeyError: 'id'"]
    assert (tmp_path / "one.json").read_text() == "{}"
