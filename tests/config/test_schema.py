import re
from dataclasses import dataclass
from typing import Any

import pytest

from runner.checkpoint.policies import KeepPolicy, SavePolicy
from runner.config.schema import SCHEMAS, Checkpointing, Runtime, typed

RUNTIME = {"device": "auto", "workers": 0, "threads": None, "compile": False, "progress": True}


SAVING = {
    "name": "step-{step:09d}",
    "asynchronous": True,
    "when_busy": "wait",
    "on_failure": "stop",
    "read_back": False,
}


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({"worker": 3}, ["runtime.worker: no such key; did you mean 'runtime.workers'?"]),
        ({"workers": 1.5}, ["runtime.workers is 1.5; wanted a whole number"]),
        ({"workers": "many"}, ["runtime.workers is 'many'; wanted a whole number"]),
        ({"workers": None}, ["runtime.workers is null; wanted a whole number"]),
        ({"threads": "x"}, ["runtime.threads is 'x'; wanted a whole number or null"]),
        ({"compile": "maybe"}, ["runtime.compile is 'maybe'; wanted true or false"]),
        ({"workers": [1]}, ["runtime.workers is [1]; wanted a whole number"]),
        ({"workers": "???"}, ["runtime.workers: no value yet; type runtime.workers=VALUE"]),
        (
            {"device": "gpu", "workers": -1, "threads": 0},
            [
                "runtime.device is 'gpu'; wanted one of auto, cpu, cuda, mps, or cuda:N",
                "runtime.workers is -1; wanted 0 or more processes",
                "runtime.threads is 0; wanted a whole number from 1, or null",
            ],
        ),
    ],
)
def test_every_wrong_value_is_told(change: dict[str, Any], problems: list[str]) -> None:
    assert typed(Runtime, "runtime", RUNTIME | change) == (None, problems)


def test_what_is_good_becomes_the_typed_section() -> None:
    made, problems = typed(Runtime, "runtime", RUNTIME | {"workers": "2", "device": "cuda:1"})
    assert problems == []
    assert made == Runtime(device="cuda:1", workers=2, threads=None, compile=False, progress=True)


def test_nested_sections_are_checked_and_a_missing_key_is_told() -> None:
    save = {
        "every_steps": None,
        "at_steps": ["5", 100],
        "every_epochs": 1,
        "every_seconds": "1e1",
        "budget": 5,
        "on_improvement": False,
        "min_delta": 0,
        "at_end": True,
    }
    made, problems = typed(
        Checkpointing,
        "checkpoint",
        {**SAVING, "save": save, "keep": {"last": 2, "best": None, "every_steps": None, "every_hours": None}},
    )
    assert problems == [] and made is not None
    assert made.save == SavePolicy(None, [5, 100], 1, 10.0, 5.0, False, 0.0, True)
    made, problems = typed(Checkpointing, "checkpoint", {**SAVING, "save": {**save, "every": 3}, "keep": 5})
    assert problems == [
        "checkpoint.save.every: no such key; did you mean 'checkpoint.save.every_steps'?",
        "checkpoint.keep is 5; wanted a section with last, best, every_steps, every_hours",
    ]
    assert typed(Checkpointing, "checkpoint", {"name": "a", "asynchronous": True, "save": save, "keep": {}})[1] == [
        "checkpoint.when_busy: not there; type ++checkpoint.when_busy=VALUE",
        "checkpoint.on_failure: not there; type ++checkpoint.on_failure=VALUE",
        "checkpoint.read_back: not there; type ++checkpoint.read_back=VALUE",
        "checkpoint.keep.last: not there; type ++checkpoint.keep.last=VALUE",
        "checkpoint.keep.best: not there; type ++checkpoint.keep.best=VALUE",
        "checkpoint.keep.every_steps: not there; type ++checkpoint.keep.every_steps=VALUE",
        "checkpoint.keep.every_hours: not there; type ++checkpoint.keep.every_hours=VALUE",
    ]
    for wrong in (100, [1.5], "ten"):
        assert typed(SavePolicy, "checkpoint.save", {**save, "at_steps": wrong})[1] == [
            f"checkpoint.save.at_steps is {wrong!r}; wanted a list of whole numbers or null"
        ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"when_busy": "hurry"}, "checkpoint.when_busy is 'hurry'; wanted wait or skip"),
        ({"on_failure": "cry"}, "checkpoint.on_failure is 'cry'; wanted stop or continue"),
        ({"name": "{stap}"}, "checkpoint.name is '{stap}'"),
    ],
)
def test_how_to_save_is_checked(change: dict[str, Any], problem: str) -> None:
    save = SavePolicy(None, None, 1, None, None, False, 0.0, True)
    keep = KeepPolicy(None, None, None, None)
    with pytest.raises(ValueError, match=re.escape(problem)):
        Checkpointing(**{**SAVING, **change}, save=save, keep=keep)


def test_the_schemas_hold_no_values() -> None:
    @dataclass
    class Counted:
        number: int

    for schema in (*SCHEMAS.values(), Counted):
        with pytest.raises(TypeError, match="missing"):
            schema()
