"""Objectives over sequences: what is scored, what is gathered, and for how long a forecast holds."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runner.data.batches import make_batches
from runner.data.tensors import Tensors
from runner.errors import TrainingError
from runner.models.esn import ESNModel
from runner.training.evaluate import measure
from runner.training.sequences import ReadoutFit, SequenceOutputs, SequenceRegression, ValidTime, valid_steps

WASHOUT = 5


def network(**options: Any) -> ESNModel:
    return ESNModel(20, 3, 3, seed=0, **options)


def windows(number: int = 4, points: int = 30) -> tuple[Tensor, Tensor]:
    series = torch.randn(number, points + 1, 3, generator=torch.Generator().manual_seed(1)).cumsum(1) * 0.1
    return series[:, :-1], series[:, 1:]


@pytest.mark.parametrize("objective", [SequenceRegression, ReadoutFit])
def test_what_is_scored_is_the_mean_over_the_points_after_the_washout(objective) -> None:
    model, (x, y) = network(), windows()
    loss, outputs = objective(washout=WASHOUT, metrics={}).loss(model, (x, y))
    model.reset_reservoirs()
    expected = model(x)[:, WASHOUT:]
    assert torch.equal(outputs.outputs, expected)
    assert torch.equal(loss, nn.functional.mse_loss(expected, y[:, WASHOUT:]))
    assert loss.requires_grad
    assert objective(washout=WASHOUT, metrics={}).count((x, y)) == 4 * 25


def test_every_batch_begins_without_memory_and_leaves_none() -> None:
    model, batch = network(), windows()
    objective = SequenceRegression(washout=WASHOUT, metrics={})
    first, _ = objective.loss(model, batch)
    model(torch.ones(4, 3, 3))
    again, _ = objective.loss(model, batch)
    assert torch.equal(first, again)
    assert model.reservoir.state is None


def test_real_numbers_are_brought_to_the_precision_of_the_model() -> None:
    objective = SequenceRegression(washout=WASHOUT, metrics={})
    x, y = windows()
    loss, outputs = objective.loss(network(dtype="float64"), (x, y))
    assert loss.dtype == outputs.outputs.dtype == torch.float64
    total, _ = ValidTime(threshold=0.4, time_step=0.02, lyapunov_exponent=0.9)(outputs, (x, y))
    assert total.isfinite()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]


def test_a_model_without_a_memory_between_calls_is_as_good() -> None:
    loss, _ = SequenceRegression(washout=WASHOUT, metrics={}).loss(Recurrent(), windows())
    assert loss.isfinite()


def test_a_model_that_cannot_be_forecast_or_solved_for_is_named_with_what_can() -> None:
    batch = windows()
    _, outputs = SequenceRegression(washout=WASHOUT, metrics={}).loss(Recurrent(), batch)
    with pytest.raises(
        TrainingError, match=r"^Recurrent has no forecast\(warmup, horizon\), .*; leave that metric out, a"
    ):
        ValidTime(threshold=0.4, time_step=0.02, lyapunov_exponent=0.9)(outputs, batch)
    with pytest.raises(
        TrainingError, match=r"^Recurrent has no readout that gathers, .*; use objective=sequence_regress"
    ):
        ReadoutFit(washout=WASHOUT, metrics={}).loss(Recurrent(), batch)


def test_what_the_readout_sees_is_gathered_in_training_only() -> None:
    model, batch = network(), windows()
    objective = ReadoutFit(washout=WASHOUT, metrics={})
    model.eval()
    objective.loss(model, batch)
    assert model.readout.gram is None
    model.train()
    objective.loss(model, batch)
    objective.loss(model, batch)
    assert model.readout.count == 2 * 4 * 25
    sums = model.readout.gram.clone()
    measure(
        model,
        objective,
        make_batches(Tensors(*batch), batch_size=2, shuffle=False, drop_last=False, seed=0),
        split="validation",
        device=torch.device("cpu"),
        precision="fp32",
        interrupted=lambda: False,
    )
    assert torch.equal(model.readout.gram, sums) and model.training


@pytest.mark.parametrize("place", [0, 1])
def test_a_batch_that_is_not_finite_does_not_spoil_what_was_gathered(place: int) -> None:
    model, batch = network(), windows()
    objective = ReadoutFit(washout=WASHOUT, metrics={})
    objective.loss(model, batch)
    sums = model.readout.gram.clone()
    batch[place][1, 20, 0] = math.inf
    loss, _ = objective.loss(model, batch)
    # The loss tells, and trainer.nonfinite says what comes of it.
    assert not loss.isfinite()
    assert torch.equal(model.readout.gram, sums)


def test_a_washout_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^objective.washout is -1; wanted 0 or more points$"):
        SequenceRegression(washout=-1, metrics={})
    message = (
        r"^objective.washout is 30, and a window has 30 points, so that none is left to score; lower "
        r"objective.washout, or give longer windows$"
    )
    with pytest.raises(ValueError, match=message):
        SequenceRegression(washout=30, metrics={}).loss(network(), windows())


@pytest.mark.parametrize(
    ("errors", "steps"),
    [
        ([0.0, 0.25, 0.5, 0.75, 0.25], 3),  # What comes back near the truth later is chance.
        ([0.75, 0.0, 0.0, 0.0, 0.0], 0),
        ([0.0, 0.0, 0.0, 0.0, 0.0], 5),
        ([0.0, math.nan, 0.0, 0.0, 0.0], 1),
        ([0.0, 0.0, math.inf, 0.0, 0.0], 2),
    ],
)
def test_a_forecast_is_valid_until_its_error_first_exceeds_the_threshold(errors: list[float], steps: int) -> None:
    truth = torch.ones(1, 5, 4)
    # As much in each coordinate, so that the root mean square over them is that too.
    assert valid_steps(truth + torch.tensor(errors)[None, :, None], truth, threshold=0.5).tolist() == [steps]


def test_what_forecasts_wants_a_washout_and_what_does_not_wants_none() -> None:
    metrics = {"valid": ValidTime(threshold=0.4, time_step=0.02, lyapunov_exponent=0.9)}
    with pytest.raises(
        ValueError, match=r"^objective.washout is 0, and valid forecasts from what is left out there; w"
    ):
        SequenceRegression(washout=0, metrics=metrics)
    loss, _ = SequenceRegression(washout=0, metrics={}).loss(network(), windows())
    assert loss.isfinite()


def test_the_error_is_the_root_mean_square_over_the_coordinates() -> None:
    truth, forecast = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
    forecast[0, 1, 0] = 0.9
    assert valid_steps(forecast, truth, threshold=0.44).tolist() == [1]
    assert valid_steps(forecast, truth, threshold=0.46).tolist() == [2]


class Prophet(nn.Module):
    """Knows what follows, and errs from its `errs_from`th output on."""

    def __init__(self, series: Tensor, errs_from: list[int]) -> None:
        super().__init__()
        self.series, self.errs_from = series, errs_from

    def forecast(self, warmup: Tensor, horizon: int) -> Tensor:
        begin = warmup.shape[1]
        assert torch.equal(warmup, self.series[:, :begin])
        forecast = self.series[:, begin : begin + horizon].clone()
        for row, step in enumerate(self.errs_from):
            forecast[row, step:] += 1.0
        return forecast


def test_the_valid_time_adds_up_over_windows_in_lyapunov_times() -> None:
    x, y = windows(3)
    metric = ValidTime(threshold=0.4, time_step=0.02, lyapunov_exponent=0.9)
    outputs = SequenceOutputs(Prophet(x, [0, 10, 99]), y[:, WASHOUT:], WASHOUT)
    total, count = metric(outputs, (x, y))
    assert count == 3
    assert float(total) == pytest.approx((0 + 10 + 25) * 0.02 * 0.9)
