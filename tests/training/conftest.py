"""Small trainings of every kind, and what it takes to stop, save and go on with them."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runner.checkpoint.tree import flatten, unflatten
from runner.data.batches import AnyBatches, make_batches
from runner.data.tensors import Tensors
from runner.records import Evaluation, Monitor, Step
from runner.training.generators import seed_all
from runner.training.objective import Accuracy, Objective, Supervised
from runner.training.plan import EarlyStopping, Evaluate, Limits, Trainer
from runner.training.precision import gradient_scaler
from runner.training.schedule import Constant, CurveScheduler, Scheduler
from runner.training.state import TrainState
from runner.training.steps import steps

CPU = torch.device("cpu")
SAMPLES, FEATURES, CLASSES = 10, 6, 3
"""With batches of 4, an epoch has the batches 4, 4, 2."""


def digits_like(samples: int = SAMPLES) -> Tensors:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, FEATURES, generator=generator)
    return Tensors(x, torch.randint(CLASSES, (samples,), generator=generator))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def sgd(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def constant(optimizer: Optimizer) -> Scheduler:
    return CurveScheduler(optimizer, Constant(warmup_steps=3))


@dataclass
class Training:
    """A training and what `steps` wants of it."""

    state: TrainState
    objective: Objective
    batches: AnyBatches
    plan: Trainer

    def advance(self, count: int) -> list[Step]:
        """Take so many steps, with what the loop does at the end of an epoch."""
        taken = []
        for step in self.steps() if count else ():
            taken.append(step)
            if step.progress.batch == 0:
                self.state.end_epoch(seconds=0.0)
                if self.plan.schedule == "evaluation":
                    score = 1.0 / (1 + step.progress.epoch // 2)
                    evaluation = Evaluation(step.progress, "validation", {"val_loss": score}, "raw", False, 0.0)
                    self.state.take(evaluation, schedule=True)
            if len(taken) == count:
                break
        return taken

    def steps(self) -> Iterator[Step]:
        return steps(self.state, self.objective, self.batches, self.plan)

    def saved(self) -> dict[str, Any]:
        """The state as a checkpoint would bring it back: through JSON, and tensors that share nothing."""
        value, tensors = flatten(self.state.state_dict())
        copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        restored: dict[str, Any] = unflatten(json.loads(json.dumps(value)), copies)
        return restored


def plan(**changes: Any) -> Trainer:
    """A plan with nothing special in it, but for `changes`."""
    settings: dict[str, Any] = {
        "max_epochs": 10,
        "max_steps": None,
        "max_time": None,
        "accumulate": 1,
        "clip_norm": None,
        "precision": "fp32",
        "ema_decay": None,
        "schedule": "step",
        "nonfinite": "stop",
        "deterministic": True,
        "log_every": 1,
        "evaluate": Evaluate(every_epochs=1, every_steps=None, weights="raw"),
        "early_stopping": EarlyStopping(patience=None, min_delta=0.0),
        "limits": Limits(train_batches=None, evaluation_batches=None),
    }
    return Trainer(**settings | changes)


def train(
    *,
    model: Callable[[], nn.Module] = perceptron,
    optimizer: Callable[[nn.Module], Optimizer] = sgd,
    scheduler: Callable[[Optimizer], Scheduler] = constant,
    dataset: Callable[[], Any] = digits_like,
    objective: Callable[[], Objective] | None = None,
    network: Callable[[nn.Module], nn.Module] | None = None,
    batch_size: int = 4,
    shuffle: bool = True,
    workers: int = 0,
    initial_scale: float | None = None,
    **trainer: Any,
) -> Training:
    """A training built anew from its parts, as the same seed always builds it."""
    seed_all(3)
    settings = plan(**trainer)
    built = model()
    made = optimizer(built)
    scaler = gradient_scaler(settings.precision, CPU)
    if scaler is not None and initial_scale is not None:
        scaler.load_state_dict(scaler.state_dict() | {"scale": initial_scale})
    state = TrainState(
        model=built,
        optimizer=made,
        scheduler=scheduler(made),
        device=CPU,
        scaler=scaler,
        ema_decay=settings.ema_decay,
        monitor=Monitor("val_loss", "min"),
        min_delta=0.0,
        network=None if network is None else network(built),
    )
    batches = make_batches(dataset(), batch_size=batch_size, shuffle=shuffle, drop_last=False, seed=5, workers=workers)
    if batches.state_dict():
        state.own["batches"] = batches
    supervised = Supervised(loss=nn.CrossEntropyLoss(), metrics={"accuracy": Accuracy()})
    return Training(state, supervised if objective is None else objective(), batches, settings)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Where two states differ, bit for bit."""
    (values, tensors), (other_values, other_tensors) = flatten(one), flatten(other)
    found = [] if values == other_values else [f"{key}" for key in values if values[key] != other_values.get(key)]
    found += sorted(tensors.keys() ^ other_tensors.keys())
    return found + [
        name for name in tensors.keys() & other_tensors.keys() if _bytes(tensors[name]) != _bytes(other_tensors[name])
    ]


def _bytes(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture(name="train")
def _train() -> Iterator[Callable[..., Training]]:
    """`train(**parts)` builds a training; its workers end with the test."""
    made: list[Training] = []

    def build(**parts: Any) -> Training:
        made.append(train(**parts))
        return made[-1]

    yield build
    for training in made:
        training.batches.close()


@pytest.fixture(name="plan")
def _plan() -> Callable[..., Trainer]:
    return plan


@pytest.fixture(name="differences")
def _differences() -> Callable[..., list[str]]:
    return differences
