import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, IterableDataset

from runner.data.tensors import Tensors
from runner.errors import TrainingError
from runner.records import Progress, World
from runner.training.objective import LanguageModel
from runner.training.schedule import Constant, CurveScheduler
from runner.training.steps import _Stepper, steps

FEATURES, CLASSES = 6, 3
Train = Callable[..., Any]


def parameters(training: Any) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in training.state.model.parameters()]


def unchanged(training: Any, before: list[Tensor]) -> bool:
    return all(map(torch.equal, before, parameters(training)))


def test_progress_counts_steps_batches_and_samples(train: Train) -> None:
    taken = train(accumulate=2).advance(4)
    assert [step.progress for step in taken] == [
        Progress(step=1, epoch=0, batch=2, samples=8),
        Progress(step=2, epoch=1, batch=0, samples=10),
        Progress(step=3, epoch=1, batch=2, samples=18),
        Progress(step=4, epoch=2, batch=0, samples=20),
    ]


def test_a_step_names_the_learning_rate_it_was_made_with(train: Train) -> None:
    # Warm-up over three steps.
    assert [step.lr for step in train().advance(5)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])


@pytest.mark.parametrize("clip_norm", [None, 0.01])
@pytest.mark.parametrize("accumulate", [2, 3])
def test_an_accumulated_step_is_that_of_the_whole_batch(train: Train, accumulate: int, clip_norm: float | None) -> None:
    """Batches of 4, 4 and 2 samples: a mean of their means would be another number."""
    parts = train(accumulate=accumulate, shuffle=False, clip_norm=clip_norm)
    whole = train(batch_size=4 * accumulate, shuffle=False, clip_norm=clip_norm)
    for one, other in zip(parts.advance(4), whole.advance(4), strict=True):
        # Sums over the samples in another order: float32 rounds to 6e-8, and a few hundred numbers are summed up.
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.progress.samples == other.progress.samples
    for mine, theirs in zip(parameters(parts), parameters(whole), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def tokens() -> Tensors:
    """Targets of which the first batches hold many, the next none, the last few."""
    targets = torch.full((6, 4), -1)
    targets[:2] = torch.arange(8).reshape(2, 4) % CLASSES
    targets[5, 0] = 1
    return Tensors(torch.arange(24).reshape(6, 4) % CLASSES, targets)


def test_a_window_is_the_mean_over_tokens_even_where_a_batch_has_none(train: Train) -> None:
    settings = {
        "model": lambda: nn.Embedding(CLASSES, CLASSES),
        "dataset": tokens,
        "objective": lambda: LanguageModel(ignore_index=-1, metrics={}),
        "shuffle": False,
    }
    parts, whole = train(accumulate=3, batch_size=2, **settings), train(batch_size=6, **settings)
    # The same sums in another order.
    assert next(parts.steps()).loss == pytest.approx(next(whole.steps()).loss, rel=1e-6)
    torch.testing.assert_close(parameters(parts), parameters(whole))
    assert parts.state.epoch_loss.count == 9


def test_a_window_without_any_token_changes_nothing_by_its_gradient(train: Train) -> None:
    training = train(
        model=lambda: nn.Embedding(CLASSES, CLASSES),
        dataset=lambda: Tensors(torch.zeros(4, 2, dtype=torch.int64), torch.full((4, 2), -1)),
        objective=lambda: LanguageModel(ignore_index=-1, metrics={}),
        batch_size=2,
        accumulate=2,
    )
    before = parameters(training)
    assert training.advance(1)[0].loss == 0
    assert unchanged(training, before)


def test_the_norm_before_clipping_is_told_and_the_gradient_is_cut(train: Train) -> None:
    clipped, free = train(clip_norm=0.01), train()
    step = clipped.advance(1)[0]
    assert free.advance(1)[0].grad_norm is None
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in free.state.model.parameters()))
    assert float(step.grad_norm) == pytest.approx(norm, rel=1e-5)  # Another order of the same sum.
    cut = math.sqrt(sum(float(p.grad.square().sum()) for p in clipped.state.model.parameters()))
    assert cut == pytest.approx(0.01, rel=1e-3)  # clip_grad_norm_ adds 1e-6 to the norm that it divides by.


def poisoned(*bad: int) -> Callable[[], Tensors]:
    """Ten samples, some of which make the loss NaN."""

    def make() -> Tensors:
        x = torch.randn(10, FEATURES, generator=torch.Generator().manual_seed(1))
        x[list(bad)] = math.nan
        return Tensors(x, torch.arange(10) % CLASSES)

    return make


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_loss_that_is_not_finite_stops_before_the_update(train: Train, precision: str) -> None:
    training = train(dataset=poisoned(5), shuffle=False, precision=precision)
    stepping = training.steps()
    next(stepping)
    before = parameters(training)
    with pytest.raises(TrainingError) as caught:
        next(stepping)
    assert str(caught.value) == (
        "step 2 (epoch 0, batch 1): the loss is nan; no checkpoint holds this step. Lower optimizer.lr, set "
        "trainer.clip_norm, or leave such steps out with trainer.nonfinite=skip"
    )
    assert unchanged(training, before)
    assert training.state.progress.step == 1
    assert not training.state.whole


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_skipped_step_is_left_out_with_its_count(train: Train, accumulate: int, precision: str) -> None:
    training = train(
        dataset=poisoned(5), shuffle=False, nonfinite="skip", accumulate=accumulate, ema_decay=0.5, precision=precision
    )
    taken = []
    for before, step in zip(_before_each_step(training), training.steps(), strict=False):
        taken.append(step)
        assert unchanged(training, before) == step.skipped
        if step.progress.batch == 0:
            break
    skipped = [step.skipped for step in taken]
    assert skipped == ([False, True, False] if accumulate == 1 else [True, False])
    assert taken[-1].progress == Progress(step=skipped.count(False), epoch=1, samples=10)
    assert int(training.state.averaged.n_averaged) == skipped.count(False)
    assert all(torch.isfinite(value).all() for value in parameters(training))


def _before_each_step(training: Any) -> Iterator[list[Tensor]]:
    while True:
        yield parameters(training)


class Steep(nn.Module):
    """A finite loss with gradients that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * 0 + (self.layer.bias * 0).sqrt()


def test_a_gradient_norm_that_is_not_finite_stops_too(train: Train) -> None:
    training = train(model=Steep, clip_norm=1.0)
    before = parameters(training)
    with pytest.raises(
        TrainingError, match=r"step 1 \(epoch 0, batch 0\): the gradient norm is (nan|inf); no checkpoint"
    ):
        training.advance(1)
    assert unchanged(training, before)


def test_after_a_hundred_skipped_steps_in_a_row_it_gives_up(train: Train) -> None:
    training = train(dataset=poisoned(*range(10)), nonfinite="skip")
    taken = 0
    with pytest.raises(TrainingError) as caught:
        for step in training.steps():
            assert step.skipped
            taken += 1
    assert taken == 99
    assert str(caught.value) == (
        "step 1: the last 100 windows were all skipped because loss or gradients were not finite; lower optimizer.lr, "
        "or look at the data"
    )
    assert training.state.progress.step == 0


def gated(training: Any) -> _Stepper:
    """Steps as on an accelerator, where a look at the loss waits. The CPU's fused kernels know the gate too."""
    stepper = _Stepper(training.state, training.objective, training.plan, World())
    assert not stepper.gated
    stepper.gated = True
    return stepper


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_gated_step_is_the_same_step(train: Train, kind: Any, clip_norm: float | None) -> None:
    settings = {
        "optimizer": lambda model: kind(model.parameters(), lr=0.1, fused=True),
        "clip_norm": clip_norm,
        "log_every": 2,
    }
    one, other = train(**settings), train(**settings)
    stepper = gated(one)
    taken = [stepper([batch], False) for batch in islice(one.batches.epoch(0), 2)]
    expected = other.advance(2)
    assert unchanged(one, parameters(other))
    assert [step.loss for step in taken] == [None, expected[1].loss]
    assert [step.grad_norm for step in taken] == [None, expected[1].grad_norm]


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_gated_step_that_is_not_finite_is_left_out_and_found_before_a_save(
    train: Train, kind: Any, what: str
) -> None:
    training = train(
        optimizer=lambda model: kind(model.parameters(), lr=0.1, fused=True),
        log_every=3,
        **({"dataset": poisoned(0), "shuffle": False} if what == "loss" else {"model": Steep, "clip_norm": 1.0}),
    )
    stepper, before = gated(training), parameters(training)
    stepping = training.batches.epoch(0)
    assert stepper([next(stepping)], False).loss is None
    assert unchanged(training, before)
    stepper([next(stepping)], False)
    message = "a loss was not finite; its update was left out and no checkpoint holds it"
    with pytest.raises(TrainingError, match=f"up to step 2: {message}"):
        training.state.state_dict()
    with pytest.raises(TrainingError, match=f"up to step 3: {message}"):
        stepper([next(stepping)], True)


def lbfgs(model: nn.Module) -> Optimizer:
    return torch.optim.LBFGS(model.parameters(), max_iter=4)


def test_an_optimizer_that_evaluates_the_model_itself_lowers_the_loss_within_a_step(train: Train) -> None:
    training = train(optimizer=lbfgs, accumulate=3, shuffle=False)
    losses = [step.loss for step in training.advance(3)]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 3


def test_such_an_optimizer_stops_where_a_loss_is_not_finite(train: Train) -> None:
    training = train(optimizer=lbfgs, dataset=poisoned(0), shuffle=False, nonfinite="skip")
    with pytest.raises(TrainingError) as caught:
        training.advance(1)
    assert str(caught.value) == (
        "step 1 (epoch 0, batch 0): the loss is nan; no checkpoint holds this step. Lower optimizer.lr, or set "
        "trainer.clip_norm"
    )
    assert not training.state.whole


class Normed(nn.Module):
    """With a batch norm that someone has frozen: when it was made, or by its own `train`."""

    def __init__(self, *, how: str) -> None:
        super().__init__()
        self.how = how
        self.norm, self.layer = nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, CLASSES)
        if how == "once":
            self.norm.eval()

    def train(self, mode: bool = True) -> "Normed":
        super().train(mode)
        if self.how == "always":
            self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(x))


@pytest.mark.parametrize("how", ["once", "always"])
def test_a_batch_norm_that_is_frozen_stays_frozen(train: Train, how: str) -> None:
    training = train(model=lambda: Normed(how=how))
    for step in training.steps():
        assert training.state.model.training
        assert not training.state.model.norm.training
        if step.progress.step == 4:
            break
        if step.progress.step == 2:
            training.state.model.eval()  # As one may who looks on in between.
    assert torch.equal(training.state.model.norm.running_mean, torch.zeros(FEATURES))


def test_a_model_that_is_born_in_eval_mode_is_trained(train: Train) -> None:
    training = train(model=lambda: Normed(how="no").eval())
    training.advance(1)
    assert training.state.model.norm.training


def test_a_parameter_without_a_gradient_is_left_alone(train: Train) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(FEATURES, CLASSES), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    training = train(
        model=Half, optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    )
    before = training.state.model.unused.weight.detach().clone()
    training.advance(3)
    assert training.state.model.unused.weight.grad is None
    assert torch.equal(training.state.model.unused.weight, before)


class Failing(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 6:
            raise FileNotFoundError("sample 6 is gone")
        return torch.rand(FEATURES) + index, index % CLASSES


class FailingStream(IterableDataset[Any]):
    """Fails once, at the seventh sample: where it is asked for again, it is there."""

    def __init__(self) -> None:
        self.at = 0
        self.fails = True

    def __iter__(self) -> Iterator[Any]:
        while self.at < 10:
            if self.fails and self.at == 6:
                raise FileNotFoundError("sample 6 is gone")
            self.at += 1
            yield torch.full((FEATURES,), float(self.at)), self.at % CLASSES
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def healthy_stream() -> FailingStream:
    stream = FailingStream()
    stream.fails = False
    return stream


class SizedStream(FailingStream):
    def __len__(self) -> int:
        return 10


def healthy_sized_stream() -> SizedStream:
    stream = SizedStream()
    stream.fails = False
    return stream


@pytest.mark.parametrize(("failing", "healthy"), [(FailingStream, healthy_stream), (SizedStream, healthy_sized_stream)])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_state_stays_whole_where_the_data_fail(
    train: Train,
    differences: Callable[..., list[str]],
    accumulate: int,
    failing: Callable[[], Any],
    healthy: Callable[[], Any],
) -> None:
    """And the position in it is that of the last step, not of what was read since."""
    settings = {"shuffle": False, "batch_size": 2, "accumulate": accumulate}
    training = train(dataset=failing, **settings)
    with pytest.raises(FileNotFoundError):
        training.advance(9)
    assert training.state.whole
    again = train(dataset=healthy, **settings)
    assert again.state.load_state_dict(training.saved()).notes == []
    whole = train(dataset=healthy, **settings)
    taken = whole.advance(5)
    again.advance(5 - training.state.progress.step)
    assert again.state.progress == taken[-1].progress
    assert differences(again.saved(), whole.saved()) == []


def test_a_state_is_whole_where_a_sample_is_missing_and_not_within_a_step(train: Train) -> None:
    training = train(dataset=Failing, shuffle=False)
    with pytest.raises(FileNotFoundError):
        training.advance(3)
    assert (training.state.whole, training.state.progress.batch) == (True, 1)

    class Interrupted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    training = train(model=lambda: Interrupted(FEATURES, CLASSES))
    with pytest.raises(KeyboardInterrupt):
        training.advance(1)
    assert not training.state.whole
    with pytest.raises(TrainingError, match="step 1 is half done"):
        training.state.state_dict()


class Given:
    """Batches that stand in a list; `length` is what they say of themselves."""

    def __init__(self, *batches: tuple[Tensor, Tensor], length: int | None) -> None:
        self.batches, self.num_batches = batches, length

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        return islice(iter(self.batches), start, None)

    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("length", [0, None])
def test_data_without_a_batch_are_refused(train: Train, length: int | None) -> None:
    training = train()
    with pytest.raises(TrainingError, match="epoch 0: the training data gave no batch"):
        next(steps(training.state, training.objective, Given(length=length), training.plan))


def test_an_epoch_of_which_nothing_is_left_is_over(train: Train) -> None:
    """Limits or data may have become shorter since the checkpoint."""

    def constant(optimizer: Optimizer) -> CurveScheduler:
        return CurveScheduler(optimizer, Constant(warmup_steps=9))

    training = train(schedule="epoch", scheduler=constant)
    training.advance(2)
    batch = (torch.ones(1, FEATURES), torch.zeros(1, dtype=torch.int64))
    step = next(steps(training.state, training.objective, Given(batch, batch, length=2), training.plan))
    assert (step.progress.epoch, step.progress.batch) == (1, 1)
    assert step.lr == pytest.approx(0.1 * 3 / 10)
    assert training.state.epoch_loss.count == 1


def test_the_scheduler_moves_by_steps_or_by_epochs(train: Train) -> None:
    def rising(optimizer: Optimizer) -> CurveScheduler:
        return CurveScheduler(optimizer, Constant(warmup_steps=9))

    by_steps = [step.lr for step in train(scheduler=rising).advance(5)]
    assert by_steps == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    by_epochs = [step.lr for step in train(scheduler=rising, schedule="epoch").advance(5)]
    assert by_epochs == pytest.approx([0.01, 0.01, 0.01, 0.04, 0.04])
