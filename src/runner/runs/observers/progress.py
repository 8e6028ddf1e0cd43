"""The progress of a training on the terminal: a bar, or plain lines now and then where the output is no terminal."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from runner.quantities import duration, epoch_number, score
from runner.records import Ended, Epoch, Evaluating, Evaluation, Record, Saved, Started, Step
from runner.records import Progress as Position

REFRESH = 0.25
"""Seconds between two refreshes of the bar: often enough to look alive, too seldom to cost the training anything."""
LINE = 10.0
"""Seconds between two plain lines."""
_WIDE = 110
"""Columns of a terminal in which everything is written out."""


class ProgressDisplay:
    """Epoch, step, loss, learning rate, samples a second and time left.

    The bar is redrawn by the training loop itself, not by a thread of its own: a thread would take the interpreter away
    from the loop in the middle of a step.
    """

    def __init__(self, console: Console, *, bar: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.bar = bar and console.is_terminal
        self.wide = console.width >= _WIDE or not self.bar
        self.started: Started | None = None
        self.progress: Progress | None = None
        self.shown = self.begun = clock()
        self.begun_samples = 0
        self.loss: float | None = None

    def observe(self, record: Record) -> None:
        """Redraw if it is time; say what will be of interest after the bar has gone."""
        if isinstance(record, Step):
            self._step(record)
        elif isinstance(record, Started):
            self._start(record)
        elif isinstance(record, Evaluating):
            self._evaluating(record)
        elif isinstance(record, Evaluation):
            self._say(_evaluation_line(record))
        elif isinstance(record, Saved) and not {"every_epochs", "every_steps", "improvement"} & set(record.reasons):
            self._say(Text(f"saved {record.path.name} ({', '.join(record.reasons)})", style="dim"))
        elif isinstance(record, Ended):
            self.close()
        elif isinstance(record, Epoch):
            self.loss = record.loss

    def close(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def _start(self, record: Started) -> None:
        self.started = record
        self.begun = self.clock()
        self.begun_samples = record.progress.samples
        if self.bar:
            self.progress = Progress(
                TextColumn("{task.fields[epoch]}"),
                BarColumn(bar_width=24 if self.wide else 8),
                TaskProgressColumn(show_speed=False),
                TextColumn("{task.fields[text]}"),
                console=self.console,
                auto_refresh=False,
                transient=True,
            )
            self.progress.start()
            # A process that is killed could not give a hidden cursor back.
            self.console.show_cursor(True)
            self.progress.add_task("", total=record.total_steps, epoch="", text="")
            if record.progress.step:
                self._show(record.progress, f"step {record.progress.step}")

    def _step(self, step: Step) -> None:
        if step.loss is not None:
            self.loss = step.loss
        if not self._due():
            return
        status = self._status(step, self.shown)
        if self.progress is not None:
            self._show(step.progress, status)
        elif not self.bar:
            total = "" if self.started is None or self.started.total_steps is None else f"/{self.started.total_steps}"
            self._say(f"epoch {epoch_of(step.progress)}  step {step.progress.step}{total}  {status}")

    def _evaluating(self, record: Evaluating) -> None:
        if not self._due():
            return
        of = "" if record.num_batches is None else f"/{record.num_batches}"
        status = f"{record.split} batch {record.batches}{of}"
        if self.progress is not None:
            self._show(record.progress, status)
        elif not self.bar:
            self._say(f"epoch {epoch_of(record.progress)}  step {record.progress.step}  {status}")

    def _due(self) -> bool:
        """Whether it is time to show something again; if so, it counts as shown."""
        now = self.clock()
        if now - self.shown < (REFRESH if self.bar else LINE):
            return False
        self.shown = now
        return True

    def _show(self, at: Position, text: str) -> None:
        if self.progress is not None:
            task = self.progress.tasks[0].id
            self.progress.update(task, completed=at.step, epoch=f"epoch {epoch_of(at)}", text=text)
            self.progress.refresh()

    def _status(self, step: Step, now: float) -> str:
        seconds = now - self.begun
        rate = (step.progress.samples - self.begun_samples) / seconds if seconds > 0 else 0.0
        parts = [f"step {step.progress.step}"] if self.bar else []
        if self.loss is not None:
            parts.append(f"loss {score(self.loss)}")
        parts += [f"lr {step.lr:.1e}", f"{rate:,.0f} samples/s" if self.wide else f"{rate:,.0f}/s"]
        left = self._seconds_left(step, seconds)
        if left is not None:
            parts.append(f"{duration(left)} left")
        return ("  " if self.wide else " ").join(parts)

    def _seconds_left(self, step: Step, seconds: float) -> float | None:
        if self.started is None or self.started.total_steps is None:
            return None
        done = step.progress.step - self.started.progress.step
        return (self.started.total_steps - step.progress.step) * seconds / done if done > 0 else None

    def _say(self, line: Text | str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)


def _evaluation_line(record: Evaluation) -> Text:
    at = record.progress
    line = Text(f"{record.split:<10} epoch {epoch_of(at)}  step {at.step}")
    for name, value in record.metrics.items():
        line.append(f"  {name} {score(value)}")
    if record.weights == "averaged":
        line.append("  averaged weights", style="dim")
    if record.improved:
        line.append("  best", style="green")
    return line


def epoch_of(progress: Position) -> int:
    """The epoch of the last step, counted from 1 as people do."""
    return epoch_number(progress.epoch, progress.batch)
