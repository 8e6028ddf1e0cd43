"""Runs gone on with under another config: what is applied, what is said, what is recorded."""

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import runner
from runner.cli.launch import launch
from runner.rundir import RunDir

Short = Callable[..., runner.Run]
Messages = Callable[[], list[str]]


def contents(directory: Path) -> dict[str, str]:
    """Every file under a directory, by a digest of its bytes."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_has_no_effect_on_a_finished_run_is_named_and_changes_nothing(short: Short, messages: Messages) -> None:
    directory = short().directory
    before = contents(directory / "checkpoints")
    again = runner.run([f"+resume={directory}", "optimizer.lr=0.5", "+optimizer.foreach=true"])
    assert again.outcome == "finished" and again.checkpoint().step == 5
    assert messages()[-2:] == [
        f"{directory.relative_to(Path.cwd())}: finished (max_epochs) at step 5; nothing to do",
        "no effect    optimizer.lr=0.5 +optimizer.foreach=true",
    ]
    assert contents(directory / "checkpoints") == before and len(RunDir.open(directory).attempts()) == 1


def test_differences_are_recorded_with_the_attempt_and_in_the_checkpoints_that_follow(short: Short) -> None:
    first = short()
    assert first.checkpoint().manifest.facts["overrides"][-1] == "trainer.log_every=1"
    assert "differences" not in first.checkpoint().manifest.facts
    again = runner.run([f"+resume={first.directory}", "trainer.max_epochs=2", "optimizer=sgd"])
    facts = again.checkpoint().manifest.facts
    assert facts["overrides"][-2:] == ["trainer.max_epochs=2", "optimizer=sgd"]
    differences = facts["differences"]
    assert {"key": "trainer.max_epochs", "saved": 1, "now": 2, "kind": "harmless"} in differences
    assert {"key": "optimizer.eps", "saved": 1e-8, "now": "(not there)", "kind": "course"} in differences
    assert RunDir.open(first.directory).attempts()[-1].facts["differences"] == differences


def test_another_value_of_the_environment_is_used_and_said(
    short: Short, messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LR", "0.001")
    text = "${oc.decode:${oc.env:LR}}"
    first = short(f"optimizer.lr='{text}'", "scheduler=constant")
    monkeypatch.setenv("LR", "0.004")
    again = runner.run([f"+resume={first.directory}", "trainer.max_epochs=2"])
    assert [record["lr"] for record in again.records if "lr" in record][-1] == 0.004
    assert f"differs: optimizer.lr: {text}, now {text}, another value" in messages()


def test_a_resume_of_a_resume_keeps_what_both_have_typed(short: Short) -> None:
    first = short()
    runner.run([f"+resume={first.directory}", "trainer.max_epochs=2", "optimizer=sgd", "optimizer.momentum=0.5"])
    third = runner.run([f"+resume={first.directory}", "trainer.max_epochs=3", "optimizer.lr=0.125"])
    optimizer = third.checkpoint().config["optimizer"]
    assert (optimizer["_target_"], optimizer["lr"], optimizer["momentum"]) == ("torch.optim.SGD", 0.125, 0.5)
    keys = [one["key"] for one in third.checkpoint().manifest.facts["differences"]]
    assert keys == ["optimizer.lr", "trainer.max_epochs"]


def test_a_command_that_cannot_find_the_users_model_says_where_its_source_was_kept(
    short: Short, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path("gonenets.py")
    source.write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self, hidden: int) -> None:\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, hidden), nn.Linear(hidden, 10))\n"
    )
    run = short("model._target_=gonenets.Net", "model.hidden=3").directory
    kept = run / "code" / "001" / "source" / "gonenets.py"
    assert kept.read_bytes() == source.read_bytes()
    source.unlink()
    monkeypatch.delitem(sys.modules, "gonenets")
    importlib.invalidate_caches()
    capsys.readouterr()
    assert launch([f"+resume={run}", "trainer.max_epochs=2"]) == 2
    refused, hint = capsys.readouterr().err.splitlines()
    assert f"{run}/checkpoints/step-000000005: model: _target_ 'gonenets.Net' is not trusted" in refused
    assert hint == (
        f"runner: gonenets: cannot be found from here; what was trained with is {kept}: "
        "copy it to gonenets.py in your project"
    )
    source.write_bytes(kept.read_bytes())
    importlib.invalidate_caches()
    assert launch([f"+resume={run}", "trainer.max_epochs=2"]) == 0
    assert runner.Checkpoint.open(run).epoch == 2
