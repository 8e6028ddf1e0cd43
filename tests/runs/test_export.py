"""Weights of a checkpoint for other programs, read by those programs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import runner
from runner.checkpoint.interop import read_weights
from runner.runs.export import export
from runner.runs.restorable import read_restorable

SECRET = "sk-abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def run(short) -> runner.Run:
    return short("hydra.run.dir=here", "trainer.ema_decay=0.5", "checkpoint.keep.last=null")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def averaged(checkpoint: runner.Checkpoint) -> dict[str, Tensor]:
    return checkpoint.state()["averaged"]["model"]


def test_safetensors_by_its_own_library(run: runner.Run) -> None:
    checkpoint = run.checkpoint()
    size = export(checkpoint, Path("a.safetensors"))
    assert size == Path("a.safetensors").stat().st_size
    assert same(load_file("a.safetensors"), checkpoint.tensors())
    with safe_open("a.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["runner.config"]) == checkpoint.config
    assert metadata["format"] == "pt" and metadata["runner.weights"] == "raw" and metadata["runner.step"] == "5"
    assert json.loads(metadata["runner.metrics"])["val_loss"] == repr(checkpoint.metrics["val_loss"])
    export(checkpoint, Path("b.safetensors"), weights="averaged")
    assert same(load_file("b.safetensors"), averaged(checkpoint))
    assert not same(load_file("b.safetensors"), checkpoint.tensors())


def test_no_secret_gets_into_the_header(short) -> None:
    run = short("hydra.run.dir=here", f"name={SECRET}")
    export(run.checkpoint(), Path("a.safetensors"))
    assert SECRET.encode() not in Path("a.safetensors").read_bytes()


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=adamw",),
        ("optimizer=sgd", "optimizer.momentum=0.9"),
        ("optimizer=adamw", "optimizer.groups=[{match: '*.bias', weight_decay: 0}]"),
    ],
)
def test_a_torch_file_goes_on_in_a_plain_training_loop(short, overrides: tuple[str, ...]) -> None:
    run = short("hydra.run.dir=here", "scheduler=constant", *overrides)
    checkpoint = run.checkpoint()
    export(checkpoint, Path("a.pt"))
    saved: dict[str, Any] = torch.load("a.pt", weights_only=True)
    assert list(saved) == ["epoch", "model_state_dict", "optimizer_state_dict", "loss"]
    assert (saved["epoch"], saved["loss"]) == (1, checkpoint.metrics["loss"])
    model = runner.load("here").train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict(saved["model_state_dict"])
    assert same(model.state_dict(), checkpoint.tensors())
    kind = torch.optim.SGD if overrides[0] == "optimizer=sgd" else torch.optim.AdamW
    named = dict(model.named_parameters())
    biases = [value for name, value in named.items() if name.endswith("bias")]
    others = [value for name, value in named.items() if not name.endswith("bias")]
    split = [{"params": biases, "weight_decay": 0}, {"params": others}]
    optimizer = kind(split if len(overrides) > 1 and "groups" in overrides[1] else model.parameters(), lr=1.0)
    optimizer.load_state_dict(saved["optimizer_state_dict"])
    captured = checkpoint.state()["optimizer"]
    assert optimizer.param_groups[0]["lr"] == captured["groups"][0]["lr"]
    for name, values in captured["state"].items():
        for key, value in values.items():
            loaded = optimizer.state[named[name]][key]
            assert torch.equal(loaded, value) if isinstance(value, Tensor) else loaded == value
    nn.functional.cross_entropy(model(torch.zeros(2, 1, 8, 8)), torch.tensor([1, 2])).backward()
    optimizer.step()


def test_averaged_weights_in_a_torch_file(run: runner.Run) -> None:
    export(run.checkpoint(), Path("a.pth"), weights="averaged")
    assert same(torch.load("a.pth", weights_only=True)["model_state_dict"], averaged(run.checkpoint()))


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_an_export_is_what_another_run_can_begin_with(name: str, run: runner.Run, short) -> None:
    export(run.checkpoint(), Path(name))
    assert same(dict(read_weights(Path(name)).tensors), run.checkpoint().tensors())
    begun = short("hydra.run.dir=next", f"init_from={name}", "trainer.max_steps=1", "optimizer.lr=0")
    assert same(begun.checkpoint().tensors(), run.checkpoint().tensors())


def test_frozen_and_tied_tensors_are_all_there(short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.checkpoint import contents, parts

    for module in (contents, parts):
        if hasattr(module, "FROZEN_FROM_BYTES"):
            monkeypatch.setattr(module, "FROZEN_FROM_BYTES", 1)
    (tmp_path / "tied_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a = torch.nn.Linear(64, 64)\n"
        "        self.b = torch.nn.Linear(64, 64)\n"
        "        self.b.weight = self.a.weight\n"
        "        self.head = torch.nn.Linear(64, 10)\n"
        "        self.a.bias.requires_grad_(False)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.b(self.a(x.flatten(1))))\n"
    )
    checkpoint = short("hydra.run.dir=here", "model._target_=tied_net.Net").checkpoint()
    assert "frozen.safetensors" in checkpoint.manifest.files
    for name in ("a.safetensors", "a.pt"):
        export(checkpoint, Path(name))
        found = dict(read_weights(Path(name)).tensors)
        assert same(found, checkpoint.tensors()) and torch.equal(found["a.weight"], found["b.weight"])


class Net(nn.Linear):
    pass


def test_what_has_no_optimizer_is_exported_without_its_state(
    messages: Callable[[], list[str]],
) -> None:
    net = runner.save_load()(Net)(2, 2)
    net.save("net.pth")
    export(runner.Checkpoint.open("net.pth"), Path("a.pt"))
    assert messages()[-1] == "a.pt: has no optimizer_state_dict: net.pth: optimizer: the checkpoint has none"
    values = torch.load("a.pt", weights_only=True)
    assert list(values) == ["epoch", "model_state_dict", "loss"] and (values["epoch"], values["loss"]) == (0, None)
    assert same(values["model_state_dict"], net.state_dict())
    said = len(messages())
    export(runner.Checkpoint.open("net.pth"), Path("a.safetensors"))
    assert len(messages()) == said and same(load_file("a.safetensors"), net.state_dict())


def test_a_container_s_epoch_and_loss_are_in_its_metadata() -> None:
    container = runner.ModelContainer()
    model, optimizer, _ = container.initialize(
        nn.Linear, {"in_features": 2, "out_features": 2}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}
    )
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = container.save(".", epoch=7, loss=0.25, note="good")
    export(runner.Checkpoint.open(path), Path("a.pt"))
    values = torch.load("a.pt", weights_only=True)
    assert (values["epoch"], values["loss"]) == (7, 0.25)
    fresh = nn.Linear(2, 2)
    other = torch.optim.SGD(fresh.parameters(), lr=1.0)
    other.load_state_dict(values["optimizer_state_dict"])
    assert repr(other.state_dict()) == repr(optimizer.state_dict())
    restored = runner.restore(path, model=fresh, optimizer=other)
    assert (restored.position, restored.progress.epoch, restored.metrics) == ("epoch 7", 7, {"loss": 0.25})
    export(runner.Checkpoint.open(path), Path("a.safetensors"))
    with safe_open("a.safetensors", "pt") as file:
        assert file.metadata()["runner.epoch"] == "7" and json.loads(file.metadata()["runner.metrics"]) == {
            "loss": "0.25"
        }


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_file_without_weights_is_refused(name: str) -> None:
    handler = runner.NNHandler(nn.Linear, in_features=2, out_features=2)
    handler.set_optimizer(torch.optim.SGD, lr=0.1)
    handler.save("all.pth", single_file=False)
    file = next(Path.cwd().glob("all*optimizer.pth"))
    with pytest.raises(
        runner.CheckpointError, match=r"optimizer\.pth: holds no weights, but optimizer; export the file that has"
    ):
        export(runner.Checkpoint.open(file), Path(name))
    assert not Path(name).exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_what_another_program_wrote_is_exported(name: str, messages: Callable[[], list[str]]) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    states = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    torch.save({"epoch": 2, "global_step": 8, "loss": torch.tensor(0.5), **states}, "theirs.ckpt")
    export(read_restorable("theirs.ckpt", "latest", []), Path(name))
    assert messages() == [] and same(dict(read_weights(Path(name)).tensors), model.state_dict())
    if name == "a.pt":
        values = torch.load(name, weights_only=True)
        assert (values["epoch"], values["loss"]) == (2, 0.5)
        assert repr(values["optimizer_state_dict"]) == repr(optimizer.state_dict())
    else:
        with safe_open(name, "pt") as file:
            assert file.metadata()["runner.step"] == "8"
    with pytest.raises(runner.CheckpointError, match=r"theirs\.ckpt: has no averaged weights that are known as such"):
        export(read_restorable("theirs.ckpt", "latest", []), Path(f"averaged {name}"), weights="averaged")


def test_state_that_was_not_built_is_not_exported(messages: Callable[[], list[str]]) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = np.float64(0.1)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "theirs.pt")
    export(read_restorable("theirs.pt", "latest", []), Path("a.pt"))
    assert list(torch.load("a.pt", weights_only=True)) == ["epoch", "model_state_dict", "loss"]
    assert (
        "theirs.pt: optimizer: optimizer in the file holds what was not built, say numbers of NumPy" in messages()[-1]
    )


@pytest.mark.parametrize("name", ["a.zip", "a", "a.ckpt"])
def test_another_ending_is_refused(name: str, run: runner.Run) -> None:
    with pytest.raises(runner.ConfigError, match=r"exports end in \.safetensors, \.pt or \.pth; choose one of these"):
        export(run.checkpoint(), Path(name))
    assert not Path(name).exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_nothing_is_overwritten_and_nothing_is_left_of_a_failure(name: str, run: runner.Run) -> None:
    Path(name).write_text("mine")
    with pytest.raises(runner.ConfigError, match="stands there already, and nothing is overwritten; choose another"):
        export(run.checkpoint(), Path(name))
    assert Path(name).read_text() == "mine"
    Path(name).unlink()
    before = sorted(Path.cwd().iterdir())
    with pytest.raises(runner.CheckpointError, match="weights is 'ema'; wanted 'raw' or 'averaged'"):
        export(run.checkpoint(), Path(name), weights="ema")
    with pytest.raises(runner.SaveError, match=r"gone/.*: could not be written \(No such file"):
        export(run.checkpoint(), Path("gone") / name)
    (run.checkpoint().path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(runner.DamagedError, match=r"model\.safetensors: is cut short"):
        export(run.checkpoint(), Path(name))
    assert sorted(Path.cwd().iterdir()) == before
