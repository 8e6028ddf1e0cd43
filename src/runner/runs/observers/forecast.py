"""A picture of what a model of sequences forecasts, against the truth: `forecast.png` in the run directory."""

import io
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from runner.checkpoint.handle import Checkpoint
from runner.config.nodes import build_data, build_model
from runner.errors import ConfigError
from runner.records import Ended, Record, Started
from runner.training.generators import untouched
from runner.training.loading import load_weights
from runner.training.sequences import in_its_dtype, valid_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

FILE = "forecast.png"
INSTALL = "pip install 'runner[plot]'"
_SHOWN_BEFORE = 1.0
"""Lyapunov times of the truth that are drawn before the forecast begins."""


class Forecast:
    """Draws, when a run has finished, one window of a split and what the newest checkpoint's model forecasts for it.

    The model is warmed up on the first `washout` points and from there on lives on its own outputs. It is built anew
    from the checkpoint, on the CPU, so that the training's own model is left alone. Without matplotlib there is a
    warning at the start, and no picture.
    """

    def __init__(
        self,
        *,
        split: str,
        window: int,
        washout: int,
        threshold: float,
        time_step: float,
        lyapunov_exponent: float,
    ) -> None:
        """`threshold`: the error that ends the valid time; `time_step` between two points; the exponent per time.

        Raises ConfigError if the split or the window is none.
        """
        problems = []
        if split not in ("train", "validation", "test"):
            problems.append(f"observers.forecast.split is {split!r}; wanted train, validation or test")
        if window < 0:
            problems.append(f"observers.forecast.window is {window}; wanted 0 or more")
        if problems:
            raise ConfigError(problems)
        self.split, self.window, self.washout = split, window, washout
        self.threshold, self.lyapunov_times_a_step = threshold, time_step * lyapunov_exponent
        self.started: Started | None = None
        self.made: list[Path] = []

    def observe(self, record: Record) -> None:
        if isinstance(record, Started):
            if find_spec("matplotlib") is None:
                log.warning("there will be no %s, for matplotlib is not installed: %s", FILE, INSTALL)
            else:
                self.started = record
        elif isinstance(record, Ended) and record.outcome == "finished" and self.started is not None:
            self._draw(self.started)

    def _draw(self, run: Started) -> None:
        with untouched(), torch.no_grad():
            model: Any = build_model(run.config)
            checkpoint = Checkpoint.open(run.directory)
            load_weights(model, checkpoint.tensors())
            samples = getattr(build_data(run.config), self.split)
            if samples is None or self.window >= len(samples):
                there = "no such split" if samples is None else f"{len(samples)} windows in it"
                raise ConfigError(
                    f"observers.forecast: there is no window {self.window} of split {self.split}, for the data have "
                    f"{there}; set observers.forecast.split and observers.forecast.window to one that there is"
                )
            points = samples[self.window][0]
            warmup, truth = points[: self.washout], points[self.washout :]
            forecast = model.eval().forecast(in_its_dtype(model, warmup[None]), len(truth))[0]
        figure = picture(
            warmup,
            truth,
            forecast,
            threshold=self.threshold,
            lyapunov_times_a_step=self.lyapunov_times_a_step,
            title=f"{run.name}, step {checkpoint.step}: {self.split} window {self.window}",
        )
        write(figure, run.directory / FILE)
        self.made.append(run.directory / FILE)

    def close(self) -> None:
        self.started = None


def picture(
    warmup: Tensor, truth: Tensor, forecast: Tensor, *, threshold: float, lyapunov_times_a_step: float, title: str
) -> "Figure":
    """Each coordinate of `forecast` (H, O) over `truth` (H, O), the end of `warmup` (W, O) before them.

    The valid time, until the error is above `threshold`, is marked. Wants matplotlib.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    horizon, coordinates = truth.shape
    shown = min(len(warmup), round(_SHOWN_BEFORE / lyapunov_times_a_step))
    times = [step * lyapunov_times_a_step for step in range(-shown, horizon)]
    known = torch.cat([warmup[len(warmup) - shown :], truth])
    valid = int(valid_steps(forecast[None], truth[None], threshold=threshold)) * lyapunov_times_a_step
    figure = Figure(figsize=(11.0, 1.4 + 1.9 * coordinates), layout="constrained")
    names = ["x", "y", "z"] if coordinates == 3 else [f"coordinate {i}" for i in range(coordinates)]
    panels = figure.subplots(coordinates, sharex=True, squeeze=False)[:, 0]
    for i, (name, axes) in enumerate(zip(names, panels, strict=True)):
        axes.axvspan(times[0], 0.0, color="0.93", label="warm-up")
        axes.plot(times, known[:, i], color="0.65", linewidth=3.2, label="truth")
        axes.plot(times[shown:], forecast[:, i], color="tab:red", linewidth=1.2, label="forecast")
        axes.axvline(valid, color="tab:blue", linestyle="--", linewidth=1.2, label=f"valid time {valid:.2f}")
        # A forecast that has left the attractor must not make the truth a flat line.
        low, high = float(known[:, i].min()), float(known[:, i].max())
        axes.set_ylim(low - 0.15 * (high - low), high + 0.15 * (high - low))
        axes.set_ylabel(name)
        axes.margins(x=0.0)
    panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    panels[-1].set_xlabel("Lyapunov times")
    figure.suptitle(title)
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def write(figure: "Figure", file: Path) -> None:
    """Write `figure` as a PNG, whole or not at all."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_bytes(image.getvalue())
    unfinished.replace(file)
