"""Runs of a second, in this process, through the same doors as the commands."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

import runner

SHORT = (
    "runtime.device=cpu",
    "data.batch_size=256",  # An epoch has 5 steps.
    "trainer.max_epochs=1",
    "trainer.log_every=1",
)


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def short() -> Callable[..., runner.Run]:
    """`short("a=b", ...)` carries out one short run of the default experiment."""

    def short(*overrides: str) -> runner.Run:
        return runner.run([*SHORT, *overrides])

    return short


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the package has logged so far."""
    caplog.set_level(logging.INFO, "runner")
    return lambda: [record.getMessage() for record in caplog.records]
