"""A small state and its store, and ways to break the world under them: file calls that fail, and processes that die."""

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.checkpoint import parts
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.records import Monitor, Progress, Saved

# Test modules are imported each by itself, so what they share is put within their reach here.
sys.path.append(str(Path(__file__).parent))

import scenes
from faults import FileCalls, dies

DOCUMENTS = {
    "config.yaml": b"seed: 0\n",
    "config.json": b'{"config": {"seed": 0, "monitor": {"metric": "val_loss", "mode": "min"}}, '
    b'"overrides": ["seed=0"]}',
}


@pytest.fixture
def file_calls() -> Callable[[], FileCalls]:
    return FileCalls


@pytest.fixture
def dying() -> Callable[[Callable[[], object], int, bool], bool]:
    """Runs an action in a child that dies at file call `number`, before or after it. False if it lived to its end."""
    return dies


def state_at(step: int) -> dict[str, Any]:
    """A small state with a tensor in every file of a checkpoint."""
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(4, 3, generator=generator)
    return {
        "model": {"head.weight": weight, "head.bias": torch.full((4,), float(step)), "base.weight": torch.ones(8, 8)},
        "optimizer": {"state": {"head.weight": {"step": torch.tensor(float(step)), "exp_avg": weight * 2}}},
        "rng": {"torch": torch.arange(16, dtype=torch.uint8), "python": (3, (1, 2), None)},
        "progress": {"step": step},
    }


@pytest.fixture
def make_state(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], dict[str, Any]]:
    # So that small states have all the files that great ones have.
    monkeypatch.setattr(parts, "FROZEN_FROM_BYTES", 1)
    return state_at


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[..., CheckpointStore]]:
    made: list[CheckpointStore] = []

    def make(
        directory: Path = tmp_path / "run" / "checkpoints",
        *,
        run: str = "run-1",
        keep: KeepPolicy | None = None,
        monitor: Monitor | None = None,
    ) -> CheckpointStore:
        store = CheckpointStore(
            directory,
            run=run,
            keep=keep or KeepPolicy(last=None, best=None, every_steps=None, every_hours=None),
            monitor=monitor,
            now=lambda: datetime(2026, 1, 2, tzinfo=UTC),
        )
        made.append(store)
        return store

    yield make
    # Each has a thread, and memory for copies.
    for store in made:
        store.close()


@pytest.fixture
def save(make_state: Callable[[int], dict[str, Any]]) -> Callable[..., Saved]:
    def save(store: CheckpointStore, step: int, **metrics: float) -> Saved:
        return store.save(
            make_state(step),
            progress=Progress(step=step, evaluated_step=step),
            reasons=("every_steps",),
            metrics=metrics,
            documents=DOCUMENTS,
            facts={"torch": "2"},
            frozen=["base.weight"],
            seconds=float(step),
        ).wait()

    return save


@pytest.fixture
def same() -> Callable[[Any, Any], bool]:
    """Whether two trees are the same: types, order of keys, dtypes, shapes and every bit."""

    def compare(one: Any, other: Any) -> bool:
        if type(one) is not type(other):
            return False
        if isinstance(one, torch.Tensor):
            if one.dtype != other.dtype or one.shape != other.shape:
                return False
            one, other = (t.resolve_conj().resolve_neg().contiguous().reshape(-1) for t in (one, other))
            return torch.equal(one.view(torch.uint8), other.view(torch.uint8))
        if isinstance(one, dict):
            return list(one) == list(other) and all(compare(one[key], other[key]) for key in one)
        if isinstance(one, list | tuple) and not isinstance(one, torch.Size):
            return len(one) == len(other) and all(map(compare, one, other))
        if isinstance(one, int):
            return bool(one == other)
        return repr(one) == repr(other)

    return compare


@pytest.fixture
def no_leftovers() -> Callable[[Path], bool]:
    def none(directory: Path) -> bool:
        return not [path for path in directory.rglob("*") if path.name.startswith(".tmp-")]

    return none


@pytest.fixture(params=scenes.NAMES)
def scene(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_store: Callable[..., CheckpointStore],
    save: Callable[..., Saved],
) -> scenes.Scene:
    """Each of the things that are done to checkpoints."""
    return scenes.scene_of(request.param, tmp_path, make_store, save)


@pytest.fixture
def is_whole(
    make_state: Callable[[int], dict[str, Any]], same: Callable[[Any, Any], bool]
) -> Callable[[Checkpoint], bool]:
    """Whether a checkpoint is on the disk as it was written, and holds the state of its step."""
    return lambda checkpoint: checkpoint.verify() == [] and same(checkpoint.state(), make_state(checkpoint.step))
