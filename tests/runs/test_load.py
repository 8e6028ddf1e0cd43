"""A model rebuilt from its checkpoint alone."""

import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import runner

KEEP = ("checkpoint.keep.last=null", "checkpoint.keep.best=null", "hydra.run.dir=here")
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 10))

    def forward(self, x):
        return self.layers(x.flatten(1))
"""


def same(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == tensors.keys() and all(torch.equal(state[name], tensors[name]) for name in state)


def test_from_any_directory_and_by_any_path(short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = short(*KEEP)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    checkpoint = run.checkpoint()
    for path in (run.directory, str(run.directory), run.directory / "checkpoints", checkpoint.path, "../here"):
        model = runner.load(path)
        assert same(model, checkpoint.tensors()) and not model.training
    # Moved away from its run, a checkpoint still tells all that it takes.
    shutil.move(checkpoint.path, elsewhere / "kept")
    assert same(runner.load("kept"), runner.Checkpoint.open("kept").tensors())


def test_the_newest_the_best_or_that_of_a_step(short) -> None:
    run = short(
        *KEEP, "trainer.max_epochs=3", "optimizer.lr=0.3", "scheduler=constant", "checkpoint.save.every_steps=4"
    )
    best = run.checkpoint("best").step
    scores = {record["step"]: record["val_loss"] for record in run.records if record.get("split") == "validation"}
    assert scores[best] == min(scores.values()) == run.best
    for which, step in {"latest": 15, "best": best, 8: 8}.items():
        assert same(runner.load("here", which), run.checkpoint(step).tensors())
    with pytest.raises(runner.CheckpointError, match="has no checkpoint of step 7; the newest are of steps"):
        runner.load("here", 7)


def test_averaged_weights(short) -> None:
    run = short(*KEEP, "trainer.ema_decay=0.5")
    averaged = runner.load("here", weights="averaged")
    assert same(averaged, run.checkpoint().state()["averaged"]["model"])
    assert not same(averaged, run.checkpoint().tensors())


def test_averaged_weights_that_are_not_there_are_not_made_up(short) -> None:
    short(*KEEP)
    with pytest.raises(runner.CheckpointError, match="has no averaged weights; use the raw ones"):
        runner.load("here", weights="averaged")
    with pytest.raises(runner.CheckpointError, match="weights is 'ema'; wanted 'raw' or 'averaged'"):
        runner.load("here", weights="ema")


def test_in_another_precision(short) -> None:
    run = short(
        *KEEP,
        "model._target_=torch.nn.Sequential",
        "+model._args_=[{_target_: torch.nn.Flatten}, "
        "{_target_: torch.nn.BatchNorm1d, num_features: 64}, {_target_: torch.nn.Linear, in_features: 64, "
        "out_features: 10}]",
    )
    model = runner.load("here", dtype=torch.bfloat16)
    cast = run.checkpoint().tensors(dtype=torch.bfloat16)
    assert same(model, cast)
    assert {name: value.dtype for name, value in cast.items()} == {
        name: torch.int64 if name.endswith("num_batches_tracked") else torch.bfloat16 for name in cast
    }
    with pytest.raises(runner.CheckpointError, match=r"dtype is torch\.int8; wanted one of real numbers, such as"):
        runner.load("here", dtype=torch.int8)


def test_a_path_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(runner.CheckpointError, match="nowhere"):
        runner.load(tmp_path / "nowhere")


def test_nothing_is_drawn_and_nothing_of_the_run_is_written(short) -> None:
    run = short(*KEEP)
    files = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    runner.load("here")
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()} == files


def test_a_module_of_ones_own_needs_a_word_only_where_it_was_never_used(
    short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "load_net.py").write_text(NET)
    run = short("model._target_=load_net.Net", "+model.width=4", *KEEP)
    assert same(runner.load("here"), run.checkpoint().tensors())
    # Somebody else's account: nothing is remembered there.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
    with pytest.raises(runner.TrustError, match=r"'load_net\.Net' is not trusted.*trust=\[\"load_net\"\]"):
        runner.load("here")
    assert same(runner.load("here", trust=["load_net"]), run.checkpoint().tensors())


def test_where_the_module_is_missing_it_is_named_with_what_to_do(
    short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "absent_net.py").write_text(NET)
    short("model._target_=absent_net.Net", "+model.width=4", *KEEP)
    (tmp_path / "absent_net.py").unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    monkeypatch.delitem(sys.modules, "absent_net")
    with pytest.raises(runner.TrustError, match=r"'absent_net\.Net': 'absent_net' cannot be imported \(ModuleNotFound"):
        runner.load("here", trust=["absent_net"])
