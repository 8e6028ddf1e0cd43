"""Each way of PyTorch's tutorial on saving and loading: its own lines as written, and the pages of docs/saving.

What its lines save, this program opens; what this program exports, its lines load.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest
import torch
from torch import nn

import runner
from runner.runs.export import export

# Test modules are imported each by itself, so what they share is put within their reach here.
sys.path.append(str(Path(__file__).parents[1]))

from snippets import follow

FOLDER = Path(__file__).parents[2] / "docs" / "saving"
INDEX = FOLDER / "README.md"
PAGES = sorted(set(FOLDER.glob("*.md")) - {INDEX})

Type = Callable[..., dict[str, Any]]

SAVE_WEIGHTS = """
import torch

# Assume you have a model (instance of nn.Module)
model = MyModel()

# Save the state dict (weights) of the model to a file
torch.save(model.state_dict(), 'model_weights.pth')
"""
LOAD_WEIGHTS = """
# Instantiate the model
model = MyModel()

# Load the saved state dict into the model
model.load_state_dict(torch.load('model_weights.pth'))

# Set the model to evaluation mode
model.eval()
"""
SAVE_MODEL = """
# Save the entire model (including architecture and weights)
torch.save(model, 'entire_model.pth')
"""
LOAD_MODEL = """
# Load the entire model
model = torch.load('entire_model.pth')
model.eval()  # Set the model to evaluation mode
"""
SAVE_CHECKPOINT = """
# Save a checkpoint during training
torch.save({
    'epoch': epoch,
    'model_state_dict': model.state_dict(),
    'optimizer_state_dict': optimizer.state_dict(),
    'loss': loss,
}, 'checkpoint.pth')
"""
LOAD_CHECKPOINT = """
# Load a checkpoint
checkpoint = torch.load('checkpoint.pth')

# Restore the model and optimizer states
model.load_state_dict(checkpoint['model_state_dict'])
optimizer.load_state_dict(checkpoint['optimizer_state_dict'])

# Restore the epoch and loss (optional)
epoch = checkpoint['epoch']
loss = checkpoint['loss']

# Set the model to evaluation or training mode depending on use case
model.eval()  # If using for inference
"""
SAVE_AND_LOAD_OPTIMIZER = """
# Saving the optimizer state
torch.save({
    'epoch': epoch,
    'model_state_dict': model.state_dict(),
    'optimizer_state_dict': optimizer.state_dict(),
    'loss': loss,
}, 'checkpoint.pth')

# Loading the optimizer state
checkpoint = torch.load('checkpoint.pth')
optimizer.load_state_dict(checkpoint['optimizer_state_dict'])
"""
LOAD_ON_CPU = """
# Load model trained on GPU onto CPU
model.load_state_dict(torch.load('model_weights.pth', map_location=torch.device('cpu')))
"""
SAVE_ON_RANK_0 = """
if rank == 0:  # Save model only from the main process (rank 0)
    torch.save(model.state_dict(), 'distributed_model.pth')
"""

NETS = """
from torch import nn


class MyModel(nn.Sequential):
    def __init__(self, hidden=8):
        super().__init__(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
"""
"""The tutorial's `MyModel`, which it does not show."""


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Type:
    """`typed(lines, name=value)`: run lines of the tutorial, with these names given, and return all names after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    # A module of its own for each test: what is imported once stays.
    name = re.sub(r"\W", "_", request.node.name)
    (tmp_path / f"{name}.py").write_text(NETS, encoding="utf-8")
    names: dict[str, Any] = {"torch": torch}
    exec(f"from {name} import MyModel", names)

    def typed(*lines: str, **given: Any) -> dict[str, Any]:
        names.update(given)
        for line in lines:
            exec(line, names)
        return names

    return typed


def trained(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
    """An optimizer, which has made a step on a model."""
    if optimizer is None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(torch.rand(4, 64)).square().sum().backward()
    optimizer.step()
    return optimizer


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def begun(model: nn.Module, file: str) -> nn.Module:
    """The model of a run that begins with a file and learns nothing."""
    target = f"{type(model).__module__}.{type(model).__name__}"
    overrides = [f"model._target_={target}", "model.hidden=8", f"init_from={file}", "trainer.max_steps=1"]
    return runner.run([*overrides, "runtime.device=cpu", "optimizer.lr=0", "optimizer.weight_decay=0"]).model


def through_the_doors(model: nn.Module, file: str) -> list[nn.Module]:
    """What the doors make of a file that holds weights, and not how its model is made."""
    decorated = runner.save_load()(type("Decorated", (type(model),), {"__module__": type(model).__module__}))
    return [
        decorated.load(file),
        decorated().load(file),
        runner.NNHandler.initialize_from_checkpoint(file, type(model)).model,
        runner.ModelContainer().load(file, type(model))[1].model,
    ]


def test_weights(typed: Type) -> None:
    saved = typed(SAVE_WEIGHTS)["model"]
    loaded = typed(LOAD_WEIGHTS)["model"]
    assert same(loaded, saved) and not loaded.training
    assert same(begun(saved, "model_weights.pth"), saved)
    assert all(same(model, saved) for model in through_the_doors(saved, "model_weights.pth"))


def test_a_pickled_model_is_refused_by_torch_and_here(typed: Type) -> None:
    model = typed(SAVE_WEIGHTS, SAVE_MODEL)["model"]
    # Since torch 2.6 the tutorial's own line needs weights_only=False, which runs whatever is in the file.
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        typed(LOAD_MODEL)
    with pytest.raises(
        runner.ConfigError, match=r"init_from=entire_model.pth: .*: is a whole pickled model \(.*MyModel\)"
    ):
        begun(model, "entire_model.pth")


def test_a_checkpoint(typed: Type) -> None:
    saved = typed(SAVE_WEIGHTS)["model"]
    optimizer = trained(saved)
    typed(SAVE_CHECKPOINT, optimizer=optimizer, epoch=3, loss=torch.tensor(0.25))
    fresh = type(saved)()
    names = typed(LOAD_CHECKPOINT, model=fresh, optimizer=torch.optim.AdamW(fresh.parameters()), epoch=0, loss=None)
    assert same(fresh, saved) and not fresh.training
    assert (names["epoch"], names["loss"]) == (3, 0.25)
    assert repr(names["optimizer"].state_dict()) == repr(optimizer.state_dict())
    assert same(begun(saved, "checkpoint.pth"), saved)
    assert all(same(model, saved) for model in through_the_doors(saved, "checkpoint.pth"))


@pytest.mark.parametrize("fused", ["true", "false"])
def test_an_exported_run_is_a_checkpoint_of_the_tutorial(typed: Type, fused: str) -> None:
    model = typed(SAVE_WEIGHTS)["model"]
    target = f"{type(model).__module__}.{type(model).__name__}"
    run = runner.run([f"model._target_={target}", "model.hidden=8", "trainer.max_steps=3", f"optimizer.fused={fused}"])
    export(run.checkpoint(), Path("checkpoint.pth"))
    optimizer = torch.optim.AdamW(model.parameters())
    names = typed(LOAD_CHECKPOINT, model=model, optimizer=optimizer, epoch=None, loss=None)
    assert same(model, run.model) and (names["epoch"], names["loss"]) == (0, run.metrics["loss"])
    state = run.checkpoint().state()["optimizer"]["state"]
    for name, parameter in model.named_parameters():
        assert torch.equal(optimizer.state[parameter]["exp_avg"], state[name]["exp_avg"])
        assert optimizer.state[parameter]["step"] == 3
    trained(model, optimizer)


def test_the_state_of_an_optimizer(typed: Type) -> None:
    model = typed(SAVE_WEIGHTS)["model"]
    optimizer = trained(model)
    before = repr(optimizer.state_dict())
    typed(SAVE_AND_LOAD_OPTIMIZER, optimizer=optimizer, epoch=1, loss=0.5)
    assert repr(optimizer.state_dict()) == before


def test_another_device(typed: Type) -> None:
    saved = typed(SAVE_WEIGHTS)["model"]
    assert same(typed(LOAD_ON_CPU, model=type(saved)())["model"], saved)


@pytest.mark.parametrize("rank", [0, 1])
def test_only_rank_0_saves(typed: Type, rank: int) -> None:
    model = typed(SAVE_WEIGHTS)["model"]
    typed(SAVE_ON_RANK_0, model=nn.DataParallel(model), rank=rank)
    assert Path("distributed_model.pth").exists() == (rank == 0)
    if rank == 0:
        assert same(begun(model, "distributed_model.pth"), model)
        assert all(same(one, model) for one in through_the_doors(model, "distributed_model.pth"))


def test_the_index_names_every_page() -> None:
    named = set(re.findall(r"\]\(([\w-]+\.md)\)", INDEX.read_text(encoding="utf-8")))
    assert named == {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_snippet_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    follow(page, tmp_path)
