"""Runs made with the real run directories and checkpoint stores, and `runs` as a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.records import Progress
from runner.rundir import RunDir

CONFIG: Mapping[str, Any] = {
    "seed": 0,
    "monitor": {"metric": "val_loss", "mode": "min"},
    "optimizer": {"lr": 0.1, "betas": [0.9, 0.99]},
    "checkpoint": {"keep": {"last": 2, "best": 1, "every_steps": None, "every_hours": None}},
}


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., "CompletedProcess[str]"]:
    """`call("diff", ...)`: `runs` in the test's directory, piped."""

    def call(*args: str | Path) -> "CompletedProcess[str]":
        program = [sys.executable, "-m", "runner.cli.runs", *map(str, args)]
        return subprocess.run(program, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)

    return call


def add_checkpoints(
    run: RunDir,
    scores: Mapping[int, float],
    *,
    config: Mapping[str, Any] = CONFIG,
    seconds: Sequence[float] = (),
    owner: str | None = None,
) -> None:
    store = CheckpointStore(
        run.checkpoints,
        run=run.id if owner is None else owner,
        keep=KeepPolicy(last=None, best=None, every_steps=None, every_hours=None),
        monitor=None,
    )
    document = json.dumps({"config": config, "overrides": [], "choices": {}}).encode()
    for number, (step, score) in enumerate(scores.items()):
        store.save(
            {
                "model": {"weight": torch.full((4, 4), score), "bias": torch.zeros(4)},
                "scheduler": {"at": step},
                "progress": {"step": step},
            },
            progress=Progress(step=step),
            reasons=("every_steps",),
            metrics={"val_loss": score},
            documents={"config.json": document},
            facts={},
            seconds=seconds[number] if seconds else float(step),
        ).wait()


@pytest.fixture
def more() -> Callable[..., None]:
    """`more(run, {step: val_loss})` adds checkpoints to a run."""
    return add_checkpoints


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDir]:
    """`make_run("a", {step: val_loss}, config=...)`: a run with a checkpoint at each step."""

    def make(name: str, scores: Mapping[int, float], **given: Any) -> RunDir:
        run = RunDir.create(tmp_path / name, name=name, identity="0123", created=datetime(2026, 1, 2, tzinfo=UTC))
        run.end_attempt(run.begin_attempt({}), "finished", "max_epochs", Progress(step=max(scores, default=0)))
        add_checkpoints(run, scores, **given)
        return run

    return make
