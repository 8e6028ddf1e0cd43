"""A checkpoint in a loop of one's own: what is restored goes on bit for bit, and what does not fit is named."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import runner
from runner.checkpoint.archive import pack
from runner.data.digits import digits
from runner.models.mlp import MLP
from runner.training.schedule import CurveScheduler, OneCycle

Short = Callable[..., runner.Run]
RUN = (
    "data.shuffle=false",
    "trainer.max_steps=4",
    "trainer.ema_decay=0.5",
    "optimizer.fused=false",
    "checkpoint.save.every_steps=2",
    "checkpoint.keep.last=null",
    "checkpoint.keep.best=null",
    "hydra.run.dir=here",
)
LINEAR = ("scheduler._target_=torch.optim.lr_scheduler.LinearLR", "+scheduler.start_factor=0.5")


def net(hidden: tuple[int, ...] = (128, 128), dropout: float = 0.2) -> MLP:
    return MLP(in_features=64, hidden=hidden, classes=10, activation="relu", dropout=dropout)


def adamw(model: nn.Module, **settings: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), **{"lr": 1.0, **settings})


def batches(first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches `first` to `last` of the first epoch of the runs here, which do not shuffle."""
    x, y = digits().train.tensors
    for number in range(first, last):
        rows = slice(number * 256, (number + 1) * 256)
        yield x[rows], y[rows]


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def everything(*parts: Any) -> list[Any]:
    """The state of parts and of the generators, as values that can be compared."""
    values = [part.state_dict() for part in parts]
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    return [repr(values), states]


def test_a_plain_loop_goes_on_bit_for_bit(short: Short) -> None:
    run = short(*RUN, *LINEAR)
    model = net()
    optimizer = adamw(model)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    restored = runner.restore(
        "here@step=2", model=model, optimizer=optimizer, scheduler=scheduler, averaged=averaged, generators=True
    )
    assert (restored.progress.step, restored.progress.batch) == (2, 2)
    assert restored.metrics == run.checkpoint(2).metrics
    model.train()
    for x, y in batches(restored.progress.batch, 4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        averaged.update_parameters(model)
        scheduler.step()
    there = run.checkpoint(4).state()
    assert same(model.state_dict(), there["model"])
    assert same(averaged.module.state_dict(), there["averaged"]["model"])
    assert optimizer.param_groups[0]["lr"] == there["optimizer"]["groups"][0]["lr"]
    for name, parameter in model.named_parameters():
        assert same(optimizer.state[parameter], there["optimizer"]["state"][name])
    assert torch.equal(torch.get_rng_state(), there["generators"]["torch"])


def test_the_report_says_what_was_restored_and_what_was_not_asked_for(short: Short) -> None:
    short(*RUN)
    model = net()
    restored = runner.restore("here", model=model, optimizer=adamw(model))
    assert str(restored).splitlines() == [
        "restored from here/checkpoints/step-000000004, step 4, epoch 1, batch 4",
        "  model MLP: 6 tensors",
        f"  optimizer AdamW: the state of 6 parameters, learning rate {lr_of(restored):.6g}",
        "  left out: scheduler, averaged, generators: not asked for",
    ]
    assert restored.checkpoint.step == 4


def lr_of(restored: runner.Restored) -> float:
    return restored.checkpoint.state(["optimizer"])["optimizer"]["groups"][0]["lr"]


def test_the_runners_own_schedules_are_restored_too(short: Short) -> None:
    run = short(*RUN, "scheduler=one_cycle")
    model = net()
    optimizer = adamw(model, lr=3e-3)
    scheduler = CurveScheduler(optimizer, OneCycle(rise=0.3, start_divisor=25.0, end_divisor=1e4, total_steps=4))
    runner.restore("here@step=2", model=model, optimizer=optimizer, scheduler=scheduler)
    assert scheduler.at == 2
    assert optimizer.param_groups[0]["lr"] == run.checkpoint(2).state()["optimizer"]["groups"][0]["lr"]


# Of torch's own making, when its compiler is imported (torch 2.13).
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_what_is_wrapped_around_a_model_makes_no_difference(short: Short, tmp_path: Path) -> None:
    run = short(*RUN)
    pack(run.checkpoint(), tmp_path / "x.pt")
    for wrapped in (nn.DataParallel(net()), torch.compile(net())):
        optimizer = adamw(wrapped)
        restored = runner.restore("x.pt", model=wrapped, optimizer=optimizer)
        assert not any("does not" in line for line in restored.left_out)
        bare = wrapped.module if isinstance(wrapped, nn.DataParallel) else wrapped._orig_mod
        assert same(bare.state_dict(), run.checkpoint().tensors())
        assert len(optimizer.state) == 6


def test_a_model_of_other_numbers_is_cast_to_and_that_is_said(short: Short) -> None:
    run = short(*RUN)
    model = net().bfloat16()
    restored = runner.restore("here", model=model)
    assert restored.loaded == ("model MLP: 6 tensors, 6 of them cast from float32 to bfloat16",)
    assert same(model.state_dict(), run.checkpoint().tensors(dtype=torch.bfloat16))


def test_transient_buffers_are_restored(short: Short, tmp_path: Path) -> None:
    (tmp_path / "echo_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(64, 10)\n"
        "        self.register_buffer('echo', torch.zeros(10), persistent=False)\n"
        "    def forward(self, x):\n"
        "        y = super().forward(x.flatten(1))\n"
        "        self.echo = y.detach().mean(0)\n"
        "        return y\n"
    )
    run = short(*RUN, "model._target_=echo_net.Net")
    import echo_net

    model = echo_net.Net()
    runner.restore("here", model=model)
    assert torch.equal(model.echo, run.checkpoint().state()["transient"]["echo"])
    assert model.echo.abs().sum() > 0


@pytest.mark.parametrize("other", [(128, 64), (128,), (128, 128, 128)])
def test_another_model_is_refused_with_names_and_shapes_and_nothing_is_changed(
    short: Short, other: tuple[int, ...]
) -> None:
    short(*RUN)
    model = net(other)
    optimizer = adamw(model)
    before = everything(model, optimizer)
    with pytest.raises(runner.CheckpointError) as caught:
        runner.restore("here", model=model, optimizer=optimizer, generators=True)
    listed = {
        (128, 64): "does not fit: layers.4.weight is float32 [128, 128] there and float32 [64, 128] here",
        (128,): "not in the model: layers.7.weight, layers.7.bias",
        (128, 128, 128): "missing in the file: layers.10.weight, layers.10.bias",
    }
    assert f"here/checkpoints/step-000000004: model MLP: {listed[other]}" in str(caught.value)
    assert str(caught.value).splitlines()[-1].endswith("or strict=False to load what fits")
    assert everything(model, optimizer) == before


def test_what_fits_is_loaded_where_that_will_do(short: Short) -> None:
    run = short(*RUN)
    model = net((128, 64))
    optimizer = adamw(model)
    built = {name: value.clone() for name, value in model.state_dict().items()}
    restored = runner.restore("here", model=model, optimizer=optimizer, strict=False)
    saved, live = run.checkpoint().tensors(), model.state_dict()
    for name in live:
        fits = saved[name].shape == live[name].shape
        assert torch.equal(live[name], saved[name] if fits else built[name])
        assert (dict(model.named_parameters())[name] in optimizer.state) == fits
    assert restored.loaded[:2] == (
        "model MLP: 3 of 6 tensors",
        f"optimizer AdamW: the state of 3 parameters, learning rate {lr_of(restored):.6g}",
    )
    assert restored.left_out[0].startswith("model MLP: does not fit: layers.4.weight is")
    nn.functional.cross_entropy(model(torch.zeros(2, 64)), torch.tensor([1, 2])).backward()
    optimizer.step()


def test_every_part_that_does_not_fit_is_named_at_once(short: Short) -> None:
    short(*RUN, "trainer.ema_decay=null")
    model = net((128,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
    averaged = AveragedModel(model)
    before = everything(model, optimizer, scheduler, averaged)
    with pytest.raises(runner.CheckpointError) as caught:
        runner.restore(
            "here",
            model=model,
            optimizer=optimizer,
            scheduler=scheduler,
            averaged=averaged,
            scaler=torch.amp.GradScaler("cpu"),
        )
    told = str(caught.value)
    assert "optimizer: torch.optim.adamw.AdamW was saved, and this is a torch.optim.sgd.SGD" in told
    assert "scheduler: runner.training.schedule.Cosine was saved, and this is a torch.optim.lr_scheduler.Lin" in told
    assert "averaged: the checkpoint has none" in told
    assert "scaler: the checkpoint has none" in told
    assert everything(model, optimizer, scheduler, averaged) == before


def test_groups_that_hold_other_parameters_are_refused(short: Short) -> None:
    short(*RUN)
    model = net()
    weights = [value for name, value in model.named_parameters() if name.endswith("weight")]
    biases = [value for name, value in model.named_parameters() if name.endswith("bias")]
    apart = torch.optim.AdamW([{"params": weights}, {"params": biases}], lr=1.0)
    with pytest.raises(
        runner.CheckpointError, match=r"groups hold other parameters \(1 groups were saved, and there are 2"
    ):
        runner.restore("here", model=model, optimizer=apart)
    assert not apart.state
    some = torch.optim.AdamW(weights, lr=1.0)
    with pytest.raises(runner.CheckpointError, match=r"optimizer: does not train layers\.1\.bias, layers\.4\.bias"):
        runner.restore("here", model=model, optimizer=some)
    runner.restore("here", model=model, optimizer=apart, strict=False)
    assert len(apart.state) == 6 and apart.param_groups[0]["lr"] == 1.0


def test_state_that_an_optimizer_wants_and_the_checkpoint_lacks_is_said(short: Short) -> None:
    short(*RUN)
    model = net()
    restored = runner.restore("here", model=model, optimizer=adamw(model, amsgrad=True))
    assert not any("max_exp_avg_sq" in line for line in restored.left_out)
    apart = torch.optim.AdamW(
        [{"params": list(model.parameters())[:2]}, {"params": list(model.parameters())[2:]}], amsgrad=True
    )
    restored = runner.restore("here", model=model, optimizer=apart, strict=False)
    lacking = "the optimizer's max_exp_avg_sq: the checkpoint has none; with amsgrad it starts from zero"
    assert sum("groups" in line for line in restored.left_out) == 1
    assert lacking in restored.left_out


def test_a_gradient_scaler_is_restored(short: Short) -> None:
    run = short(*RUN, "trainer.precision=fp16")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    restored = runner.restore("here", scaler=scaler)
    assert scaler.state_dict() == run.checkpoint().state()["scaler"]
    assert restored.loaded == ("gradient scaler",)
    with pytest.raises(runner.CheckpointError, match="scaler: the scaler is not enabled"):
        runner.restore("here", scaler=torch.amp.GradScaler("cpu", enabled=False))


def test_a_part_of_a_training_goes_where_it_belongs() -> None:
    handler = runner.NNHandler(nn.Linear, in_features=2, out_features=2)
    handler.set_optimizer(torch.optim.SGD, lr=0.5)
    handler.save("all.pth", single_file=False)
    file = next(Path.cwd().glob("all*optimizer.pth"))
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(runner.CheckpointError, match="model: the checkpoint has none"):
        runner.restore(file, model=model, optimizer=optimizer)
    restored = runner.restore(file, model=model, optimizer=optimizer, strict=False)
    assert restored.left_out == ("model: the checkpoint has none",)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_an_echo_state_network_is_restored() -> None:
    from runner.models import classic_esn

    saved, fresh = (classic_esn(reservoir_size=9, input_size=2, output_size=1) for _ in range(2))
    saved.save("esn.pt")
    restored = runner.restore("esn.pt", model=fresh)
    assert same(fresh.state_dict(), saved.state_dict()) and restored.position == ""


def test_what_cannot_be_asked_for_is_refused(short: Short) -> None:
    short(*RUN)
    model = net()
    for given, message in (
        ({}, r"restore\('here'\): nothing to restore into; give model=\.\.\., optimizer=\.\.\., or others"),
        ({"optimizer": adamw(model)}, r"give model=\.\.\., too; its names tell whose state is whose"),
        ({"model": model.state_dict()}, r"restore\(model=\.\.\.\): got a OrderedDict; wanted a Module"),
        ({"model": model, "averaged": net()}, r"restore\(averaged=\.\.\.\): got a MLP; wanted a AveragedModel"),
        ({"model": model, "optimizer": adamw(net())}, r"6 of its 6 parameters are not in the model"),
    ):
        with pytest.raises(runner.ConfigError, match=message):
            runner.restore("here", **given)
    with pytest.raises(runner.CheckpointError, match="nowhere: is not there; give a run, a checkpoint, or a file that"):
        runner.restore("nowhere", model=model)


def test_a_damaged_file_is_named_and_nothing_is_changed(short: Short) -> None:
    run = short(*RUN)
    file = run.checkpoint().path / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    model = net()
    optimizer = adamw(model)
    before = everything(model, optimizer)
    with pytest.raises(runner.DamagedError, match=r"optimizer\.safetensors: is damaged"):
        runner.restore("here", model=model, optimizer=optimizer)
    assert everything(model, optimizer) == before
    # What is not asked for is not read.
    runner.restore("here", model=model)
