"""Objectives for models that run over sequences, echo state networks above all, and how long they foresee.

Batches are windows (x: (B, T, F), y: (B, T, O)). A model begins each window anew, without memory, so the first
`washout` points only bring it up to date and are not scored.

Legend of shapes: B windows, T points in time, H points forecast, F features, D what the readout sees, O outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from runner.errors import TrainingError
from runner.training.objective import Metric, Sum


@dataclass(frozen=True)
class SequenceOutputs:
    """What metrics get: the outputs after the washout, and the model, which can forecast."""

    model: nn.Module
    outputs: Tensor
    """(B, T - washout, O)."""
    washout: int


class SequenceRegression:
    """The mean squared error over the points after the washout."""

    def __init__(self, *, washout: int, metrics: Mapping[str, Metric]) -> None:
        """Raises ValueError if `washout` is negative, or 0 for a metric that forecasts."""
        if washout < 0:
            raise ValueError(f"objective.washout is {washout}; wanted 0 or more points")
        forecasting = [name for name, metric in metrics.items() if isinstance(metric, ValidTime)]
        if forecasting and not washout:
            raise ValueError(
                f"objective.washout is 0, and {', '.join(forecasting)} forecasts from what is left out there; wanted 1 "
                f"or more points, or no such metric, as by ~objective.metrics.{forecasting[0]}"
            )
        self.washout = washout
        self.metrics = metrics

    def count(self, batch: Sequence[Tensor]) -> int:
        windows, points = batch[1].shape[:2]
        return windows * (points - self.washout)

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, SequenceOutputs]:
        """Raises ValueError if nothing is left after the washout."""
        x, y_BTO = batch
        if y_BTO.shape[1] <= self.washout:
            raise ValueError(
                f"objective.washout is {self.washout}, and a window has {y_BTO.shape[1]} points, so that none is left "
                "to score; lower objective.washout, or give longer windows"
            )
        _forget(model)
        outputs_BTO = self.run(model, in_its_dtype(model, x), y_BTO)[:, self.washout :]
        # Else the model that comes out of a training would go on from the last window.
        _forget(model)
        loss = nn.functional.mse_loss(outputs_BTO, y_BTO[:, self.washout :].to(outputs_BTO.dtype))
        return loss, SequenceOutputs(model, outputs_BTO, self.washout)

    def run(self, model: nn.Module, x: Tensor, y_BTO: Tensor) -> Tensor:
        """The model's outputs (B, T, O) for a batch."""
        outputs_BTO: Tensor = model(x)
        return outputs_BTO


class ReadoutFit(SequenceRegression):
    """The same for a readout that is solved for, with `optimizer=ridge`: it gathers what the readout sees in training.

    The loss of a step is that of the readout as it was before the step, on points that it had not seen yet.
    """

    def run(self, model: Any, x: Tensor, y_BTO: Tensor) -> Tensor:
        if not callable(getattr(getattr(model, "readout", None), "gather", None)):
            raise TrainingError(
                f"{type(model).__name__} has no readout that gathers, for objective=readout_fit; use "
                "objective=sequence_regression, or a model such as runner.models.ott_esn"
            )
        features_BTD: Tensor = model.features(x)
        # What is not finite would spoil the sums for good; the loss shows it, and is dealt with as a config says.
        if model.training and bool(features_BTD.isfinite().all()) and bool(y_BTO.isfinite().all()):
            model.readout.gather(features_BTD[:, self.washout :], y_BTO[:, self.washout :])
        outputs_BTO: Tensor = model.readout(features_BTD)
        return outputs_BTO


class ValidTime:
    """For how long a forecast that feeds on itself stays near the truth, in Lyapunov times; the mean over the windows.

    The model is warmed up on the washout and forecasts the rest of the window, which is the longest time that can come
    of it. The outputs have to be the next point of the inputs, and those standardised.
    """

    def __init__(self, *, threshold: float, time_step: float, lyapunov_exponent: float) -> None:
        """`threshold`: the normalised error that ends it; `time_step` between two points; the exponent per time."""
        self.threshold = threshold
        self.time_step = time_step
        self.lyapunov_exponent = lyapunov_exponent

    def __call__(self, outputs: SequenceOutputs, batch: Sequence[Tensor]) -> Sum:
        model: Any = outputs.model
        if not callable(getattr(model, "forecast", None)):
            raise TrainingError(
                f"{type(model).__name__} has no forecast(warmup, horizon), which the valid time is measured by; leave "
                "that metric out, as by ~objective.metrics.valid_time, or use a model such as runner.models.ott_esn"
            )
        warmup_BTF, truth_BHF = batch[0][:, : outputs.washout], batch[0][:, outputs.washout :]
        warmup_BTF = in_its_dtype(model, warmup_BTF)
        forecast_BHO = model.forecast(warmup_BTF, truth_BHF.shape[1])
        steps_B = valid_steps(forecast_BHO, truth_BHF, threshold=self.threshold)
        return steps_B.sum() * (self.time_step * self.lyapunov_exponent), len(steps_B)


def valid_steps(forecast: Tensor, truth: Tensor, *, threshold: float) -> Tensor:
    """How many points (B,) of each forecast (B, H, O) come before the first whose error is above `threshold`.

    The error is the root mean square over the coordinates. One that is not a number is above.
    """
    errors_BH = (forecast - truth).square().mean(dim=2).sqrt()
    return (errors_BH <= threshold).cumprod(dim=1).sum(dim=1)


def in_its_dtype(model: nn.Module, x: Tensor) -> Tensor:
    """Real numbers `x` as the model's parameters are; other tensors, and those for a model without any, as they are."""
    parameter = next(model.parameters(), None)
    return x if parameter is None or not x.is_floating_point() else x.to(parameter.dtype)


def _forget(model: nn.Module) -> None:
    """Begin anew. A model without a memory of its own between calls has nothing to forget."""
    reset = getattr(model, "reset_reservoirs", None)
    if reset is not None:
        reset()
