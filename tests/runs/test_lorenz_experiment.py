"""The experiments with echo state networks: what they reach, what their checkpoints share, how they go on."""

from pathlib import Path

import pytest
import torch

import runner
from runner.checkpoint.handle import Checkpoint
from runner.data.lorenz import lorenz
from runner.rundir import RunDir
from runner.runs.stretches import all_stretches
from runner.runs.verifying import verify

FIGURES = (
    "experiment=lorenz_esn",
    "runtime.device=cpu",
    "observers=none",
    "checkpoint.keep.last=10",
)
SMALL = (*FIGURES, "model.reservoir_size=60", "data.length=100", "data.washout=50", "data.batch_size=1")
STOPPER = (
    "import os, signal\n"
    "from runner.records import Step\n"
    "class Stopper:\n"
    "    def observe(self, record):\n"
    "        if isinstance(record, Step) and record.progress.step == 2:\n"
    "            os.kill(os.getpid(), signal.SIGTERM)\n"
    "    def close(self): pass\n"
)


def inodes(run: runner.Run, name: str) -> list[int]:
    return [path.stat().st_ino for path in sorted(run.directory.glob(f"checkpoints/*/{name}"))]


def test_a_readout_that_is_solved_for_foresees_a_chaotic_sequence(tmp_path: Path) -> None:
    run = runner.run(FIGURES)
    assert run.metrics["val_loss"] < 1e-9 and run.metrics["test_loss"] < 1e-9
    assert run.metrics["val_valid_time"] > 4 and run.metrics["test_valid_time"] > 4
    # The reservoir stands on the disk once, however many checkpoints there are.
    assert len(inodes(run, "frozen.safetensors")) == 3 and len(set(inodes(run, "frozen.safetensors"))) == 1
    assert len(set(inodes(run, "model.safetensors"))) == 3
    model = runner.load(run.directory)
    assert model.fitted
    x, _ = lorenz(seed=0, time_step=0.02, washout=200, length=800, train=6, validation=4, test=4).test[0]
    forecast = model.forecast(x[None, :200], 200)
    # 3.6 Lyapunov times, in which errors grow by a factor of about 37.
    assert (forecast[0] - x[200:400]).abs().max() < 0.05


def test_a_fit_that_is_stopped_between_two_batches_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "fit_stopper.py").write_text(STOPPER)
    whole = runner.run([*SMALL, "hydra.run.dir=whole"])
    stopped = runner.run([*SMALL, "hydra.run.dir=parts", "+observers.stopper._target_=fit_stopper.Stopper"])
    assert (stopped.outcome, stopped.reason, stopped.checkpoint().step) == ("stopped", "SIGTERM", 2)
    resumed = runner.run(["+resume=parts", "~observers.stopper"])
    assert resumed.outcome == "finished"
    for name in ("model.safetensors", "extra.safetensors", "state.json"):
        mine, others = (run.checkpoint().path / name for run in (whole, resumed))
        assert mine.read_bytes() == others.read_bytes()
    # What was gathered is in the checkpoints, not only the readout that came of it.
    transient = resumed.checkpoint(2).state(["transient"])["transient"]
    assert transient["_modules_dict.output.count"] == 2 * 100
    assert transient["_modules_dict.output.gram"].dtype == torch.float64


def test_a_fit_that_is_complete_is_gone_on_with_neither_in_word_nor_in_deed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.run([*SMALL, "hydra.run.dir=here"])
    said = capsys.readouterr().out
    assert "finished (max_epochs)" in said and "resume" not in said
    with pytest.raises(runner.ConfigError, match=r"^trainer.max_epochs is 2, and Ridge takes one pass over the data"):
        runner.run(["+resume=here", "trainer.max_epochs=2"])


def test_a_forecast_from_nothing_is_refused_before_anything_starts(tmp_path: Path) -> None:
    message = (
        r"objective.washout is 0, and valid_time forecasts from what is left out there; wanted 1 or more points, or no "
        r"such metric, as by ~objective.metrics.valid_time"
    )
    with pytest.raises(runner.ConfigError, match=message):
        runner.run([*SMALL, "data.washout=0", "hydra.run.dir=here"])
    assert not (tmp_path / "here").exists()


def test_what_the_model_is_made_of_is_shown_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner.run(["experiment=lorenz_esn", "observers=none", "debug=dry"])
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["_modules_dict.reservoir", "Reservoir", "362,400"] in shown
    assert ["_modules_dict.output", "Readout", "1,812"] in shown


def test_a_part_of_a_fit_is_proved_to_be_exact(tmp_path: Path) -> None:
    run = runner.run(SMALL)
    stretches = all_stretches(RunDir.open(run.directory), None)
    assert len(stretches) == 5
    assert [verify(stretch).deviation for stretch in (stretches[0], stretches[-1])] == [None, None]


def test_the_readout_can_be_trained_by_gradients_and_gathers_nothing(tmp_path: Path) -> None:
    run = runner.run(
        [
            *("experiment=lorenz_esn_gradient", "runtime.device=cpu", "observers=none", "model.reservoir_size=520"),
            *("data.length=100", "data.washout=50", "trainer.max_epochs=4", "trainer.evaluate.every_epochs=2"),
            "checkpoint.save.every_epochs=2",
        ]
    )
    losses = [record["loss"] for record in run.records if record["event"] == "epoch"]
    assert losses[-1] < 0.5 * losses[0]
    assert len(inodes(run, "frozen.safetensors")) == 2 and len(set(inodes(run, "frozen.safetensors"))) == 1
    transient = run.checkpoint().state(["transient"])["transient"]
    assert set(transient.values()) == {None}
    assert not runner.load(run.directory).fitted


def test_a_sweep_over_the_penalty_is_a_sweep_like_any_other(tmp_path: Path) -> None:
    loose, strict = (runner.run([*SMALL, f"optimizer.alpha={alpha}"]) for alpha in (1e-6, 100.0))
    assert strict.metrics["val_loss"] > 10 * loose.metrics["val_loss"]
    assert Checkpoint.open(strict.directory).config["optimizer"]["alpha"] == 100.0


@pytest.mark.parametrize("option", ["scheduler=cosine", "objective=sequence_regression"])
def test_parts_that_do_not_go_with_a_closed_form_are_refused_with_what_does(option: str) -> None:
    with pytest.raises(runner.RunnerError, match=r"use (scheduler=constant|objective=readout_fit)"):
        runner.run([*SMALL, option])
