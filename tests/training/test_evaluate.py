import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runner.data.batches import make_batches
from runner.data.tensors import Tensors
from runner.records import Evaluation
from runner.training.evaluate import evaluate, metric_names

FEATURES, CLASSES = 6, 3
Train = Callable[..., Any]


def never() -> bool:
    return False


def batches_of(size: int) -> Any:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(11, FEATURES, generator=generator)
    data = Tensors(x, torch.randint(CLASSES, (11,), generator=generator))
    return make_batches(data, batch_size=size, shuffle=False, drop_last=False, seed=0)


def scores(training: Any, **changes: Any) -> Evaluation | None:
    settings = {"split": "validation", "weights": "raw", "precision": "fp32", "interrupted": never} | changes
    batches = settings.pop("batches", None)
    batches = batches_of(4) if batches is None else batches
    return evaluate(training.state, training.objective, batches, **settings)


class Noisy(nn.Module):
    """Draws, remembers and has a frozen part: everything that an evaluation might leave changed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES)
        self.frozen = nn.Dropout(0.5).eval()
        self.layer = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("memory", None, persistent=False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.memory = torch.rand(2) * random.random() * np.random.random()
        return self.layer(self.frozen(self.norm(x)))


@pytest.mark.parametrize("weights", ["raw", "averaged"])
def test_an_evaluation_leaves_no_trace(train: Train, differences: Callable[..., list[str]], weights: str) -> None:
    training = train(model=Noisy, ema_decay=0.5)
    training.advance(2)
    state = training.saved()
    modes = [module.training for module in training.state.model.modules()]
    assert scores(training, weights=weights) is not None
    assert differences(training.saved(), state) == []
    assert [module.training for module in training.state.model.modules()] == modes
    assert not training.state.model.frozen.training


def test_an_evaluation_that_fails_leaves_no_trace(train: Train, differences: Callable[..., list[str]]) -> None:
    training = train(model=Noisy)
    training.advance(1)
    state = training.saved()

    def fail(outputs: Tensor, batch: Any) -> Any:
        raise KeyError("a metric")

    training.objective.metrics = {"failing": fail}
    with pytest.raises(KeyError, match="a metric"):
        scores(training)
    assert differences(training.saved(), state) == []
    assert training.state.model.training


def test_no_gradient_is_kept(train: Train) -> None:
    training = train()
    scores(training)
    assert all(parameter.grad is None for parameter in training.state.model.parameters())


@pytest.mark.parametrize("size", [1, 4, 5])
def test_metrics_are_over_samples_whatever_the_batches(train: Train, size: int) -> None:
    training = train()
    whole, parts = scores(training, batches=batches_of(11)), scores(training, batches=batches_of(size))
    assert whole is not None
    assert parts is not None
    assert parts.metrics["val_accuracy"] == whole.metrics["val_accuracy"]
    # Means of float32 batches in another order.
    assert parts.metrics["val_loss"] == pytest.approx(whole.metrics["val_loss"], rel=1e-6)


def test_a_metric_is_its_sum_by_its_count(train: Train) -> None:
    training = train()

    def positives(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        return batch[1].sum(), (batch[1] > 0).sum()

    def nothing(outputs: Tensor, batch: Any) -> tuple[float, int]:
        return 0.0, 0

    training.objective.metrics = {"positives": positives, "nothing": nothing}
    evaluation = scores(training)
    assert evaluation is not None
    labels = torch.cat([batch[1] for batch in batches_of(4).epoch(0)])
    assert evaluation.metrics["val_positives"] == float(labels.sum()) / int((labels > 0).sum())
    assert np.isnan(evaluation.metrics["val_nothing"])
    assert tuple(evaluation.metrics) == metric_names(training.objective, "validation")


def test_metrics_carry_the_name_of_their_split(train: Train) -> None:
    training = train()
    evaluation = scores(training, split="test")
    assert evaluation is not None
    assert tuple(evaluation.metrics) == metric_names(training.objective, "test") == ("test_loss", "test_accuracy")
    assert not evaluation.improved


def test_averaged_weights_are_evaluated_where_they_are_asked_for(train: Train) -> None:
    training = train(ema_decay=0.9)
    training.advance(3)
    raw, averaged = scores(training), scores(training, weights="averaged")
    assert raw is not None
    assert averaged is not None
    assert (raw.weights, averaged.weights) == ("raw", "averaged")
    assert raw.metrics["val_loss"] != averaged.metrics["val_loss"]
    training.state.model.load_state_dict(training.state.averaged.module.state_dict())
    again = scores(training)
    assert again is not None
    assert again.metrics == averaged.metrics


def test_without_averaged_weights_the_raw_ones_are_evaluated_and_named(train: Train) -> None:
    evaluation = scores(train(), weights="averaged")
    assert evaluation is not None
    assert evaluation.weights == "raw"


def test_half_an_evaluation_is_none(train: Train, differences: Callable[..., list[str]]) -> None:
    training = train(model=Noisy)
    state = training.saved()
    asked = iter([False, False, True])
    assert scores(training, interrupted=lambda: next(asked)) is None
    assert differences(training.saved(), state) == []


def test_the_first_score_and_every_better_one_is_an_improvement(train: Train) -> None:
    training = train()
    first = scores(training)
    assert first is not None
    assert first.improved
    training.state.take(first, schedule=False)
    second = scores(training)
    assert second is not None
    assert not second.improved
    training.advance(6)
    later = scores(training)
    assert later is not None
    assert later.metrics["val_loss"] != first.metrics["val_loss"]
    assert later.improved == (later.metrics["val_loss"] < first.metrics["val_loss"])


def test_reduced_precision_is_used_in_evaluation_too(train: Train) -> None:
    training = train()
    full, reduced = scores(training), scores(training, precision="bf16")
    assert full is not None
    assert reduced is not None
    assert full.metrics["val_loss"] != reduced.metrics["val_loss"]
    # bf16 has 8 bits of precision.
    assert full.metrics["val_loss"] == pytest.approx(reduced.metrics["val_loss"], rel=2e-2)


def test_an_evaluation_between_two_steps_changes_no_step(train: Train, differences: Callable[..., list[str]]) -> None:
    with_evaluations = train(model=Noisy)
    for step in with_evaluations.steps():
        if step.progress.batch == 0:
            with_evaluations.state.end_epoch(seconds=0.0)
        scores(with_evaluations)
        if step.progress.step == 5:
            break
    trained = with_evaluations.saved()
    without = train(model=Noisy)
    without.advance(5)
    assert differences(trained, without.saved()) == []


class Remembering(nn.Module):
    """Its scores depend on what it has seen before."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("memory", torch.zeros(CLASSES), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.layer(x) + self.memory
        self.memory = 0.5 * self.memory + scores.detach().mean(dim=0)
        return scores


@pytest.mark.parametrize("weights", ["raw", "averaged"])
def test_a_resumed_training_is_evaluated_as_the_uninterrupted_one(train: Train, weights: str) -> None:
    training, again = (train(model=Remembering, ema_decay=0.5) for _ in range(2))
    training.advance(4)
    again.state.load_state_dict(training.saved())
    first, second, resumed = (scores(which, weights=weights) for which in (training, training, again))
    assert first is not None
    assert second is not None
    assert resumed is not None
    assert first.metrics == second.metrics == resumed.metrics
