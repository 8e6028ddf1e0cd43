"""The picture of a forecast, and what is said where there is none."""

import sys
from pathlib import Path

import matplotlib.image
import pytest
import torch

import runner
from runner.errors import ConfigError
from runner.runs.observers.forecast import Forecast, picture, write

SMALL = (
    "experiment=lorenz_esn",
    "runtime.device=cpu",
    "model.reservoir_size=100",
    "data.length=100",
    "data.washout=50",
    "hydra.run.dir=here",
)
OPTIONS = {"washout": 1, "threshold": 0.4, "time_step": 0.02, "lyapunov_exponent": 0.9}


def test_a_finished_run_has_a_picture_says_where_and_is_the_same_as_without(capsys: pytest.CaptureFixture[str]) -> None:
    run = runner.run([*SMALL])
    assert "made         here/forecast.png" in capsys.readouterr().out.splitlines()
    pixels = matplotlib.image.imread(run.directory / "forecast.png")
    assert pixels.shape[0] > 500 and pixels.shape[1] > 1000
    other = runner.run([*SMALL[:-1], "observers=none", "hydra.run.dir=there"])
    assert not (other.directory / "forecast.png").exists()
    assert "forecast.png" not in capsys.readouterr().out
    mine, others = (one.checkpoint().path for one in (run, other))
    for name in ("model.safetensors", "extra.safetensors", "state.json"):
        assert (mine / name).read_bytes() == (others / name).read_bytes()


def test_without_matplotlib_a_warning_says_how_to_install_it_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = runner.run([*SMALL])
    assert run.outcome == "finished" and not (run.directory / "forecast.png").exists()
    printed = capsys.readouterr()
    assert "forecast.png" not in printed.out
    assert printed.err.splitlines() == [
        "WARNING there will be no forecast.png, for matplotlib is not installed: pip install 'runner[plot]'"
    ]


def test_a_window_that_is_not_there_is_named_and_the_run_ends_well(messages) -> None:
    run = runner.run([*SMALL, "observers.forecast.window=9"])
    assert run.outcome == "finished"
    assert (
        "observer forecast failed and is left out from now on: ConfigError: observers.forecast: there is no window 9 "
        "of split test, for the data have 4 windows in it; set observers.forecast.split and observers.forecast.window "
        "to one that there is"
    ) in messages()
    runner.run([*SMALL[:-1], "data.test=0", "hydra.run.dir=there"])
    assert any("window 0 of split test, for the data have no such split" in line for line in messages())


def test_what_cannot_be_a_split_or_window_is_refused_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Forecast(split="tests", window=-1, **OPTIONS)
    assert caught.value.problems == (
        "observers.forecast.split is 'tests'; wanted train, validation or test",
        "observers.forecast.window is -1; wanted 0 or more",
    )


def test_the_picture_shows_truth_and_forecast_in_lyapunov_times_and_marks_the_valid_time(tmp_path: Path) -> None:
    truth = torch.randn(100, 3)
    forecast = truth.clone()
    forecast[40:] += 1.0
    figure = picture(
        torch.randn(30, 3), truth, forecast, threshold=0.4, lyapunov_times_a_step=0.05, title="one, step 3"
    )
    assert [axes.get_ylabel() for axes in figure.axes] == ["x", "y", "z"]
    assert figure.axes[-1].get_xlabel() == "Lyapunov times"
    assert figure.get_suptitle() == "one, step 3"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["warm-up", "truth", "forecast", "valid time 2.00"]
    for i, axes in enumerate(figure.axes):
        known, guessed, valid = axes.get_lines()
        # One Lyapunov time of the warm-up is shown before the forecast begins.
        assert known.get_xdata()[0] == -1.0 and len(known.get_xdata()) == 120
        assert guessed.get_xdata()[0] == 0.0 and guessed.get_ydata().tolist() == forecast[:, i].tolist()
        assert list(valid.get_xdata()) == [2.0, 2.0]
    write(figure, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_forecast_that_runs_away_leaves_the_truth_legible() -> None:
    truth = torch.linspace(-1, 1, 50)[:, None].repeat(1, 2)
    figure = picture(truth[:5], truth, truth * 1e30, threshold=0.4, lyapunov_times_a_step=0.1, title="")
    assert [axes.get_ylabel() for axes in figure.axes] == ["coordinate 0", "coordinate 1"]
    for axes in figure.axes:
        assert axes.get_ylim() == pytest.approx((-1.3, 1.3))
