"""A file of another version than its class has now, said by every reader that makes the model of it."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import runner
from runner import ModelContainer, save_load


@save_load(version="1")
class Versioned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 1)


def through_the_package(path: Path) -> Any:
    return runner.load(path, trust=[__name__])


def through_a_container(path: Path) -> Any:
    return ModelContainer().load(path, trust=[__name__])


@pytest.mark.parametrize("read", [through_the_package, through_a_container])
def test_another_version_is_told_by_readers_that_are_not_the_class(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pth"
    Versioned().save(path)  # type: ignore[operator]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(path)
    settings = dataclasses.replace(Versioned._runner_save_load, version="2")  # type: ignore[attr-defined]
    monkeypatch.setattr(Versioned, "_runner_save_load", settings)
    with pytest.warns(UserWarning) as told:
        read(path)
    assert [(str(one.message), Path(one.filename)) for one in told] == [
        (f"{path}: was saved by version '1' of Versioned, and this is '2'", Path(__file__))
    ]
