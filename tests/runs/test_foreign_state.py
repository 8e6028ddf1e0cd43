"""What other programs save of a training goes on in a loop with `runner.restore`, exactly, or is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LRScheduler, MultiStepLR, StepLR

import runner
from runner.records import Progress
from runner.runs.export import export
from runner.runs.foreign_state import told_by

FILE = "checkpoint.pth"
Parts = tuple[nn.Module, Optimizer, LRScheduler]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 2))


def sgd(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.1, momentum=0.9)


def grouped(model: nn.Module) -> Optimizer:
    """In another order than the model's, in two groups, the first linear layer frozen."""
    parameters = list(model.parameters())
    return AdamW([{"params": parameters[:1:-1], "lr": 0.02}, {"params": parameters[:1]}], lr=0.01, amsgrad=True)


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=0.01)


def made(optimizer: Callable[[nn.Module], Optimizer] = adamw) -> Parts:
    model = net()
    trains = optimizer(model)
    return model, trains, StepLR(trains, step_size=2, gamma=0.5)


def train(parts: Parts, first: int, last: int) -> Parts:
    """Steps `first` to `last` of one and the same training."""
    model, optimizer, scheduler = parts
    for step in range(first, last):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
        optimizer.step()
        scheduler.step()
    return parts


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *leaves(value[key]))]
    return [leaf for one in value for leaf in leaves(one)] if isinstance(value, list | tuple) else [value]


def equal(one: Any, other: Any) -> bool:
    mine, theirs = leaves(one), leaves(other)
    return len(mine) == len(theirs) and all(
        torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, Tensor) else a == b
        for a, b in zip(mine, theirs, strict=True)
    )


def states(parts: Parts) -> list[Any]:
    return [part.state_dict() for part in parts]


def tutorial(parts: Parts, **beside: Any) -> dict[str, Any]:
    """The dict of torch's tutorial."""
    model, optimizer, _ = parts
    dicts = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    return {"epoch": 3, **dicts, "loss": 0.25, **beside}


def named(model: str, optimizer: str, scheduler: str) -> Callable[[Parts], dict[str, Any]]:
    def content(parts: Parts) -> dict[str, Any]:
        return dict(zip((model, optimizer, scheduler), states(parts), strict=True))

    return content


def lightning(parts: Parts) -> dict[str, Any]:
    """What a LightningModule with the model in `self.net` has in its .ckpt."""
    model, optimizer, scheduler = parts
    return {
        "epoch": 3,
        "global_step": 5,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"net.{name}": value for name, value in model.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "hyper_parameters": {"lr": 0.01},
    }


WRITERS: dict[str, Callable[[Parts], dict[str, Any]]] = {
    "tutorial": lambda parts: tutorial(parts, scheduler_state_dict=parts[2].state_dict()),
    "short": named("model", "optimizer", "lr_scheduler"),
    "other": named("state_dict", "optim_state", "lr_scheduler_state_dict"),
    "lightning": lightning,
}


@pytest.mark.parametrize("optimizer", [sgd, adamw, grouped])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_loop_goes_on_bit_for_bit(writer: str, optimizer: Callable[[nn.Module], Optimizer]) -> None:
    torch.manual_seed(0)
    parts = made(optimizer)
    train(parts, 0, 5)
    torch.save(WRITERS[writer](parts), FILE)
    train(parts, 5, 9)
    torch.manual_seed(1)
    fresh = made(optimizer)
    model, optimizer_, scheduler = fresh
    restored = runner.restore(FILE, model=model, optimizer=optimizer_, scheduler=scheduler)
    train(fresh, 5, 9)
    assert equal(states(fresh), states(parts))
    assert [line.partition(":")[0] for line in restored.loaded[:2]] == [
        "model Sequential",
        f"optimizer {type(optimizer_).__name__}",
    ]
    assert restored.loaded[2] == "scheduler StepLR"


def test_the_report_says_what_the_file_tells() -> None:
    parts = train(made(), 0, 3)
    torch.save(tutorial(parts, val_accuracy=torch.tensor(0.5), args={"lr": 1}, note=None, done=True), FILE)
    model, optimizer, _ = made()
    restored = runner.restore(FILE, model=model, optimizer=optimizer)
    assert str(restored).splitlines() == [
        "restored from checkpoint.pth, epoch 3",
        "  model Sequential: 11 tensors",
        "  optimizer AdamW: the state of 8 parameters, learning rate 0.005",
        "  left out: args, done: not restored",
    ]
    assert (restored.where, restored.checkpoint) == (Path(FILE), None)
    assert restored.progress == Progress(epoch=3)
    assert restored.metrics == {"loss": 0.25, "val_accuracy": 0.5}
    torch.save(lightning(parts), FILE)
    restored = runner.restore(FILE, model=model)
    assert str(restored).splitlines() == [
        "restored from checkpoint.pth, step 5, epoch 3",
        "  model Sequential: 11 tensors, by their names without 'net.'",
        "  left out: optimizer, scheduler: not asked for",
        "  left out: pytorch-lightning_version, loops, hyper_parameters: not restored",
    ]


def test_what_numbers_tell() -> None:
    told = told_by({"iter_num": 7, "epoch": torch.tensor(2), "loss": torch.tensor([0.5]), "x": torch.ones(2), 3: 4})
    assert (told.progress, told.metrics, told.position) == (Progress(step=7, epoch=2), {"loss": 0.5}, "step 7, epoch 2")
    told = told_by({"epoch": float("nan"), "step": -1, "best": True, "loss": None})
    assert (told.progress, told.metrics, told.position) == (Progress(), {}, "")


def test_what_is_exported_goes_on_bit_for_bit(short: Callable[..., runner.Run]) -> None:
    from runner.data.digits import digits
    from runner.models.mlp import MLP

    overrides = (
        "data.shuffle=false",
        "scheduler=constant",
        "model.dropout=0",
        "checkpoint.save.every_steps=2",
        "checkpoint.keep.last=null",
    )
    run = short(*overrides, "trainer.max_steps=4", "checkpoint.keep.best=null", "hydra.run.dir=here")
    export(run.checkpoint(2), Path("two.pt"))
    model = MLP(in_features=64, hidden=(128, 128), classes=10, activation="relu", dropout=0.0)
    optimizer = AdamW(model.parameters(), fused=True)
    restored = runner.restore("two.pt", model=model, optimizer=optimizer)
    assert (restored.position, restored.left_out) == ("epoch 0", ())
    x, y = digits().train.tensors
    for batch in (2, 3):
        rows = slice(batch * 256, (batch + 1) * 256)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    there = run.checkpoint(4).state()
    assert equal(dict(model.state_dict()), there["model"])
    for name, parameter in model.named_parameters():
        assert equal(optimizer.state[parameter], there["optimizer"]["state"][name])


def test_state_on_a_wrapped_model_is_that_of_the_model() -> None:
    parts = train(made(), 0, 2)
    wrapped = {"model": nn.DataParallel(parts[0]).state_dict(), "optimizer": parts[1].state_dict()}
    torch.save(wrapped, FILE)
    model, optimizer, _ = made()
    runner.restore(FILE, model=nn.DataParallel(model), optimizer=optimizer)
    assert equal([model.state_dict(), optimizer.state_dict()], states(parts)[:2])


def test_a_scaler_is_restored() -> None:
    parts = made()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    torch.save(tutorial(parts, MixedPrecision=scaler.state_dict()), FILE)
    fresh = torch.amp.GradScaler("cpu")
    assert runner.restore(FILE, scaler=fresh).loaded == ("gradient scaler",)
    assert fresh.state_dict() == scaler.state_dict()


def swapped(model: nn.Module) -> Optimizer:
    first, *others, last = model.parameters()
    return AdamW([last, *others, first])


REFUSED: list[tuple[Callable[[nn.Module], Optimizer], str]] = [
    (
        lambda model: AdamW([{"params": [one]} for one in model.parameters()]),
        "1 group of parameters in the file, and 8",
    ),
    (lambda model: AdamW(list(model.parameters())[:2]), "group 0 has 8 parameters in the file, and 2 here"),
    (sgd, "its state in the file has no dampening, momentum and has amsgrad, betas, and is none of a SGD"),
    (lambda model: RMSprop(model.parameters()), "has no alpha, centered, momentum and has amsgrad, betas"),
    (lambda model: Adamax(model.parameters()), "its state in the file has amsgrad, and is none of a Adamax"),
    (
        lambda model: Adam(model.parameters()),
        "decoupled_weight_decay is True in the file, so that it is none of an Adam",
    ),
    (swapped, r"exp_avg of 4\.bias is \[8, 4\] in the file, and the parameter \[2\]"),
]


@pytest.mark.parametrize(("optimizer", "message"), REFUSED)
def test_an_optimizer_that_the_state_is_not_of_is_refused(
    optimizer: Callable[[nn.Module], Optimizer], message: str
) -> None:
    torch.save(tutorial(train(made(), 0, 2)), FILE)
    model = net()
    other = optimizer(model)
    before = [repr(one.state_dict()) for one in (model, other)]
    with pytest.raises(runner.CheckpointError, match=rf"{FILE}: optimizer: .*{message}"):
        runner.restore(FILE, model=model, optimizer=other)
    assert [repr(one.state_dict()) for one in (model, other)] == before
    restored = runner.restore(FILE, model=model, optimizer=other, strict=False)
    assert any(line.startswith("optimizer: ") for line in restored.left_out)
    assert optimizer is swapped or not other.state


def test_parameters_that_changed_places_are_seen_where_their_names_are_known() -> None:
    model = net()
    optimizer = SGD(model.named_parameters(), lr=0.1)
    named_states = {"state_dict": {f"net.{name}": value for name, value in model.state_dict().items()}}
    torch.save({**named_states, "optimizer": optimizer.state_dict()}, FILE)
    parameters = dict(model.named_parameters())
    runner.restore(FILE, model=model, optimizer=SGD(parameters.values(), lr=1.0))
    parameters["3.bias"], parameters["0.bias"] = parameters["0.bias"], parameters["3.bias"]
    with pytest.raises(
        runner.CheckpointError, match=r"optimizer: parameter 1 of group 0 is 0\.bias in the file, and 3\.bias here"
    ):
        runner.restore(FILE, model=model, optimizer=SGD(parameters.values(), lr=1.0))


def test_a_state_without_end_is_refused() -> None:
    model, optimizer, _ = made()
    saved = optimizer.state_dict()
    saved["param_groups"].append(saved["param_groups"])
    torch.save({"model": model.state_dict(), "optimizer": saved}, FILE)
    with pytest.raises(runner.CheckpointError, match="optimizer: optimizer in the file is nested too deeply"):
        runner.restore(FILE, model=model, optimizer=optimizer)


def test_without_strictness_state_of_the_right_shape_is_loaded() -> None:
    parts = train(made(), 0, 2)
    torch.save(tutorial(parts), FILE)
    model = net()
    model[4] = nn.Linear(8, 3)
    optimizer = adamw(model)
    restored = runner.restore(FILE, model=model, optimizer=optimizer, strict=False)
    assert len(optimizer.state) == 6 and optimizer.param_groups[0]["lr"] == parts[1].param_groups[0]["lr"]
    assert restored.loaded[1].startswith("optimizer AdamW: the state of 6 parameters")
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (lambda optimizer: ExponentialLR(optimizer, 0.5), "has step_size, and is none of a ExponentialLR"),
        (lambda optimizer: CosineAnnealingLR(optimizer, 9), "has gamma, step_size and has no T_max, eta_min, and is"),
        (lambda optimizer: MultiStepLR(optimizer, [2]), "has step_size and has no milestones, and is none of a Multi"),
    ],
)
def test_a_scheduler_that_the_state_is_not_of_is_refused(
    scheduler: Callable[[Optimizer], LRScheduler], message: str
) -> None:
    parts = made()
    torch.save(WRITERS["tutorial"](parts), FILE)
    model, optimizer, _ = made()
    other = scheduler(optimizer)
    before = repr(other.state_dict())
    with pytest.raises(runner.CheckpointError, match=rf"{FILE}: scheduler: its state in the file {message}"):
        runner.restore(FILE, model=model, scheduler=other)
    assert repr(other.state_dict()) == before


def test_a_scheduler_of_other_groups_is_refused() -> None:
    torch.save(WRITERS["tutorial"](made()), FILE)
    model, _, scheduler = made(grouped)
    with pytest.raises(runner.CheckpointError, match="scheduler: 1 group of parameters in the file, and 2 here"):
        runner.restore(FILE, model=model, scheduler=scheduler)


def test_milestones_are_restored() -> None:
    model, optimizer, _ = made()
    torch.save({"model": model.state_dict(), "scheduler": MultiStepLR(optimizer, [2, 3]).state_dict()}, FILE)
    other = MultiStepLR(optimizer, [9])
    runner.restore(FILE, scheduler=other)
    assert dict(other.milestones) == {2: 1, 3: 1}


def test_what_is_not_in_the_file_is_told_and_nothing_is_changed() -> None:
    parts = train(made(), 0, 1)
    torch.save({"model_state_dict": parts[0].state_dict(), "epoch": 1}, FILE)
    model, optimizer, scheduler = made()
    before = repr(model.state_dict())
    asked: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler, "generators": True}
    with pytest.raises(runner.CheckpointError) as caught:
        runner.restore(FILE, model=model, **asked)
    assert str(caught.value).splitlines()[:-1] == [f"{FILE}: {part}: the file has none" for part in asked]
    assert repr(model.state_dict()) == before
    restored = runner.restore(FILE, model=model, strict=False, **asked)
    assert restored.left_out == tuple(f"{part}: the file has none" for part in asked)
    assert equal(dict(model.state_dict()), dict(parts[0].state_dict()))


def test_of_several_optimizers_none_is_guessed() -> None:
    parts = made()
    torch.save(tutorial(parts, discriminator=parts[1].state_dict()), FILE)
    with pytest.raises(
        runner.CheckpointError, match=r"the file has several \(optimizer_state_dict, discriminator\), and which of them"
    ):
        runner.restore(FILE, model=parts[0], optimizer=parts[1])
    assert "optimizer: not asked for" in runner.restore(FILE, model=parts[0]).left_out


def test_what_was_not_built_is_not_taken_for_a_state() -> None:
    model = net()
    optimizer = SGD(model.parameters(), lr=1.0, momentum=0.9)
    optimizer.param_groups[0]["lr"] = np.float64(0.5)
    scheduler = StepLR(optimizer, 1)
    torch.save({"model": model.state_dict(), "o": optimizer.state_dict(), "s": scheduler.state_dict()}, FILE)
    with pytest.raises(runner.CheckpointError) as caught:
        runner.restore(FILE, model=model, optimizer=sgd(model), scheduler=StepLR(optimizer, 1))
    assert "optimizer: o in the file holds what was not built, say numbers of NumPy; in the program that" in str(
        caught.value
    )
    assert "scheduler: s in the file holds what was not built, say numbers of NumPy; in the program that" in str(
        caught.value
    )


@pytest.mark.parametrize(
    "saved",
    [
        {"state": {}, "param_groups": 3},
        {"state": {}, "param_groups": [3]},
        {"state": {}, "param_groups": [{"params": 3}]},
        {"state": {}, "param_groups": [{"params": [[]]}]},
        {"state": [], "param_groups": []},
        {"state": {0: 1}, "param_groups": [{"params": [0]}]},
        {"state": {}, "param_groups": [{"params": [0], "lr": "0.1"}]},
    ],
)
def test_what_is_made_up_is_refused(saved: dict[str, Any]) -> None:
    model, optimizer, _ = made()
    torch.save({"model": model.state_dict(), "optimizer": saved}, FILE)
    with pytest.raises(runner.CheckpointError, match="optimizer: its state in the file is not what torch's optimizers"):
        runner.restore(FILE, model=model, optimizer=optimizer)


def test_of_such_a_file_no_checkpoint_can_be_chosen() -> None:
    model, *_ = parts = made()
    torch.save(tutorial(parts), FILE)
    with pytest.raises(runner.CheckpointError, match=r"is no run, so 'best' cannot be chosen in it; leave '@best' out"):
        runner.restore(f"{FILE}@best", model=model)
    with pytest.raises(runner.CheckpointError, match=r"nowhere\.pth: is not there"):
        runner.restore("nowhere.pth", model=model)
