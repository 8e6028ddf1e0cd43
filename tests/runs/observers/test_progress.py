"""The bar on a terminal, plain lines elsewhere, and what they say."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from runner.records import Ended, Epoch, Evaluating, Evaluation, Progress, Saved, SaveStats, Started, Step
from runner.runs.observers.progress import LINE, REFRESH, ProgressDisplay

# Test modules are imported each by itself, so what they share is put within their reach here.
sys.path.append(str(Path(__file__).parents[2]))

from pseudo_terminal import on_terminal

STATS = SaveStats(size=10, written=10, stall=0.01, seconds=0.1, cost=0.02)


class Display:
    """A display on a screen of this width, and its clock."""

    def __init__(self, *, terminal: bool, width: int = 80, bar: bool = True) -> None:
        self.time = 100.0
        self.text = io.StringIO()
        self.console = Console(
            file=self.text, force_terminal=terminal, width=width, color_system=None, legacy_windows=False
        )
        self.display = ProgressDisplay(self.console, bar=bar, clock=lambda: self.time)

    def start(self, *, step: int = 0, total: int | None = 100) -> None:
        progress = Progress(step=step, samples=step * 32)
        self.display.observe(Started(progress, 1, "name", total, 10, Path("run"), {}))

    def step(self, number: int, *, loss: float | None = 0.5, after: float = LINE) -> str:
        """What is shown anew when this step comes after so many seconds."""
        self.time += after
        at = self.text.tell()
        self.display.observe(Step(Progress(number, number // 10, number % 10, number * 32), 3e-4, loss=loss))
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.text.getvalue()[at:]).strip("\r\n")


def test_plain_lines_come_now_and_then() -> None:
    one = Display(terminal=False)
    one.start()
    assert one.step(1, after=LINE / 2) == ""
    assert one.step(2, after=LINE / 2) == "epoch 1  step 2/100  loss 0.5000  lr 3.0e-04  6 samples/s  8:10 min left"
    assert one.step(3, after=LINE / 2) == ""
    assert one.step(12, loss=None) == "epoch 2  step 12/100  loss 0.5000  lr 3.0e-04  15 samples/s  3:03 min left"


def test_the_time_left_after_a_resume_counts_only_what_is_left() -> None:
    one = Display(terminal=False)
    one.start(step=90)
    # 5 steps in 10 seconds, and 5 are left; what came before took its time in another process.
    assert one.step(95) == "epoch 10  step 95/100  loss 0.5000  lr 3.0e-04  16 samples/s  10 s left"


def test_without_a_known_end_no_time_is_left() -> None:
    one = Display(terminal=False)
    one.start(total=None)
    assert one.step(5) == "epoch 1  step 5  loss 0.5000  lr 3.0e-04  16 samples/s"


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_fits_its_terminal(width: int) -> None:
    one = Display(terminal=True, width=width)
    one.start(total=200_000)
    assert one.step(1, after=REFRESH / 2) == ""
    shown = one.step(123_456).splitlines()[-1]
    for part in ("epoch 12346", "62%", "step 123456", "loss 0.5000", "lr 3.0e-04", "/s", "left"):
        assert part in shown
    assert ("samples/s" in shown) == (width == 120)
    assert len(shown.rstrip()) <= width and "…" not in shown
    one.display.observe(Ended(Progress(2), "finished", "max_steps"))
    assert one.display.progress is None


def test_the_bar_of_a_resumed_run_begins_where_the_run_stands() -> None:
    one = Display(terminal=True)
    one.start(step=90)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", one.text.getvalue()).splitlines()[-1]
    assert "90%" in shown and "step 90" in shown
    # What was before has taken no time of this process: 5 steps in 10 seconds.
    assert "10 s left" in one.step(95)


@pytest.mark.parametrize(("terminal", "every"), [(True, REFRESH), (False, LINE)])
def test_a_long_evaluation_shows_how_far_it_is(terminal: bool, every: float) -> None:
    one = Display(terminal=terminal)
    one.start()
    one.step(10)

    def evaluating(batches: int, num_batches: int | None, after: float) -> str:
        one.time += after
        at = one.text.tell()
        one.display.observe(Evaluating(Progress(10, 1), "validation", batches, num_batches))
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", one.text.getvalue()[at:])

    assert evaluating(0, 200, every / 2) == ""
    assert "validation batch 1/200" in evaluating(1, 200, every / 2)
    assert evaluating(2, 200, every / 2) == ""
    assert "validation batch 3" in (shown := evaluating(3, None, every)) and "/" not in shown
    assert "step 11" in one.step(11)


def test_the_cursor_is_never_left_hidden() -> None:
    one = Display(terminal=True)
    one.start()
    one.step(1)
    text = one.text.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_without_a_bar_a_terminal_gets_plain_lines() -> None:
    one = Display(terminal=True, bar=False)
    one.start()
    assert one.step(1).startswith("epoch 1  step 1/100  ")


def test_evaluations_and_unusual_saves_are_said() -> None:
    one = Display(terminal=False)
    one.start()
    at = Progress(20, 2)
    one.display.observe(Epoch(at, 0.4, 0.1, 1.0))
    one.display.observe(Evaluation(at, "validation", {"val_loss": 0.25, "val_accuracy": 0.5}, "averaged", True, 0.1))
    one.display.observe(Saved(at, Path("step-000000020"), ("every_epochs", "improvement"), {}, STATS))
    one.display.observe(Saved(at, Path("step-000000020"), ("signal",), {}, STATS))
    assert one.text.getvalue().splitlines() == [
        "validation epoch 2  step 20  val_loss 0.2500  val_accuracy 0.5000  averaged weights  best",
        "saved step-000000020 (signal)",
    ]


SCRIPT = """
from pathlib import Path
from rich.console import Console
from runner.records import Progress, Started, Step
from runner.runs.observers.progress import ProgressDisplay
seconds = iter(range(100))
display = ProgressDisplay(Console(), bar=True, clock=lambda: float(next(seconds)))
display.observe(Started(Progress(), 1, "name", 4, 2, Path("run"), {}))
for step in range(1, 5):
    display.observe(Step(Progress(step, 0, step, step), 0.1, loss=0.5))
display.close()
"""


def test_a_real_terminal_gets_a_bar_and_a_pipe_none(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {
        **os.environ,
        "TERM": "xterm",
        "COLUMNS": "80",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "script.py"]
    code, shown = on_terminal(command, tmp_path, env=environment)
    assert code == 0
    assert "━" in shown and "100%" in shown
    piped = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=True)
    assert "━" not in piped.stdout and "\x1b" not in piped.stdout
