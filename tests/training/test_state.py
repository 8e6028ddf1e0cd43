"""A training that was stopped, saved and built anew goes on exactly where the uninterrupted one would be."""

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau
from torch.utils.data import Dataset, IterableDataset

from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.data.tensors import Tensors
from runner.errors import CheckpointError, TrainingError
from runner.records import Evaluation, Monitor
from runner.training.loading import load_weights
from runner.training.module_state import load_transient, transient
from runner.training.schedule import Cosine, CurveScheduler, StepDecay, TorchScheduler
from runner.training.state import TrainState

SAMPLES, FEATURES, CLASSES = 10, 6, 3
Train = Callable[..., Any]
Differences = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]


def groups(model: nn.Module) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [{"params": parameters[:2], "lr": 0.05}, {"params": parameters[2:], "weight_decay": 0.1}]


def with_dropout_and_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES))


class Tied(nn.Module):
    """The same weight twice, and one that never gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.down.weight = self.up.weight
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).tanh())[:, :CLASSES]


class Recurrent(nn.Module):
    """Remembers something of the last batch: in a buffer that begins as None and has the shape of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("memory", None, persistent=False)
        self.register_buffer("mask", torch.ones(1, 2).expand(3, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.layer(x)
        if self.memory is not None:
            scores = scores + self.memory.mean(dim=0)
        self.memory = scores.detach() * 0.5
        return scores


class Augmented(Dataset[tuple[Tensor, int]]):
    """Draws from each of the three generators."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = random.random() + np.random.standard_normal()
        return torch.rand(FEATURES) + noise + index, index % CLASSES


class Stream(IterableDataset[Any]):
    """Nobody knows how long it is. What it draws in a worker would be its own to save."""

    def __init__(self, *, draws: bool = True) -> None:
        self.draws = draws
        self.at = 0

    def __iter__(self) -> Iterator[Any]:
        while self.at < SAMPLES:
            self.at += 1
            noise = torch.rand(FEATURES) if self.draws else torch.arange(FEATURES) / 10
            yield self.at + noise, self.at % CLASSES
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.at = state["at"]


def poisoned() -> Tensors:
    """One sample makes the loss NaN."""
    x = torch.randn(SAMPLES, FEATURES, generator=torch.Generator().manual_seed(1))
    x[3, 0] = float("nan")
    return Tensors(x, torch.arange(SAMPLES) % CLASSES)


def plateau(optimizer: Optimizer) -> TorchScheduler:
    return TorchScheduler(ReduceLROnPlateau(optimizer, factor=0.5, patience=0))


def cosine(optimizer: Optimizer) -> CurveScheduler:
    return CurveScheduler(optimizer, Cosine(warmup=0.2, final=0.1, total_steps=12))


CASES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw": {"optimizer": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=False)},
    "adamw_fused": {"optimizer": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)},
    "adamw_amsgrad": {"optimizer": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True)},
    "adagrad": {"optimizer": lambda model: torch.optim.Adagrad(model.parameters(), lr=0.1)},
    "rmsprop": {"optimizer": lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01, momentum=0.5)},
    "lbfgs": {"optimizer": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)},
    "lbfgs_clipped": {
        "optimizer": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3),
        "clip_norm": 0.1,
        "accumulate": 2,
    },
    "groups": {"optimizer": lambda model: torch.optim.AdamW(groups(model), lr=0.01), "scheduler": cosine},
    "accumulated": {"accumulate": 2},
    "accumulated_whole": {"accumulate": 3},
    "clipped": {"clip_norm": 0.1},
    "averaged": {"ema_decay": 0.8, "model": with_dropout_and_norm},
    "dropout_and_norm": {"model": with_dropout_and_norm},
    "bf16": {"precision": "bf16", "model": with_dropout_and_norm},
    "fp16": {"precision": "fp16"},
    "fp16_skipping": {"precision": "fp16", "initial_scale": 2.0**40, "nonfinite": "skip"},
    "fp16_fused": {
        "precision": "fp16",
        "initial_scale": 2.0**40,
        "optimizer": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True),
    },
    "skipping": {"dataset": poisoned, "nonfinite": "skip", "ema_decay": 0.5},
    "tied": {"model": Tied},
    "recurrent": {"model": Recurrent},
    "recurrent_averaged": {"model": Recurrent, "ema_decay": 0.8},
    "augmented": {"dataset": Augmented},
    "augmented_by_workers": {"dataset": Augmented, "workers": 2},
    "plateau": {"scheduler": plateau, "schedule": "evaluation"},
    "curve_by_epochs": {"scheduler": cosine, "schedule": "epoch"},
    "curve_by_evaluations": {"scheduler": cosine, "schedule": "evaluation"},
    "unknown_length": {"dataset": Stream, "shuffle": False},
    "unknown_length_accumulated": {"dataset": Stream, "shuffle": False, "accumulate": 2},
    "unknown_length_by_workers": {"dataset": lambda: Stream(draws=False), "shuffle": False, "workers": 1},
    "everything": {
        "model": with_dropout_and_norm,
        "dataset": Augmented,
        "optimizer": lambda model: torch.optim.AdamW(groups(model), lr=0.01),
        "scheduler": cosine,
        "accumulate": 2,
        "clip_norm": 0.5,
        "ema_decay": 0.9,
        "precision": "bf16",
    },
}
STEPS = 7
"""Over two epochs, whatever the case: 3 or 2 or 1 steps each."""


@pytest.mark.parametrize("case", CASES)
def test_a_training_that_is_stopped_anywhere_goes_on_exactly(case: str, train: Train, differences: Differences) -> None:
    whole = train(**CASES[case])
    states, taken = [whole.saved()], []
    for step in whole.steps():
        taken.append(step)
        if step.progress.batch == 0:
            whole.state.end_epoch(seconds=0.0)
            if whole.plan.schedule == "evaluation":
                score = 1.0 / (1 + step.progress.epoch // 2)
                evaluation = Evaluation(step.progress, "validation", {"val_loss": score}, "raw", False, 0.0)
                whole.state.take(evaluation, schedule=True)
        states.append(whole.saved())
        if len(taken) == STEPS:
            break
    for stop in range(STEPS) if "workers" not in CASES[case] else (2, 3):
        again = train(**CASES[case])
        assert again.state.load_state_dict(states[stop]).notes == []
        assert differences(again.saved(), states[stop]) == [], f"right after loading step {stop}"
        # Whatever else draws in between leaves no mark: all generators are in the state.
        # By their text, because a loss that is NaN does not equal itself.
        assert [str(step) for step in again.advance(STEPS - stop)] == [str(step) for step in taken[stop:]]
        assert differences(again.saved(), states[STEPS]) == [], f"stopped after step {stop}"


def test_a_scaler_skips_what_is_not_finite_and_that_is_what_is_resumed(train: Train) -> None:
    taken = train(**CASES["fp16_skipping"]).advance(STEPS)
    assert taken[0].skipped
    assert taken[0].progress.step == 0
    assert taken[0].progress.batch == 1


def test_the_store_brings_back_what_was_saved(train: Train, differences: Differences, tmp_path: Path) -> None:
    parts = CASES["everything"]
    whole = train(**parts)
    whole.advance(3)
    keep = KeepPolicy(last=1, best=None, every_steps=None, every_hours=None)
    store = CheckpointStore(tmp_path, run="r", keep=keep, monitor=None)
    store.save(
        whole.state.state_dict(),
        progress=whole.state.progress,
        reasons=("end",),
        metrics={},
        documents={},
        facts={},
    ).wait()
    whole.advance(4)
    again = train(**parts)
    newest = store.newest
    assert newest is not None
    assert again.state.load_state_dict(newest.state()).notes == []
    again.advance(4)
    assert differences(again.saved(), whole.saved()) == []


def test_tied_weights_are_tied_after_loading(train: Train) -> None:
    training = train(model=Tied)
    training.advance(2)
    again = train(model=Tied)
    again.state.load_state_dict(training.saved())
    assert again.state.model.down.weight is again.state.model.up.weight
    assert "unused" not in training.saved()["optimizer"]["state"]


def test_a_state_is_refused_inside_a_step(train: Train) -> None:
    training = train()
    training.state.whole = False
    with pytest.raises(TrainingError, match="step 1 is half done; a state can be saved between steps only"):
        training.state.state_dict()


def test_a_loss_that_was_not_finite_on_the_device_is_found_before_a_save(train: Train) -> None:
    training = train()
    training.state.finite = torch.tensor(False)
    with pytest.raises(TrainingError, match=r"up to step 0: a loss was not finite; .* no checkpoint holds it"):
        training.state.state_dict()


def test_frozen_names_hold_both_names_of_a_tied_parameter(train: Train) -> None:
    training = train(model=Tied)
    training.state.model.up.weight.requires_grad_(False)
    assert training.state.frozen_names() == {"up.weight", "down.weight"}


def test_weights_that_do_not_fit_are_named() -> None:
    with pytest.raises(CheckpointError) as caught:
        load_weights(nn.Linear(2, 3), {"weight": torch.zeros(4, 2), "scale": torch.zeros(1)})
    assert str(caught.value) == (
        "the checkpoint's weights do not fit Linear: missing: bias; unknown: scale; weight: saved (4, 2), "
        "wanted (3, 2); use the model config that it was saved with"
    )


def test_many_weights_that_do_not_fit_are_counted() -> None:
    with pytest.raises(CheckpointError, match="and 2 more; use the model config"):
        load_weights(nn.Identity(), {f"w{i}": torch.zeros(1) for i in range(10)})


def test_another_optimizer_starts_anew_and_it_is_said(train: Train) -> None:
    saved = train()
    saved.advance(4)
    again = train(optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=0.01))
    assert again.state.load_state_dict(saved.saved()).notes == [
        "the optimizer's state: torch.optim.sgd.SGD was saved, torch.optim.adamw.AdamW starts anew"
    ]
    assert not again.state.optimizer.state
    assert again.state.lr == 0.01


def exponential(optimizer: Optimizer) -> TorchScheduler:
    return TorchScheduler(ExponentialLR(optimizer, gamma=0.5))


def test_a_reset_optimizer_goes_on_with_the_learning_rate_of_its_schedule(train: Train) -> None:
    saved = train(scheduler=exponential)
    saved.advance(3)
    again = train(scheduler=exponential)
    assert again.state.load_state_dict(saved.saved(), reset={"optimizer"}).notes == [
        "the optimizer's state begins anew, as +reset=[optimizer] asks"
    ]
    assert not again.state.optimizer.state
    assert [step.lr for step in again.advance(3)] == [0.0125, 0.00625, 0.003125]


def test_a_reset_scheduler_begins_at_the_learning_rate_it_was_built_with(train: Train) -> None:
    saved = train(scheduler=exponential)
    saved.advance(3)
    again = train(scheduler=exponential)
    assert again.state.load_state_dict(saved.saved(), reset={"scheduler"}).notes == [
        "the scheduler ExponentialLR begins anew, as +reset=[scheduler] asks"
    ]
    assert [step.lr for step in again.advance(3)] == [0.1, 0.05, 0.025]


def test_another_curve_is_followed_from_the_step_that_was_reached(train: Train) -> None:
    saved = train(scheduler=exponential)
    saved.advance(4)

    def decay(optimizer: Optimizer) -> CurveScheduler:
        return CurveScheduler(optimizer, StepDecay(every_epochs=1, gamma=0.1, steps_per_epoch=3))

    again = train(scheduler=decay)
    notes = again.state.load_state_dict(saved.saved()).notes
    assert notes == [
        "the scheduler: torch.optim.lr_scheduler.ExponentialLR was saved, "
        "runner.training.schedule.StepDecay starts anew"
    ]
    assert again.state.lr == pytest.approx(0.01)


def test_averaged_weights_come_and_go_and_it_is_said(train: Train) -> None:
    without, averaged = train(), train(ema_decay=0.5)
    without.advance(2)
    averaged.advance(2)
    assert train().state.load_state_dict(averaged.saved()).notes == [
        "the averaged weights: trainer.ema_decay is null now"
    ]
    again = train(ema_decay=0.5)
    assert again.state.load_state_dict(without.saved()).notes == [
        "the averaged weights: the checkpoint has none; they start from the raw ones"
    ]
    for name, value in again.state.averaged.module.state_dict().items():
        assert torch.equal(value, without.state.model.state_dict()[name])


def test_a_scaler_that_comes_or_goes_is_said(train: Train) -> None:
    fp16 = train(precision="fp16")
    said = ["the gradient scaler: trainer.precision is another than was saved"]
    assert train().state.load_state_dict(fp16.saved()).notes == said
    assert train(precision="fp16").state.load_state_dict(train().saved()).notes == said


def test_the_best_of_another_metric_is_left_out(train: Train) -> None:
    saved, again = train(), train()
    saved.state.take(_scores(saved.state, 0.5), schedule=False)
    again.state.monitor = Monitor("val_accuracy", "max")
    assert again.state.load_state_dict(saved.saved()).notes == [
        "the best val_loss so far: another metric is monitored now"
    ]
    assert again.state.best is None


def test_a_part_without_saved_state_is_said(train: Train) -> None:
    again = train()
    again.state.own["objective"] = nn.PReLU()
    assert again.state.load_state_dict(train().saved()).notes == ["the state of objective: the checkpoint has none"]


def test_the_state_of_the_objective_is_restored(train: Train) -> None:
    saved, again = train(), train()
    saved.state.own["objective"], again.state.own["objective"] = nn.PReLU(init=0.7), nn.PReLU()
    assert again.state.load_state_dict(saved.saved()).notes == []
    assert again.state.own["objective"].weight.item() == pytest.approx(0.7)


def _scores(state: TrainState, value: float) -> Evaluation:
    return Evaluation(state.progress, "validation", {"val_loss": value}, "raw", False, 0.0)


@pytest.mark.parametrize(
    ("values", "best", "waited"),
    [
        ((0.5, 0.4), 0.4, 0),
        ((0.5, 0.6), 0.5, 1),
        ((float("nan"), 0.6), 0.6, 0),
        ((0.5, float("nan"), float("-inf")), 0.5, 2),
        ((float("nan"),), None, 1),
    ],
)
def test_scores_that_are_not_finite_are_never_best_and_count_as_waiting(
    train: Train, values: tuple[float, ...], best: float | None, waited: int
) -> None:
    state = train().state
    for value in values:
        state.take(_scores(state, value), schedule=False)
    assert (state.best and state.best.value) == best
    assert state.waited == waited


def test_small_improvements_are_best_but_do_not_end_the_waiting(train: Train) -> None:
    state = train().state
    state.min_delta = 0.1
    for value in (0.5, 0.45, 0.42):
        state.take(_scores(state, value), schedule=False)
    assert state.best is not None
    assert (state.best.value, state.waited) == (0.42, 2)


def test_the_mean_loss_of_an_epoch_is_over_its_samples(train: Train) -> None:
    training = train()
    taken = list(islice(training.steps(), 3))
    weights = (4, 4, 2)
    mean = sum(step.loss * weight for step, weight in zip(taken, weights, strict=True)) / 10
    # Sums of three numbers, the same ones in the same order.
    assert training.state.end_epoch(seconds=1.0).loss == mean
    assert np.isnan(training.state.epoch_loss.value())


def test_transient_buffers_that_are_one_tensor_stay_one() -> None:
    def twins() -> nn.Module:
        model = nn.Sequential(nn.Identity(), nn.Identity())
        shared = torch.zeros(2)
        for part in model:
            part.register_buffer("table", shared, persistent=False)
        return model

    model, again = twins(), twins()
    model[0].table.add_(1)
    load_transient(again, transient(model), torch.device("cpu"))
    assert torch.equal(again[0].table, torch.ones(2))
    assert again[0].table is again[1].table


def test_transient_buffers_of_other_code_are_left_alone() -> None:
    model = nn.Identity()
    model.register_buffer("table", torch.ones(2), persistent=False)
    load_transient(model, {"gone": torch.zeros(1)}, torch.device("cpu"))
    assert torch.equal(model.table, torch.ones(2))


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_names_are_those_of_the_model_where_it_is_compiled(train: Train, differences: Differences) -> None:
    with warnings.catch_warnings():
        # What torch's own compiler says about its own imports.
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled = train(network=lambda model: torch.compile(model, backend="eager"))
        compiled.advance(4)
        again = train()
        assert again.state.load_state_dict(compiled.saved()).notes == []
        assert differences(again.saved(), compiled.saved()) == []
