"""What a checkpoint scores, measured again: the numbers of the training, bit for bit, or what speaks against that."""

import importlib
import json
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import runner
from runner.checkpoint.archive import pack
from runner.checkpoint.files import record_of
from runner.checkpoint.manifest import MANIFEST_NAME, read_manifest, to_bytes
from runner.runs.evaluating import evaluate_checkpoint
from runner.runs.saved import opened

Short = Callable[..., runner.Run]
KEEP = ("checkpoint.keep.last=null", "checkpoint.keep.best=null", "hydra.run.dir=here", "trainer.max_epochs=2")

OWN = """
import random
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split
import runner

class Noisy(torch.nn.Module):
    '''Draws in eval mode, too, and remembers what its state dict leaves out.'''
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(64)
        self.layer = torch.nn.Linear(64, 10)
        self.register_buffer("memory", torch.zeros(10), persistent=False)
    def forward(self, x):
        y = self.layer(self.norm(x.flatten(1))) + 0.1 * torch.randn(len(x), 10) * random.random() + self.memory
        self.memory = self.memory + y.detach().mean(0)
        return y

class Counting(torch.nn.Module):
    '''A loss with a state of its own.'''
    metrics = {}
    def __init__(self):
        super().__init__()
        self.calls = 0
    def count(self, batch):
        return len(batch[0])
    def loss(self, model, batch):
        self.calls += model.training
        outputs = model(batch[0])
        return torch.nn.functional.cross_entropy(outputs, batch[1]) * (1 + 0.01 * self.calls), outputs
    def state_dict(self):
        return {"calls": self.calls}
    def load_state_dict(self, state):
        self.calls = state["calls"]

class Drawn(Dataset):
    '''Every sample is drawn anew when it is read.'''
    def __init__(self, size):
        self.size = size
    def __len__(self):
        return self.size
    def __getitem__(self, index):
        return torch.randn(64) + np.random.randn() * 0.1, index % 10

def split_at_random():
    every = TensorDataset(torch.randn(300, 64), torch.arange(300) % 10)
    train, validation = random_split(every, [200, 100])
    return runner.Data(train=train, validation=validation)

def drawn():
    return runner.Data(train=Drawn(200), validation=Drawn(100), test=Drawn(50))

def loader():
    x, y = torch.randn(300, 64, generator=torch.Generator().manual_seed(0)), torch.arange(300) % 10
    return runner.Data(train=TensorDataset(x, y), validation=DataLoader(TensorDataset(x, y), 64, shuffle=True))
"""
SETUPS: dict[str, tuple[str, ...]] = {
    "as it comes": (),
    "batch norm and augmentation": ("experiment=digits_cnn", "data.batch_size=512"),
    "averaged weights": ("trainer.ema_decay=0.5", "trainer.evaluate.weights=averaged"),
    "averaged weights that are not evaluated": ("trainer.ema_decay=0.5",),
    "bf16": ("trainer.precision=bf16",),
    "fp16": ("trainer.precision=fp16",),
    "small batches, and not all": ("data.evaluation_batch_size=7", "trainer.limits.evaluation_batches=3"),
    "a drawn seed": ("seed=null",),
    "a model that draws and remembers": ("model._target_=own_parts.Noisy",),
    "the same, averaged": (
        "model._target_=own_parts.Noisy",
        "trainer.ema_decay=0.5",
        "trainer.evaluate.weights=averaged",
    ),
    "an objective with a state": ("objective._target_=own_parts.Counting",),
    "data split at random": ("data._target_=own_parts.split_at_random",),
    "samples drawn when they are read": ("data._target_=own_parts.drawn",),
    "samples drawn in processes": ("data._target_=own_parts.drawn", "runtime.workers=2"),
    "a loader that shuffles": ("data._target_=own_parts.loader",),
}


@pytest.fixture(autouse=True)
def _own_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    (tmp_path / "own_parts.py").write_text(OWN)


@pytest.mark.parametrize("setup", SETUPS)
def test_the_numbers_are_those_of_the_training_bit_for_bit(setup: str, short: Short) -> None:
    run = short(*KEEP, *SETUPS[setup])
    first, last = (runner.Checkpoint.open("here", step) for step in sorted(steps_of(run))[-2:])
    for checkpoint in (first, last):
        measured = evaluate_checkpoint(checkpoint)
        assert measured.metrics == {k: v for k, v in checkpoint.metrics.items() if k.startswith("val_")}
        assert measured.equal is True and measured.not_exact == ()
    if "test_loss" in last.metrics:
        tested = evaluate_checkpoint(last, split="test")
        assert tested.metrics == {k: v for k, v in last.metrics.items() if k.startswith("test_")}
        assert tested.equal is True


def steps_of(run: runner.Run) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in (run.directory / "checkpoints").glob("step-*")]


def test_it_is_measured_in_another_process_and_from_a_packed_file_too(short: Short, launch, tmp_path: Path) -> None:
    run = short(*KEEP, "model._target_=own_parts.Noisy")
    pack(run.checkpoint(), tmp_path / "x.zip")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(run.directory, tmp_path / "elsewhere" / "moved")
    for path in ("x.zip", "elsewhere/moved@latest"):
        done = launch(["evaluate", path, "--json"], tmp_path, script="runs")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["equal"] is True and said["recorded"] == said["metrics"]
        assert said["metrics"]["val_loss"] == opened(tmp_path / "x.zip").metrics["val_loss"]


def test_overrides_change_what_is_measured(short: Short) -> None:
    short(*KEEP)
    usual = evaluate_checkpoint(opened("here"))
    limited = evaluate_checkpoint(
        opened("here"), ["trainer.limits.evaluation_batches=1", "data.evaluation_batch_size=9"]
    )
    assert limited.metrics != usual.metrics and limited.equal is None
    assert limited.recorded == usual.recorded
    metric = "{_target_: runner.training.objective.Accuracy}"
    named = evaluate_checkpoint(opened("here"), [f"+objective.metrics.hits={metric}"])
    assert named.metrics["val_hits"] == named.metrics["val_accuracy"] == usual.metrics["val_accuracy"]
    assert "val_hits" not in named.recorded
    other = evaluate_checkpoint(opened("here"), ["data._target_=own_parts.drawn"])
    assert other.metrics["val_loss"] != usual.metrics["val_loss"]


def test_weights_are_those_of_the_training_unless_others_are_asked_for(short: Short) -> None:
    run = short(*KEEP, "trainer.ema_decay=0.9", "trainer.evaluate.weights=averaged")
    used = {weights: evaluate_checkpoint(run.checkpoint(), weights=weights) for weights in (None, "raw", "averaged")}
    assert {weights: measured.weights for weights, measured in used.items()} == {
        None: "averaged",
        "raw": "raw",
        "averaged": "averaged",
    }
    assert used[None].metrics == used["averaged"].metrics != used["raw"].metrics
    assert [measured.equal for measured in used.values()] == [True, None, True]


@pytest.mark.parametrize(
    ("asked", "overrides", "message"),
    [
        ({"split": "train"}, (), "split is 'train'; wanted validation or test"),
        ({"weights": "ema"}, (), "weights is 'ema'; wanted 'raw' or 'averaged'"),
        ({"weights": "averaged"}, (), "step-000000010: has no averaged weights; use the raw ones"),
        ({"split": "test"}, ("data._target_=own_parts.loader",), "its data have no test split; there is validation"),
        ({}, ("trainer.precision=fp8",), "trainer.precision is 'fp8'; wanted one of fp32, bf16, fp16"),
        ({}, ("data.evaluation_batch_size=0",), "data.evaluation_batch_size is 0; wanted at least 1"),
        ({}, ("runtime.device=tpu",), "runtime.device is 'tpu'"),
        ({}, ("data.evaluation_batchsize=2",), "did you mean 'data.evaluation_batch_size'"),
        ({}, ("model.hidden=[128,64]",), r"with model.hidden=\[128,64\]: .*layers.4.weight: saved \(128, 128\)"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    asked: dict[str, str], overrides: tuple[str, ...], message: str, short: Short
) -> None:
    run = short(*KEEP)
    with pytest.raises(runner.RunnerError, match=message):
        evaluate_checkpoint(run.checkpoint(), overrides, **asked)


def test_a_step_that_the_training_did_not_evaluate_has_nothing_to_compare_with(short: Short) -> None:
    run = short(*KEEP, "checkpoint.save.every_steps=3")
    measured = evaluate_checkpoint(run.checkpoint(3))
    assert measured.recorded == {} and measured.equal is None
    assert measured.metrics["val_loss"] > 0


def test_what_is_not_as_it_was_is_said(short: Short) -> None:
    run = short(*KEEP)
    before = torch.get_num_threads()
    measured = evaluate_checkpoint(run.checkpoint(), ["runtime.threads=2"])
    assert torch.get_num_threads() == before
    assert any(line.startswith("threads: 1 then, 2 now") for line in measured.not_exact)


def test_code_that_has_changed_since_is_named(short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = short(*KEEP, "data._target_=own_parts.loader")
    (tmp_path / "own_parts.py").write_text(OWN.replace("shuffle=True", "shuffle=False"))
    monkeypatch.delitem(sys.modules, "own_parts")
    importlib.invalidate_caches()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    measured = evaluate_checkpoint(run.checkpoint())
    assert measured.equal is False
    kept = run.directory / "code" / "001" / "source" / "own_parts.py"
    assert measured.not_exact == (f"own_parts.py: has changed since; what was trained with is {kept}",)


def test_nothing_is_drawn_and_nothing_of_the_run_is_written(short: Short) -> None:
    run = short(*KEEP, "model._target_=own_parts.Noisy")
    files = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    evaluate_checkpoint(run.checkpoint())
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()} == files


def test_neither_optimizer_nor_scheduler_are_wanted(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_optimizer.py").write_text("import torch\nclass Own(torch.optim.SGD): pass\n")
    run = short(*KEEP, "optimizer=sgd", "optimizer._target_=own_optimizer.Own")
    (tmp_path / "own_optimizer.py").unlink()
    monkeypatch.delitem(sys.modules, "own_optimizer")
    (run.checkpoint().path / "optimizer.safetensors").unlink()
    assert evaluate_checkpoint(run.checkpoint()).equal is True


def test_data_from_somebody_else_are_not_trusted(
    short: Short, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = short(*KEEP, "data._target_=own_parts.loader")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("theirs")))
    with pytest.raises(
        runner.TrustError, match=r"data: _target_ 'own_parts\.loader' is not trusted.*\+trust=\[own_parts"
    ):
        evaluate_checkpoint(run.checkpoint())
    assert evaluate_checkpoint(run.checkpoint(), trust=["own_parts"]).equal is True
    assert evaluate_checkpoint(run.checkpoint(), ["+trust=[own_parts]"]).equal is True


def forge(checkpoint: Path, name: str, data: bytes) -> None:
    """Put `data` in the place of a file, with the right checksums in the manifest."""
    manifest = read_manifest(checkpoint)
    (checkpoint / name).write_bytes(data)
    forged = replace(manifest, files={**manifest.files, name: record_of([data])})
    (checkpoint / MANIFEST_NAME).write_bytes(to_bytes(forged))


def test_what_a_newer_runner_wants_is_taken_from_conf(short: Short) -> None:
    run = short(*KEEP)
    path = run.checkpoint().path
    values = json.loads((path / "config.json").read_text())
    tree = values["config"]
    del tree["trainer"]["deterministic"], tree["trainer"]["limits"], tree["runtime"]["workers"]
    forge(path, "config.json", json.dumps(values).encode())
    forge(path, "config.yaml", json.dumps(tree).encode())
    assert evaluate_checkpoint(run.checkpoint()).equal is True
    measured = evaluate_checkpoint(run.checkpoint(), ["data.evaluation_batch_size=100"])
    assert measured.metrics["val_accuracy"] == run.checkpoint().metrics["val_accuracy"]
