"""`runner.run`: a launch from Python, what it returns, and what it leaves in the process and on the disk."""

import json
import logging
import os
import random
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import runner


def process_wide() -> dict[str, object]:
    """What a run could leave changed in its process."""
    return {
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "threads": [thread.name for thread in threading.enumerate()],
        "torch threads": torch.get_num_threads(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "benchmark": torch.backends.cudnn.benchmark,
        "environment": dict(os.environ),
        "directory": Path.cwd(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "gradients": torch.is_grad_enabled(),
        "log": [list(logging.getLogger(name).handlers) for name in ("runner", "")],
        "level": [logging.getLogger(name).level for name in ("runner", "")],
    }


def test_a_run_returns_its_directory_its_metrics_and_its_model(short, tmp_path: Path) -> None:
    run = short("hydra.run.dir=here")
    assert (run.directory, run.outcome, run.reason) == (tmp_path / "here", "finished", "max_epochs")
    events = [record["event"] for record in run.records]
    assert events.count("step") == 5 and events[-1] == "end"
    (scores,) = [record for record in run.records if record.get("split") == "validation"]
    assert run.metrics == run.checkpoint().metrics
    assert run.best == scores["val_loss"] == run.checkpoint("best").metrics["val_loss"]
    assert not run.model.training
    for name, tensor in run.checkpoint().tensors().items():
        assert torch.equal(run.model.state_dict()[name], tensor)


@pytest.mark.parametrize("override", ["runtime.workers=2", "trainer.max_steps=2"])
def test_a_run_leaves_the_process_as_it_was(short, override: str) -> None:
    torch.manual_seed(5)
    before = process_wide()
    short(override, "runtime.threads=2", "trainer.deterministic=true")
    assert process_wide() == before


def test_a_failed_run_leaves_the_process_as_it_was(short, tmp_path: Path) -> None:
    (tmp_path / "failing_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        raise OverflowError('the net is full')\n"
    )
    before = process_wide()
    with pytest.raises(OverflowError, match="the net is full"):
        short("model._target_=failing_net.Net", "+model.out_features=10", "hydra.run.dir=here")
    assert process_wide() == before
    assert runner.run  # The process goes on.
    assert (tmp_path / "here" / "runner.log").read_text().count("OverflowError: the net is full") == 1
    end = json.loads((tmp_path / "here" / "attempts.jsonl").read_text().splitlines()[-1])
    assert (end["outcome"], end["reason"]) == ("failed", "OverflowError: the net is full")


def test_launch_words_are_understood_and_a_finished_run_gives_its_model_again(short) -> None:
    first = short("hydra.run.dir=here")
    again = runner.run(["+resume=here"])
    assert (again.directory, again.outcome, again.best) == (first.directory, "finished", first.best)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)
    more = runner.run(["+resume=here", "trainer.max_epochs=2"])
    assert more.checkpoint().step == 10
    assert len((more.directory / "attempts.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # Found when composing.
        ("trainer.epoch=1", "did you mean 'trainer.max_epochs'"),
        # Found only when building.
        ("monitor.metric=val_acc", "monitor.metric is 'val_acc', and an evaluation gives val_loss, val_accuracy"),
        ("model.dropout=2", "model.dropout is 2; wanted 0 or more, and below 1"),
        ("optimizer.groups=[{match: nothing}]", "fits no trained parameter"),
    ],
)
def test_a_refused_launch_raises_and_leaves_nothing(short, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(runner.ConfigError, match=message):
        short(override)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_refused_launch_removes_nothing_that_was_there_before(short, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text("")
    with pytest.raises(runner.ConfigError, match=r"val_acc"):
        short("monitor.metric=val_acc", "hydra.run.dir=.")
    assert (tmp_path / "code" / "mine.py").exists()


def test_a_refused_launch_leaves_the_empty_directory_that_its_user_stands_in(short, tmp_path, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(runner.RunnerError):
        short("hydra.run.dir=here", "model.hidden=[0]")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_refused_resume_leaves_the_run_as_it_was(short, tmp_path: Path) -> None:
    run = short("hydra.run.dir=here")
    with pytest.raises(runner.ConfigError, match="val_acc"):
        runner.run(["+resume=here", "monitor.metric=val_acc", "trainer.max_epochs=2"])
    assert run.checkpoint().step == 5


@pytest.mark.parametrize("word", ["+reset=[optimzer]", "+allow=[optimizer]"])
def test_a_launch_word_with_an_unknown_part_is_refused(short, word: str) -> None:
    short("hydra.run.dir=here")
    with pytest.raises(runner.ConfigError, match="wanted one of"):
        runner.run(["+resume=here", word])


def test_several_processes_are_refused_before_anything_is_made(
    short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(runner.ConfigError, match=r"WORLD_SIZE is '2'.*trains in one process.*unset WORLD_SIZE"):
        short()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert short("trainer.max_steps=1").outcome == "finished"


def test_a_refused_launch_leaves_a_typed_directory_with_other_files_as_it_was(short, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "notes.txt").write_text("mine")
    with pytest.raises(runner.DataError, match="less than one batch"):
        short("hydra.run.dir=here", "data.batch_size=100000", "data.drop_last=true")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["notes.txt"]
    assert short("hydra.run.dir=here", "trainer.max_steps=1").outcome == "finished"


def test_a_run_that_stopped_early_goes_on_only_when_that_is_changed(short) -> None:
    early = [
        "trainer.max_epochs=20",
        "trainer.early_stopping.patience=1",
        "trainer.early_stopping.min_delta=100",
        "hydra.run.dir=here",
    ]
    stopped = short(*early)
    assert (stopped.reason, stopped.checkpoint().epoch) == ("early_stopping", 2)
    again = runner.run(["+resume=here"])
    assert (again.reason, again.checkpoint().epoch) == ("early_stopping", 2)
    more = runner.run(["+resume=here", "trainer.early_stopping.patience=2"])
    assert (more.reason, more.checkpoint().epoch) == ("early_stopping", 3)
    anew = runner.run(["+resume=here", "+reset=[early_stopping]"])
    assert (anew.reason, anew.checkpoint().epoch) == ("early_stopping", 6)


def test_an_earlier_end_can_be_gone_on_from_after_a_later_one_stopped_early(short) -> None:
    short("hydra.run.dir=here", "checkpoint.keep.last=null", "checkpoint.keep.best=null")
    early = ["trainer.early_stopping.patience=1", "trainer.early_stopping.min_delta=100"]
    assert runner.run(["+resume=here", "trainer.max_epochs=5", *early]).reason == "early_stopping"
    assert runner.run(["+resume=here@step=5", "trainer.max_epochs=2"]).reason == "max_epochs"


def test_what_cannot_be_noted_at_the_end_of_an_attempt_does_not_hide_how_it_ended(short, tmp_path: Path) -> None:
    (tmp_path / "full.py").write_text(
        "import pathlib\n"
        "class Blocks:\n"
        "    def observe(self, record):\n"
        "        if type(record).__name__ == 'Ended':\n"
        "            attempts = pathlib.Path('here/attempts.jsonl')\n"
        "            attempts.unlink(); attempts.mkdir()\n"
        "    def close(self): pass\n"
    )
    run = short("hydra.run.dir=here", "+observers.blocks._target_=full.Blocks")
    assert run.outcome == "finished"
    assert "the end of the attempt could not be noted" in (run.directory / "runner.log").read_text()
