"""Event files, read back with TensorBoard's own reader."""

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import runner
from runner.records import Evaluation, Progress, Started, Step
from runner.runs.observers.tensorboard import TensorBoard


def scalars(directory: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]


def test_a_resumed_run_goes_on_in_the_same_curves(short) -> None:
    options = [
        "observers=tensorboard",
        "trainer.max_epochs=2",
        "checkpoint.keep.last=null",
        "checkpoint.keep.best=null",
    ]
    run = short(*options, "hydra.run.dir=here")
    again = runner.run(["+resume=here@step=5", "optimizer.weight_decay=0.5"])
    assert again.directory == run.directory
    steps = [(record["step"], record["loss"]) for record in again.records if record["event"] == "step"]
    assert scalars(run.directory, "loss") == steps and len(steps) == 10
    evaluations = [record for record in again.records if record.get("split") == "validation"]
    assert scalars(run.directory, "val_loss") == [(record["step"], record["val_loss"]) for record in evaluations]
    epochs = [record for record in again.records if record["event"] == "epoch"]
    assert scalars(run.directory, "epoch/loss") == [(record["step"], record["loss"]) for record in epochs]


def started(directory: Path, *, step: int, attempt: int) -> Started:
    return Started(Progress(step), attempt, "name", 10, 5, directory, {})


@pytest.mark.parametrize("resumed_at", [0, 2])
def test_what_a_killed_attempt_wrote_after_the_resumed_step_is_hidden(tmp_path: Path, resumed_at: int) -> None:
    killed = TensorBoard()
    killed.observe(started(tmp_path, step=0, attempt=1))
    for step in range(1, 6):
        killed.observe(Step(Progress(step), 0.1, loss=float(step)))
    killed.observe(Evaluation(Progress(5), "validation", {"val_loss": 9.0}, "raw", False, 0.0))
    killed.close()
    again = TensorBoard()
    again.observe(started(tmp_path, step=resumed_at, attempt=2))
    again.observe(Step(Progress(resumed_at + 1), 0.1, loss=50.0))
    again.observe(Step(Progress(resumed_at + 2), 0.1))  # Not gathered.
    again.close()
    again.close()
    expected = [(step, float(step)) for step in range(1, resumed_at + 1)]
    assert scalars(tmp_path, "loss") == [*expected, (resumed_at + 1, 50.0)]


def test_its_absence_is_said_with_what_to_type(short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(runner.ConfigError, match=r"pip install 'runner\[tensorboard\]', or use observers=none"):
        short("observers=tensorboard")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
