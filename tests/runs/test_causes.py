"""The likely cause of a difference, by what differed first, whether it is repeatable, and what is known to be new."""

import pytest

from runner.runs.causes import likely_cause


@pytest.mark.parametrize(
    ("first", "repeatable", "changed", "deterministic", "wanted"),
    [
        ("batches", False, False, True, "the data: * differs from itself, too; the data set draws from something else"),
        ("batches", False, True, False, "not seeded$"),
        ("generators", False, False, True, "the random draws: * differs from itself, too; how many random numbers"),
        ("loss", False, True, True, "the arithmetic: * differs from itself, too; model, objective or optimizer depend"),
        ("loss", False, False, False, "; or an algorithm gives other bits every time: trainer.deterministic is false$"),
        ("val_loss", False, False, True, "the evaluation: * validation data, model or metrics depend on something"),
        ("lr", True, True, True, "the schedule of the learning rate: * it is the same; what has changed since is"),
        ("batches", True, False, True, "the data: * it is the same; files or code of the data have changed that"),
        ("grad_norm", True, False, True, "the arithmetic: * it is the same; code or a file has changed"),
        ("state", True, False, False, "what the losses do not show: * code or a file has changed that nobody took"),
    ],
)
def test_the_likely_cause(first: str, repeatable: bool, changed: bool, deterministic: bool, wanted: str) -> None:
    event = "evaluation" if first == "val_loss" else first
    cause = likely_cause(event, repeatable=repeatable, changed=changed, deterministic=deterministic)
    for part in wanted.rstrip("$").split(" * "):
        assert part in cause
    assert not wanted.endswith("$") or cause.endswith(wanted[:-1])
    assert "taken twice here" in cause
