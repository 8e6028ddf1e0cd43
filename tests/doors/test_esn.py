"""The models of document 004, `runner.models`: its examples as written, but for the import, and its original's bugs.

Where the document says `x_train` or `...` without saying what that is, toy data and a toy step stand in.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import runner
from runner.models import ESNModel, classic_esn, headless_esn, linear_esn, ott_esn

Typed = Callable[..., dict[str, Any]]

QUICK_START = """
from runner.models import classic_esn

# Create and train model
model = classic_esn(100, 1, 1)
# ... training code ...

# Save trained model
model.save('trained_model.pt')

# Load later
new_model = classic_esn(100, 1, 1)
new_model.load('trained_model.pt')
"""
SAVE = """
# Basic save
model.save('model.pt')

# Save with reservoir states
model.save('model_with_states.pt', include_states=True)

# Save to nested directory (creates parent dirs automatically)
model.save('checkpoints/experiment1/model.pt')
"""
LOAD = """
# Basic load
model.load('model.pt')

# Load with reservoir states
model.load('model_with_states.pt', load_states=True)

# Non-strict loading (allows missing/unexpected keys)
model.load('model.pt', strict=False)
"""
LOAD_FROM_FILE = """
# Method 1: Using class method
model = classic_esn(100, 1, 1)
ESNModel.load_from_file('trained_model.pt', model=model)

# Method 2: Using instance method (more common)
model = classic_esn(100, 1, 1)
model.load('trained_model.pt')
"""
TRAINING_AND_INFERENCE = """
import torch
import torch.nn as nn
import torch.optim as optim
from runner.models import classic_esn

# Training
model = classic_esn(
    100, 1, 1,
    reservoir_config={'trainable': False},
    readout_config={'trainable': True}
)

optimizer = optim.Adam(model.parameters(), lr=0.01)
criterion = nn.MSELoss()

model.train()
for epoch in range(10):
    optimizer.zero_grad()
    output = model({'input': x_train})
    loss = criterion(output, y_train)
    loss.backward()
    optimizer.step()

# Save trained model
model.save('trained_model.pt')

# Later: Load for inference
inference_model = classic_esn(
    100, 1, 1,
    reservoir_config={'trainable': False},
    readout_config={'trainable': True}
)
inference_model.load('trained_model.pt')
inference_model.eval()

with torch.no_grad():
    predictions = inference_model({'input': x_test})
"""
CHECKPOINT_SYSTEM = """
from pathlib import Path

checkpoint_dir = Path('checkpoints')
checkpoint_dir.mkdir(exist_ok=True)

best_loss = float('inf')
best_checkpoint = None

for epoch in range(100):
    # Training...
    loss = train_one_epoch(model, optimizer, criterion, train_loader)

    # Save checkpoint
    checkpoint_path = checkpoint_dir / f'checkpoint_epoch_{epoch}.pt'
    model.save(checkpoint_path)

    # Track best model
    if loss < best_loss:
        best_loss = loss
        best_checkpoint = checkpoint_path

# Load best model
model.load(best_checkpoint)
"""
CROSS_DEVICE = """
# Save on CPU
model_cpu = classic_esn(100, 1, 1)
model_cpu.save('model.pt')

# Load on GPU
model_gpu = classic_esn(100, 1, 1).cuda()
model_gpu.load('model.pt')  # Automatically handles device transfer

# Or load CPU model and then move to GPU
model = classic_esn(100, 1, 1)
model.load('model.pt')
model = model.cuda()
"""
STATES = """
from runner.models import headless_esn

model = headless_esn(100, 2)

# Process sequence
x = torch.randn(4, 50, 2)
states = model({'input': x})

# Save with states (for continuing processing later)
model.save('model_with_states.pt', include_states=True)

# Later: Resume processing from saved state
model = headless_esn(100, 2)
model.load('model_with_states.pt', load_states=True)

# Continue processing
x_continue = torch.randn(4, 20, 2)
states_continue = model({'input': x_continue})
"""
VERSIONING = """
import torch

# Save model
model.save('model_v1.pt')

# Add metadata
checkpoint = torch.load('model_v1.pt', weights_only=False)
checkpoint['metadata'] = {
    'version': '1.0',
    'reservoir_size': 100,
    'trained_on': '2024-01-01',
    'training_loss': 0.123,
    'notes': 'Initial model with default hyperparameters'
}
torch.save(checkpoint, 'model_v1.pt')

# Load and inspect metadata
checkpoint = torch.load('model_v1.pt', weights_only=False)
print(checkpoint['metadata'])

# Load model
model.load('model_v1.pt')
"""
MATCHING = """
# ✓ Correct
model_save = classic_esn(100, 1, 1)
model_save.save('model.pt')

model_load = classic_esn(100, 1, 1)  # Same architecture
model_load.load('model.pt')
"""
NOT_MATCHING = """
# ✗ Incorrect
model_load = classic_esn(200, 1, 1)  # Different size!
model_load.load('model.pt')  # RuntimeError!
"""
WITH_AND_WITHOUT_STATES = """
# ✓ Typical use case
model.save('model.pt')  # Don't save states

# ✓ Special case: continuing a long sequence
model.save('model.pt', include_states=True)
"""
EVERY_TENTH = """
for epoch in range(100):
    train_one_epoch(...)

    if epoch % 10 == 0:
        model.save(f'checkpoint_epoch_{epoch}.pt')
"""
TWO_PROGRAMS = """
# training.py
model = classic_esn(100, 1, 1, readout_config={'trainable': True})
# ... training ...
model.save('trained_model.pt')

# inference.py
model = classic_esn(100, 1, 1, readout_config={'trainable': True})
model.load('trained_model.pt')
model.eval()
# ... inference ...
"""
HANDLE_DEVICES = """
# Save on any device
model.save('model.pt')

# Load and move to desired device
model = classic_esn(100, 1, 1)
model.load('model.pt')

if torch.cuda.is_available():
    model = model.cuda()
"""
SAVED_MODEL_INFO = """
# Check saved model info
checkpoint = torch.load('model.pt', weights_only=False)
print(checkpoint['state_dict'].keys())
"""
NO_FILE = """
from pathlib import Path
path = Path('model.pt')
if not path.exists():
    print(f"File not found: {path}")
"""
SAVE_AND_LOAD_STATES = """
# Save with states
model.save('model.pt', include_states=True)

# Load with states
model.load('model.pt', load_states=True)
"""


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """`typed(lines, name=value)`: run lines of the document, with these names given, and return all names after."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"torch": torch, "classic_esn": classic_esn, "ESNModel": ESNModel}

    def typed(*examples: str, **given: Any) -> dict[str, Any]:
        names.update(given)
        for example in examples:
            exec(example, names)
        return names

    return typed


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name].cpu(), theirs[name].cpu()) for name in mine)


def wave(batch: int = 3, time: int = 40) -> tuple[Tensor, Tensor]:
    """Sequences, and the next point of each."""
    angles = torch.arange(time + 1.0) / 5.0 + torch.arange(float(batch))[:, None]
    return angles.sin()[:, :-1, None], angles.sin()[:, 1:, None]


def train_one_epoch(model: ESNModel, optimizer: Any, criterion: Any, train_loader: Any) -> float:
    """What the document calls so and does not show."""
    losses = []
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = criterion(model({"input": x}), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


def test_quick_start(typed: Typed) -> None:
    names = typed(QUICK_START)
    assert same(names["new_model"], names["model"])


def test_save_and_load(typed: Typed) -> None:
    model = classic_esn(100, 1, 1)
    model(wave()[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    typed(SAVE, model=model)
    assert Path("checkpoints/experiment1/model.pt").exists()
    typed(LOAD)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_load_from_file(typed: Typed) -> None:
    model = typed(QUICK_START)["model"]
    assert same(typed(LOAD_FROM_FILE)["model"], model)
    other = classic_esn(100, 1, 1)
    assert ESNModel.load_from_file("trained_model.pt", model=other) is other
    with pytest.raises(ValueError, match="model is NoneType; wanted an ESNModel to load into"):
        ESNModel.load_from_file("trained_model.pt")


def test_training_and_inference(typed: Typed) -> None:
    x, y = wave()
    names = typed(TRAINING_AND_INFERENCE, x_train=x, y_train=y, x_test=x[:2])
    model, inference = names["model"], names["inference_model"]
    first = nn.functional.mse_loss(classic_esn(100, 1, 1)(x), y)
    assert names["loss"] < first
    model.reset_reservoirs()
    assert torch.equal(names["predictions"], model.eval()(x[:2]))
    assert same(inference, model) and not inference.training


def test_the_readout_alone_is_trained(typed: Typed) -> None:
    x, y = wave()
    names = typed(TRAINING_AND_INFERENCE, x_train=x, y_train=y, x_test=x)
    trained = {id(value) for value in names["optimizer"].state}
    assert trained == {id(value) for value in names["model"].readout.parameters()}


def test_a_checkpoint_system(typed: Typed) -> None:
    x, y = wave(batch=5, time=10)
    model = classic_esn(100, 1, 1)
    names = typed(
        CHECKPOINT_SYSTEM,
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        criterion=nn.MSELoss(),
        train_loader=[(x, y)],
        train_one_epoch=train_one_epoch,
    )
    assert len(list(Path("checkpoints").iterdir())) == 100
    best = classic_esn(100, 1, 1)
    best.load(names["best_checkpoint"])
    assert same(model, best)


def test_a_smaller_last_batch_of_a_loader_begins_cold_and_says_so(typed: Typed) -> None:
    x, y = wave(batch=5, time=10)
    model = classic_esn(100, 1, 1)
    with pytest.warns(UserWarning, match="holds the states of 3 sequences, and the input has 2: it begins cold"):
        train_one_epoch(model, torch.optim.SGD(model.parameters()), nn.MSELoss(), [(x[:3], y[:3]), (x[3:], y[3:])])


def test_another_device(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        # Openly another thing: without such a device, the model goes to another dtype in its place. The file's
        # weights have to follow it there in the same way.
        monkeypatch.setattr(ESNModel, "cuda", lambda model: model.double(), raising=True)
    names = typed(CROSS_DEVICE)
    there = classic_esn(100, 1, 1).cuda().reservoir.weight_hh
    for name in ("model_gpu", "model"):
        weight = names[name].reservoir.weight_hh
        assert (weight.device, weight.dtype) == (there.device, there.dtype)
        assert torch.equal(weight.cpu().float(), names["model_cpu"].reservoir.weight_hh)
    x = wave()[0].to(there)
    assert torch.equal(names["model_gpu"](x), names["model"](x))
    names["model_gpu"].save("there.pt", include_states=True)
    back = classic_esn(100, 1, 1)
    back.load("there.pt", load_states=True)
    assert same(back, names["model_cpu"])
    assert back(wave()[0]).shape == (3, 40, 1)


def test_a_model_on_a_device_without_storage_gets_the_file_s_weights(typed: Typed) -> None:
    model = typed(QUICK_START)["model"]
    with torch.device("meta"):
        other = classic_esn(100, 1, 1)
    other.load("trained_model.pt")
    assert same(other, model)


def test_reservoir_states(typed: Typed) -> None:
    torch.manual_seed(0)
    names = typed(STATES)
    whole = headless_esn(100, 2)
    whole.load("model_with_states.pt")
    both = whole(torch.cat([names["x"], names["x_continue"]], dim=1))
    # Equal but for the rounding of the input's share, which is computed for all steps at once.
    assert torch.allclose(both[:, :50], names["states"], atol=1e-6)
    assert torch.allclose(both[:, 50:], names["states_continue"], atol=1e-6)


def test_versioning(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    model = classic_esn(100, 1, 1)
    names = typed(VERSIONING, model=model)
    assert "'training_loss': 0.123" in capsys.readouterr().out
    assert names["checkpoint"]["metadata"]["version"] == "1.0"
    # The hyperparameters stand in a key of their own, which the user's metadata do not replace.
    assert names["checkpoint"]["config"] == model.config


def test_the_file_format(typed: Typed) -> None:
    model = classic_esn(100, 1, 1)
    model(wave()[0])
    typed(SAVE, model=model)
    content = torch.load("model_with_states.pt")
    names = {"weight_hh", "weight_feedback"}
    assert {f"_modules_dict.reservoir.{name}" for name in names} <= content["state_dict"].keys()
    assert "_modules_dict.output.weight" in content["state_dict"]
    assert content["reservoir_states"]["reservoir"].shape == (3, 100)
    assert "reservoir_states" not in torch.load("model.pt")


def test_the_architecture_has_to_match(typed: Typed) -> None:
    with pytest.raises(
        RuntimeError, match=r"size mismatch for _modules_dict.reservoir.weight_hh: the file has float32"
    ):
        typed(MATCHING + NOT_MATCHING)
    names = typed()
    assert len(names["model_load"].reservoir.weight_hh) == 200
    assert not same(names["model_load"], names["model_save"])
    names = typed(MATCHING)
    assert same(names["model_load"], names["model_save"])


def test_saving_with_and_without_states(typed: Typed) -> None:
    model = classic_esn(100, 1, 1)
    model(wave()[0])
    typed(WITH_AND_WITHOUT_STATES, model=model)
    typed(SAVE_AND_LOAD_STATES)
    assert model.reservoir.state is not None and model.reservoir.state.shape == (3, 100)


def test_every_tenth_epoch(typed: Typed) -> None:
    typed(EVERY_TENTH, model=classic_esn(100, 1, 1), train_one_epoch=lambda *_: None)
    assert len(list(Path().iterdir())) == 10


def test_two_programs(typed: Typed) -> None:
    model = typed(TWO_PROGRAMS)["model"]
    assert not model.training


def test_devices_handled_explicitly(typed: Typed) -> None:
    names = typed(HANDLE_DEVICES, model=classic_esn(100, 1, 1))
    assert names["model"].reservoir.weight_hh.is_cuda == torch.cuda.is_available()


def test_what_a_file_holds_is_looked_at(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    typed(NO_FILE)
    assert capsys.readouterr().out == "File not found: model.pt\n"
    with pytest.raises(FileNotFoundError, match=r"model.pt: is not there"):
        classic_esn(100, 1, 1).load("model.pt")
    typed(MATCHING, SAVED_MODEL_INFO)
    assert "_modules_dict.reservoir.weight_hh" in capsys.readouterr().out


def test_states_that_were_not_saved_are_warned_of(typed: Typed) -> None:
    model = typed(MATCHING)["model_load"]
    with pytest.warns(UserWarning, match="no reservoir states found"):
        model.load("model.pt", load_states=True)


# The bugs of the original.


def test_a_restored_state_is_not_dropped_when_the_batch_is_another(typed: Typed) -> None:
    typed(STATES)
    model = headless_esn(100, 2)
    model.load("model_with_states.pt", load_states=True)
    with pytest.raises(
        ValueError, match=r"holds the states of 4 sequences, which were read from a file, and .* has 2;"
    ):
        model({"input": torch.randn(2, 20, 2)})


@pytest.mark.parametrize("make", [classic_esn, ott_esn, linear_esn])
def test_a_fresh_model_is_cold(make: Callable[..., ESNModel]) -> None:
    x = wave()[0]
    model, other = make(50, 1, 1, seed=0), make(50, 1, 1, seed=0)
    assert torch.equal(model(x), other(x))


def test_what_was_fitted_is_fitted_after_loading(typed: Typed) -> None:
    x, y = wave()
    model = typed(QUICK_START)["model"].fit(x, y)
    model.save("fitted.pt")
    other = classic_esn(100, 1, 1)
    assert not other.fitted
    other.load("fitted.pt")
    assert other.fitted
    model.reset_reservoirs()
    assert torch.equal(other(x), model(x))


def test_a_file_with_another_leak_rate_is_not_loaded_in_silence(typed: Typed) -> None:
    typed(QUICK_START)
    model = classic_esn(100, 1, 1, leak_rate=0.5)
    with pytest.raises(RuntimeError, match=r"leak_rate is 1.0 in the file and 0.5 in the model; build the model with"):
        model.load("trained_model.pt")


def test_a_whole_model_can_be_saved(typed: Typed) -> None:
    model = typed(QUICK_START)["model"]
    model.fit(*wave())
    torch.save(model, "whole.pt")
    whole = torch.load("whole.pt", weights_only=False)
    assert whole.fitted and torch.equal(whole(wave()[0]), model(wave()[0]))
    buffer = io.BytesIO()
    torch.save(whole, buffer)


def test_a_direct_readout_solves_its_own_objective() -> None:
    """Gradients of the ridge objective, in float64, at what was solved for: nothing is left to go down."""
    x, y = (value.double() for value in wave(batch=8, time=100))
    model = classic_esn(100, 1, 1, dtype="float64", seed=0).fit(x, y, washout=20, alpha=1e-6)
    model.reset_reservoirs()
    errors = (model(x) - y)[:, 20:]
    assert model.readout is not None
    objective = errors.square().sum() + 1e-6 * model.readout.weight.square().sum()
    gradients = torch.autograd.grad(objective, list(model.readout.parameters()))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-9


# What other readers make of such a file.


def test_runner_load_builds_the_model_of_a_file(typed: Typed) -> None:
    model = ott_esn(30, 1, 1, leak_rate=0.5, dtype="float64").fit(*(value.double() for value in wave()))
    model.save("model.pt")
    loaded = runner.load("model.pt")
    assert isinstance(loaded, ESNModel)
    assert same(loaded, model) and loaded.config == model.config and loaded.fitted
