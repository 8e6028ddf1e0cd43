import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from runner.checkpoint.tree import flatten, unflatten
from runner.records import Progress
from runner.training import optimizer_state
from runner.training.schedule import Constant, Cosine, Curve, CurveScheduler, OneCycle, StepDecay, TorchScheduler

MODEL = torch.nn.Linear(2, 2)


def sgd(*, momentum: float = 0.9) -> Optimizer:
    return torch.optim.SGD(
        [{"params": [MODEL.weight]}, {"params": [MODEL.bias], "lr": 0.01}], lr=0.1, momentum=momentum
    )


@pytest.mark.parametrize(
    ("curve", "factors"),
    [
        (Constant(warmup_steps=0), {0: 1, 1: 1, 10**9: 1}),
        (Constant(warmup_steps=3), {0: 0.25, 1: 0.5, 2: 0.75, 3: 1, 4: 1}),
        (Cosine(warmup=0, final=0, total_steps=8), {0: 1, 2: 0.5 + math.sqrt(0.125), 4: 0.5, 8: 0, 9: 0, 99: 0}),
        (Cosine(warmup=0.2, final=0.1, total_steps=10), {0: 1 / 3, 1: 2 / 3, 2: 1, 6: 0.55, 10: 0.1, 11: 0.1}),
        (Cosine(warmup=0.9, final=0, total_steps=1), {0: 1, 1: 0}),
        (StepDecay(every_epochs=2, gamma=0.1, steps_per_epoch=3), {0: 1, 5: 1, 6: 0.1, 11: 0.1, 12: 0.01}),
        (
            OneCycle(rise=0.5, start_divisor=4, end_divisor=100, total_steps=8),
            {0: 0.25, 2: 0.625, 4: 1, 6: 0.505, 8: 0.01, 9: 0.01},
        ),
    ],
)
def test_closed_forms(curve: Curve, factors: Mapping[int, float]) -> None:
    # The cosines are rounded.
    assert {step: curve.factor(step) for step in factors} == pytest.approx(factors, abs=1e-12)


LENGTHENED: list[Callable[[int], Curve]] = [
    lambda total: Cosine(warmup=0.1, final=0.05, total_steps=total),
    lambda total: OneCycle(rise=0.3, start_divisor=25, end_divisor=1e4, total_steps=total),
]


@pytest.mark.parametrize("curve", LENGTHENED)
def test_past_the_horizon_the_last_value_holds(curve: Callable[[int], Curve]) -> None:
    assert {curve(20).factor(step) for step in range(20, 60)} == {curve(20).factor(20)}


@pytest.mark.parametrize("curve", LENGTHENED)
def test_a_longer_horizon_is_the_same_curve_stretched(curve: Callable[[int], Curve]) -> None:
    stretched = [curve(400).factor(4 * step) for step in range(20, 101)]
    assert stretched == pytest.approx([curve(100).factor(step) for step in range(20, 101)], abs=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(warmup_steps=-1), "scheduler.warmup_steps is -1; wanted at least 0"),
        (
            lambda: Cosine(warmup=1, final=0, total_steps=9),
            "scheduler.warmup is 1; wanted a share of the training, at least 0 and below 1",
        ),
        (lambda: Cosine(warmup=0, final=0, total_steps=0), "scheduler.total_steps is 0; wanted at least 1"),
        (
            lambda: StepDecay(every_epochs=0, gamma=0.1, steps_per_epoch=3),
            "scheduler.every_epochs is 0 and steps_per_epoch 3; wanted at least 1",
        ),
        (
            lambda: OneCycle(rise=1, start_divisor=2, end_divisor=2, total_steps=9),
            "scheduler.rise is 1; wanted a share of the training between 0 and 1",
        ),
        (
            lambda: OneCycle(rise=0.3, start_divisor=0, end_divisor=2, total_steps=9),
            "scheduler.start_divisor is 0 and end_divisor 2; wanted numbers above 0",
        ),
        (
            lambda: OneCycle(rise=0.3, start_divisor=2, end_divisor=2, total_steps=0),
            "scheduler.total_steps is 0; wanted at least 1",
        ),
    ],
)
def test_a_curve_that_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


def rates(optimizer: Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def test_a_curve_moves_every_group_from_its_own_learning_rate() -> None:
    optimizer = sgd()
    scheduler = CurveScheduler(optimizer, StepDecay(every_epochs=1, gamma=0.5, steps_per_epoch=1))
    scheduler.step(Progress(step=2), None)
    assert rates(optimizer) == [0.025, 0.0025]
    assert scheduler.kind == "runner.training.schedule.StepDecay"


@pytest.mark.parametrize("stop", range(8))
@pytest.mark.parametrize("every", [1, 3])
def test_a_curve_resumes_where_it_was_set_last(stop: int, every: int) -> None:
    def made() -> CurveScheduler:
        return CurveScheduler(sgd(), Cosine(warmup=0.3, final=0, total_steps=8))

    whole = made()
    for step in range(1, stop + 1):
        if step % every == 0:
            whole.step(Progress(step=step), None)
    again = made()
    again.load_state_dict(whole.state_dict())
    assert rates(again.optimizer) == rates(whole.optimizer)


def sequential(optimizer: Optimizer) -> LRScheduler:
    parts: list[LRScheduler] = [
        LinearLR(optimizer, start_factor=0.1, total_iters=3),
        StepLR(optimizer, step_size=2, gamma=0.5),
    ]
    return SequentialLR(optimizer, parts, milestones=[4])


SCHEDULERS: dict[str, Callable[[Optimizer], LRScheduler]] = {
    "lambda": lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "linear": lambda optimizer: LinearLR(optimizer, start_factor=0.1, total_iters=15),
    "sequential": sequential,
    "one_cycle": lambda optimizer: OneCycleLR(optimizer, max_lr=[0.5, 0.05], total_steps=20),
    "warm_restarts": lambda optimizer: CosineAnnealingWarmRestarts(optimizer, T_0=3, T_mult=2),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, factor=0.5, patience=1),
}


def run(scheduler: TorchScheduler, steps: range) -> list[list[float]]:
    """The learning rates after each of these steps; the metric falls at first, then stays."""
    found = []
    for step in steps:
        scheduler.scheduler.optimizer.step()
        scheduler.step(Progress(step=step), max(1.0, 5.0 - step))
        found.append(rates(scheduler.scheduler.optimizer))
    return found


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5, 10])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_torchs_schedulers_are_exact_after_save_and_load(name: str, stop: int) -> None:
    def made() -> TorchScheduler:
        return TorchScheduler(SCHEDULERS[name](sgd()))

    whole = made()
    run(whole, range(stop))
    optimizer = whole.scheduler.optimizer
    value, tensors = flatten([whole.state_dict(), optimizer_state.capture(optimizer, MODEL)])
    rest = run(whole, range(stop, 16))
    scheduler, groups = unflatten(json.loads(json.dumps(value)), tensors)
    again = made()
    optimizer_state.restore(again.scheduler.optimizer, MODEL, groups)
    again.load_state_dict(scheduler)
    assert run(again, range(stop, 16)) == rest
    assert len({tuple(found) for found in rest}) > 1
    assert flatten(again.state_dict())[0] == flatten(whole.state_dict())[0]


def test_a_scheduler_may_move_before_the_first_step_of_a_later_attempt() -> None:
    first = TorchScheduler(LinearLR(sgd()))
    again = TorchScheduler(LinearLR(sgd()))
    again.load_state_dict(first.state_dict())
    # A warning of torch, which would fail this test, says otherwise that the optimizer has never stepped.
    again.step(Progress(step=3), None)


@pytest.mark.parametrize(("mode", "good"), [("min", 1.0), ("max", -1.0)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_no_improvement_for_a_plateau(mode: Any, good: float, bad: float) -> None:
    optimizer = sgd()
    scheduler = TorchScheduler(ReduceLROnPlateau(optimizer, mode=mode, factor=0.5, patience=1))
    for score in (good, bad, bad):
        scheduler.step(Progress(), score)
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert scheduler.state_dict()["best"] == good


def test_a_plateau_waits_for_a_score() -> None:
    optimizer = sgd()
    scheduler = TorchScheduler(ReduceLROnPlateau(optimizer, patience=0))
    for _ in range(5):
        scheduler.step(Progress(), None)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert scheduler.kind == "torch.optim.lr_scheduler.ReduceLROnPlateau"
