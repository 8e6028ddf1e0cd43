"""What a run does about its saves: the record of each, failures, names, memory, and what it says at the end."""

from collections.abc import Callable
from pathlib import Path

import pytest

import runner

FULL = """
import errno, os

class Full:
    '''A disk that is full from the end of epoch `begin` until that of epoch `end`.'''

    def __init__(self, begin, end):
        self.begin, self.end, self.real = begin, end, os.posix_fallocate

    def observe(self, record):
        if type(record).__name__ == "Epoch" and record.progress.epoch == self.begin:
            os.posix_fallocate = self.refuse
        if type(record).__name__ == "Epoch" and record.progress.epoch == self.end:
            os.posix_fallocate = self.real

    def refuse(self, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self):
        os.posix_fallocate = self.real
"""


@pytest.fixture
def full(tmp_path: Path) -> Callable[[int, int], list[str]]:
    (tmp_path / "full_disk.py").write_text(FULL)
    return lambda begin, end: [
        "+observers.full._target_=full_disk.Full",
        f"+observers.full.begin={begin}",
        f"+observers.full.end={end}",
        "trainer.max_epochs=4",
        "checkpoint.asynchronous=false",
        "checkpoint.keep.last=null",
        "checkpoint.keep.best=null",
    ]


@pytest.mark.parametrize("asynchronous", ["true", "false"])
def test_every_save_is_recorded_with_what_it_cost(short, asynchronous: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = short("trainer.max_epochs=3", f"checkpoint.asynchronous={asynchronous}")
    saved = [record for record in run.records if record["event"] == "saved"]
    assert [record["step"] for record in saved] == [5, 10, 15]
    for record in saved:
        assert record["bytes"] == record["written"] > 100_000
        assert record["stall"] > 0 and record["seconds"] > 0 and 0 < record["share"] <= 1
    if asynchronous == "false":
        assert all(record["stall"] >= record["seconds"] - 0.001 for record in saved)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("saves  ")]
    assert "saves        3, " in line and "; waited " in line and "of training); durable in " in line


def test_a_full_disk_stops_the_run_by_default(short, full) -> None:
    with pytest.raises(runner.SaveError, match=r"step-000000010: could not be saved \(No space left on device\)"):
        short(*full(2, 9), "hydra.run.dir=here")
    assert [path.name for path in Path("here/checkpoints").iterdir()] == ["step-000000005"]


def test_a_run_that_may_go_on_records_what_was_not_saved_and_saves_again(
    short, full, messages, capsys: pytest.CaptureFixture[str]
) -> None:
    run = short(*full(2, 3), "checkpoint.on_failure=continue")
    assert [path.name for path in sorted((run.directory / "checkpoints").iterdir())] == [
        "step-000000005",
        "step-000000015",
        "step-000000020",
    ]
    (failed,) = [record for record in run.records if record["event"] == "save_failed"]
    assert failed["step"] == 10 and "No space left on device" in failed["message"]
    assert any("step 10 was not saved, and the training goes on" in message for message in messages())
    assert "saves        3, 1 MB, 1 failed; waited " in capsys.readouterr().out


def test_failures_are_said_when_they_begin_and_when_they_end(short, full, messages) -> None:
    short(*full(1, 3), "checkpoint.on_failure=continue")
    said = [message for message in messages() if "was not saved" in message or "could not be" in message]
    assert [message.partition(",")[0] for message in said] == [
        "step 5 was not saved",
        "step 10 was not saved",
        "step 15 is saved; before it",
    ]
    assert said[-1] == "step 15 is saved; before it, 2 could not be"


def test_a_metrics_file_that_cannot_be_written_stops_only_who_wants_that(
    short, messages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torn.py").write_text(
        "import errno, os\n"
        "class Torn:\n"
        "    def __init__(self): self.real = os.pwrite\n"
        "    def observe(self, record):\n"
        "        if type(record).__name__ == 'Step':\n"
        "            os.pwrite = self.refuse if record.progress.step in (6, 7) else self.real\n"
        "    def refuse(self, *_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "    def close(self): os.pwrite = self.real\n"
    )
    torn = ["+observers.torn._target_=torn.Torn", "trainer.max_epochs=2", "trainer.log_every=1"]
    torn.append("checkpoint.asynchronous=false")
    with pytest.raises(runner.SaveError, match=r"metrics\.jsonl: cannot be written \(No space left"):
        short(*torn)
    run = short(*torn, "checkpoint.on_failure=continue")
    assert [r["step"] for r in run.records if r["event"] == "step"] == [1, 2, 3, 4, 5, 6, 9, 10]
    assert any("records are lost, and the training goes on" in message for message in messages())
    assert any("records are written again; 2 were lost" in message for message in messages())


def test_a_run_that_saves_nothing_says_so(short, capsys: pytest.CaptureFixture[str]) -> None:
    never = ["every_epochs=null", "on_improvement=false", "at_end=false"]
    short(*(f"checkpoint.save.{word}" for word in never))
    out = capsys.readouterr().out
    assert "nothing was saved, so there is nothing to resume or to load; see checkpoint.save" in out
    assert "runner.load(" not in out and "+resume=" not in out


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "checkpoint.keep.best={val_los:{mode:min,n:2}}",
            r"checkpoint\.keep\.best\.val_los is 'val_los', .*did you mean 'val_loss'",
        ),
        ('checkpoint.name="{val_los:.4f}"', r"\{val_los\} in checkpoint\.name is 'val_los', .*did you mean 'val_loss'"),
        ("checkpoint.keep.best={}", r"checkpoint\.keep\.best is \{\}; wanted"),
    ],
)
def test_a_metric_that_nothing_measures_is_refused_before_training(short, override: str, problem: str) -> None:
    with pytest.raises(runner.ConfigError, match=problem):
        short(override)
    assert list(Path().rglob("run.json")) == []


def test_a_run_does_not_end_well_without_its_last_state(short, full) -> None:
    with pytest.raises(runner.SaveError, match="No space left on device"):
        short(*full(3, 9), "checkpoint.on_failure=continue")


def test_checkpoints_are_named_from_the_template(short) -> None:
    run = short("trainer.max_epochs=2", 'checkpoint.name="e{epoch:02d}-{val_loss:.3f}"', "checkpoint.keep.last=5")
    losses = [r["val_loss"] for r in run.records if r["event"] == "evaluation" and r["split"] == "validation"]
    names = {path.name for path in (run.directory / "checkpoints").iterdir()}
    assert names == {f"e{number:02d}-{loss:.3f}" for number, loss in enumerate(losses, start=1)}
    assert runner.Checkpoint.open(run.directory).step == 10


def test_a_save_is_the_same_in_the_background_and_not(short) -> None:
    runs = [short(f"checkpoint.asynchronous={value}", "trainer.max_epochs=2") for value in ("true", "false")]
    one, other = (runner.Checkpoint.open(run.directory) for run in runs)
    for name in ("model.safetensors", "optimizer.safetensors", "extra.safetensors", "state.json"):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes()
