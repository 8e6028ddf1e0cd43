"""What a config builds, and what is said where its parts do not fit together."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, SequentialLR

from runner.config.build_optimizer import build_optimizer, build_scheduler
from runner.config.nodes import device_of
from runner.errors import ConfigError
from runner.training.plan import Horizon
from runner.training.schedule import Cosine, CurveScheduler, TorchScheduler

# Test modules are imported each by itself, so what they share is put within their reach here.
sys.path.append(str(Path(__file__).parent))

from whole_builds import built, refused


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "built_here.py").write_text(
        "import torch, runner\n"
        "from torch.utils.data import TensorDataset\n"
        "def no_model(): return 3\n"
        "def frozen(): return torch.nn.Linear(64, 10).requires_grad_(False)\n"
        "def no_data(): return [1, 2]\n"
        "def train_only(): return runner.Data(train=TensorDataset(torch.zeros(8, 64), torch.zeros(8).long()))\n"
        "class Fails(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        raise RuntimeError('no such file')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_equal_configs_begin_with_equal_weights_whatever_was_drawn_before() -> None:
    one = built()
    torch.randn(5)
    other = built()
    for name, value in one.state.model.state_dict().items():
        assert torch.equal(value, other.state.model.state_dict()[name])
    different = built("seed=1")
    name = next(iter(one.state.model.state_dict()))
    assert not torch.equal(one.state.model.state_dict()[name], different.state.model.state_dict()[name])


def test_the_horizon_comes_from_the_data_and_reaches_the_schedule() -> None:
    training = built("data.batch_size=100", "trainer.max_epochs=3", "trainer.accumulate=2")
    assert training.horizon == Horizon(steps_per_epoch=7, total_steps=21)
    assert isinstance(training.state.scheduler, CurveScheduler)
    assert isinstance(training.state.scheduler.curve, Cosine)
    assert training.state.scheduler.curve.total_steps == 21


def linear(*shape: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def optimizer_of(groups: list[dict[str, Any]], model: nn.Module | None = None, **more: Any) -> torch.optim.Optimizer:
    node = {"_target_": "torch.optim.AdamW", "lr": 0.1, "weight_decay": 0.2, "groups": groups, **more}
    return build_optimizer(node, linear() if model is None else model, torch.device("cpu"), [])


def test_of_each_parameter_the_first_pattern_that_fits_its_name_holds() -> None:
    model = linear()
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = optimizer_of([{"match": "*.bias", "weight_decay": 0.0}, {"match": "1.*", "lr": 0.5}], model)
    found = [([names[p] for p in g["params"]], g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert found == [
        (["0.bias", "1.bias", "2.bias"], 0.1, 0.0),
        (["1.weight"], 0.5, 0.2),
        (["0.weight", "2.weight"], 0.1, 0.2),
    ]


def test_a_parameter_that_is_not_trained_is_in_no_group() -> None:
    model = linear()
    model[0].requires_grad_(False)
    optimizer = optimizer_of([], model)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"match": "*.biass"}], "optimizer.groups[0].match is '*.biass', which fits no trained parameter"),
        (
            [{"match": "*.bias", "weight_decy": 0}],
            "optimizer.groups[0].weight_decy: AdamW has no such setting; "
            "did you mean 'optimizer.groups[0].weight_decay'?",
        ),
    ],
)
def test_a_group_that_fits_nothing_is_refused(groups: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        optimizer_of(groups)
    assert error.value.problems[0].startswith(message)


def test_fused_is_left_out_and_said_where_there_is_no_such_kernel() -> None:
    notes: list[str] = []
    node = {"_target_": "torch.optim.AdamW", "lr": 0.1, "fused": True, "groups": []}
    optimizer = build_optimizer(node, linear(), torch.device("meta"), notes)
    assert optimizer.param_groups[0]["fused"] is False
    assert notes == ["optimizer.fused: there is no fused kernel for these parameters on meta; the plain one is used"]
    assert optimizer_of([], fused=True).param_groups[0]["fused"] is True


def test_schedulers_of_torch_get_the_optimizer_also_those_inside_another() -> None:
    node = {
        "_target_": "torch.optim.lr_scheduler.SequentialLR",
        "milestones": [2],
        "schedulers": [
            {"_target_": "torch.optim.lr_scheduler.LinearLR", "start_factor": 0.5, "total_iters": 2},
            {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 8},
        ],
    }
    scheduler = build_scheduler(node, optimizer_of([]), Horizon(None, None))
    assert isinstance(scheduler, TorchScheduler) and isinstance(scheduler.scheduler, SequentialLR)
    assert scheduler.scheduler.optimizer.param_groups[0]["lr"] == 0.05


def test_plateau_is_asked_after_evaluations() -> None:
    training = built("scheduler=plateau")
    assert isinstance(training.state.scheduler, TorchScheduler)
    assert isinstance(training.state.scheduler.scheduler, ReduceLROnPlateau)


def test_a_schedule_that_needs_a_length_that_nobody_knows_is_refused() -> None:
    node = {"_target_": "runner.training.schedule.Cosine", "warmup": 0.1, "final": 0.0}
    with pytest.raises(ConfigError, match=r"needs total_steps, which is not known here; set scheduler\.total_steps or"):
        build_scheduler(node, optimizer_of([]), Horizon(None, None))
    assert isinstance(
        build_scheduler({**node, "total_steps": 9}, optimizer_of([]), Horizon(None, None)), CurveScheduler
    )


def test_parts_that_do_not_fit_together_are_refused(modules: None) -> None:
    assert refused("monitor.metric=val_acuracy") == (
        "monitor.metric is 'val_acuracy', and an evaluation gives val_loss, val_accuracy; did you mean 'val_accuracy'?",
    )
    assert refused("data._target_=built_here.train_only") == (
        "trainer.evaluate.every_epochs is set, and the data have no validation split; "
        "set trainer.evaluate.every_epochs=null, or give Data(validation=...)",
        "monitor is set, and the data have no validation split; set monitor=null, or give Data(validation=...)",
    )
    assert refused("optimizer._target_=torch.optim.LBFGS", "trainer.precision=fp16")[0].startswith(
        "trainer.precision is 'fp16', and LBFGS evaluates the model itself"
    )
    closed_form = ("experiment=lorenz_esn", "model.reservoir_size=5", "data.length=5", "data.washout=5")
    for lengths, now in ((["trainer.max_epochs=2"], "2"), (["trainer.max_epochs=null", "trainer.max_steps=4"], "null")):
        assert refused(*closed_form, *lengths) == (
            f"trainer.max_epochs is {now}, and Ridge takes one pass over the data, for a second one would count the "
            "same again; set trainer.max_epochs=1",
        )


def test_targets_that_build_something_else_are_refused(modules: None) -> None:
    assert refused("model._target_=built_here.no_model") == (
        "model._target_=built_here.no_model: built int; wanted a torch.nn.Module, or a function that returns one",
    )
    assert refused("data._target_=built_here.no_data")[0].startswith("data._target_=built_here.no_data: built list; ")
    (failed,) = refused("model._target_=built_here.Fails")
    assert failed.startswith("model._target_=built_here.Fails: could not be built: RuntimeError: no such file (")
    assert failed.endswith("built_here.py:9)")
    assert refused("model._target_=built_here.frozen") == (
        "model: Linear has no parameter to train; every one is frozen, or there is none",
    )
    assert refused("optimizer.lr=-1")[0].startswith("optimizer._target_=torch.optim.AdamW: could not be built: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"runtime\.device is 'cuda:1', and this machine has only "):
        device_of("cuda:1")
    assert device_of("auto").type in ("cpu", "mps")
