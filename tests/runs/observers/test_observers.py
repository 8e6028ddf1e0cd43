"""An observer that fails is named once and left out; the training does not notice."""

import pytest

import runner
from runner.records import Ended, Progress, Record
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


def test_one_that_fails_is_closed_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    before, broken, after = Notes(), Breaks(), Notes()
    observers = Observers({"before": before, "broken": broken, "after": after})
    for step in range(3):
        observers.observe(Ended(Progress(step), "finished", "max_steps"))
    assert [len(one.records) for one in (before, broken, after)] == [3, 1, 3]
    assert broken.closed == 1
    observers.close()
    observers.close()
    assert [one.closed for one in (before, broken, after)] == [1, 1, 1]
    assert caplog.messages == ["observer broken failed and is left out from now on: ZeroDivisionError: broken"]


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
