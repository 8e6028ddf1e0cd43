"""An export is whole or not there, whatever happens to the disk or to its process while it is written."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.interop import read_weights
from runner.errors import CheckpointError, SaveError
from runner.records import Progress
from runner.runs.export import export
from runner.training.optimizer_state import capture

FILES = ("a.pt", "a.safetensors")


@pytest.fixture
def checkpoint(make_store: Callable[..., Any]) -> Checkpoint:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    store = make_store()
    store.save(
        {"model": model.state_dict(), "optimizer": capture(optimizer, model), "averaged": None},
        progress=Progress(step=1),
        reasons=("end",),
        metrics={"loss": 0.5},
        documents={"config.json": b'{"config": {"seed": 0}, "overrides": []}'},
        facts={},
    ).wait()
    return Checkpoint.open(store.directory)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_any_failing_call_leaves_nothing(
    name: str, code: int, checkpoint: Checkpoint, tmp_path: Path, file_calls: Callable[[], Any]
) -> None:
    before, number = sorted(tmp_path.iterdir()), 0
    while True:
        try:
            with file_calls().failing(number, code):
                export(checkpoint, tmp_path / name)
            break
        except (SaveError, CheckpointError) as error:
            assert str(tmp_path) in str(error)
        assert sorted(tmp_path.iterdir()) == before
        number += 1
    assert number > 5
    assert read_weights(tmp_path / name).tensors.keys() == {"weight", "bias"}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_process_that_dies_leaves_all_or_nothing(
    name: str,
    after: bool,
    checkpoint: Checkpoint,
    tmp_path: Path,
    dying: Callable[[Callable[[], object], int, bool], bool],
) -> None:
    target, number = tmp_path / name, 0
    while dying(lambda: export(checkpoint, target), number, after):
        if target.exists():
            assert read_weights(target).tensors.keys() == {"weight", "bias"}
            target.unlink()
        number += 1
    target.unlink()
    export(checkpoint, target)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
