"""What a run says at its start and at its end."""

import io
from pathlib import Path

import pytest
from rich.console import Console

import runner
from runner.runs import report


def shown(config: dict[str, object], overrides: list[str]) -> list[str]:
    text = io.StringIO()
    console = Console(file=text, width=80, color_system=None)
    report.start(console, "mine", Path("/elsewhere/run"), config, overrides)
    return [line.rstrip() for line in text.getvalue().splitlines()]


CONFIG = {
    "name": "mine",
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "betas": [0.9, None], "groups": []},
    "trainer": {"clip_norm": None, "evaluate": {"weights": "raw"}},
    "data": {"api_key": "geheim-4711"},
}


@pytest.mark.parametrize(
    ("overrides", "marked"),
    [
        ([], []),
        (["optimizer.lr=0.1"], ["lr=0.1*"]),
        (["++optimizer.lr=0.1", "trainer.evaluate.weights=raw"], ["lr=0.1*", "weights=raw*"]),
        (["optimizer=sgd"], ["torch.optim.SGD*", "lr=0.1*", "betas=[0.9,null]*", "groups=[]*"]),
        (["optimizer._target_=torch.optim.SGD"], ["torch.optim.SGD*"]),
        (["hydra.run.dir=run", "experiment=mine"], []),
    ],
)
def test_what_was_overridden_is_marked(overrides: list[str], marked: list[str]) -> None:
    lines = shown(CONFIG, overrides)
    assert lines[0] == "mine  /elsewhere/run"
    words = " ".join(lines[1:]).split()
    assert [word for word in words if word.endswith("*") and len(word) > 1] == marked
    assert (lines[-1] == "* overridden by this launch") == bool(marked)


def test_the_config_is_shown_as_it_is_typed_and_without_secrets() -> None:
    text = "\n".join(shown(CONFIG, []))
    assert "lr=0.1  betas=[0.9,null]  groups=[]" in text and "clip_norm=null" in text
    assert "geheim" not in text and "api_key=" in text


def test_a_resume_says_where_it_goes_on_and_what_differs(short, messages) -> None:
    short("hydra.run.dir=here")
    runner.run(["+resume=here", "trainer.max_epochs=2", "optimizer.weight_decay=0.5"])
    said = messages()
    assert "resumed from here/checkpoints/step-000000005" in said
    assert "at step 5, epoch 1, learning rate 0.00176047" in said
    assert "differs: trainer.max_epochs: 1, now 2" in said
    assert "differs: optimizer.weight_decay: 0.01, now 0.5" in said


def test_nothing_that_is_said_is_wider_than_a_terminal(short, capsys: pytest.CaptureFixture[str]) -> None:
    short("hydra.run.dir=here", "optimizer.groups=[{match: '*.bias', weight_decay: 0}]")
    short("hydra.run.dir=cnn", "experiment=digits_cnn")
    runner.run(["+resume=here", "trainer.max_epochs=2", "optimizer.weight_decay=0.5"])
    runner.run(["+resume=here"])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    # A terminal wraps these between words.
    wrapped = ("not as it was: ", "restored: ")
    assert [line for line in lines if len(line) > 80 and not line.startswith(wrapped)] == []


@pytest.mark.parametrize(
    ("more", "command"),
    [
        (None, "runner '+resume=with space'"),
        ("max_steps", "runner '+resume=with space' trainer.max_steps=..."),
        ("early_stopping", "runner '+resume=with space' trainer.early_stopping.patience=..."),
    ],
)
def test_the_command_that_goes_on_can_be_copied(tmp_path: Path, more: str | None, command: str) -> None:
    assert report.resume_command(tmp_path / "with space", more=more) == command
