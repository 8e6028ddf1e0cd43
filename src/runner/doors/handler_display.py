"""What a handler's training leaves on the terminal: a line an epoch, and one at the end."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from runner.doors.handler_settings import Parts
from runner.quantities import duration, score
from runner.records import Ended, Epoch, Evaluating, Evaluation, Progress, Record, Started
from runner.runs.observers.progress import ProgressDisplay

_COUNTERS = ("epoch", "lr")


class EpochLines:
    """The display of a run's progress, with the rows of the history in place of its lines for evaluations."""

    def __init__(
        self, console: Console, parts: Parts, *, max_epochs: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.parts, self.max_epochs, self.clock = parts, max_epochs, clock
        self.display = ProgressDisplay(console, bar=True, clock=clock)
        self.began, self.begun = clock(), Progress()
        self.waiting = False
        """Whether the line of the last epoch is still to come: its validation, if it is due, comes first."""

    def observe(self, record: Record) -> None:
        """Show what there is to show. The history has been brought up to date with `record`."""
        if isinstance(record, Evaluation) and self.waiting:
            self._tell_epoch(best=record.improved)
            return
        if not isinstance(record, Evaluating):
            self._tell_epoch(best=False)
        self.waiting = isinstance(record, Epoch) or self.waiting
        if isinstance(record, Started):
            self.begun, self.began = record.progress, self.clock()
        self.display.observe(record)
        if isinstance(record, Ended):
            self._say(Text(self._closing(record)))

    def close(self) -> None:
        """Take the bar away."""
        self._tell_epoch(best=False)
        self.display.close()

    def _tell_epoch(self, *, best: bool) -> None:
        if not self.waiting:
            return
        self.waiting = False
        row = self.parts.history[-1]
        of = "" if self.max_epochs is None else f"/{self.max_epochs}"
        line = Text(f"epoch {row['epoch']}{of}")
        for name, value in row.items():
            if name not in _COUNTERS:
                line.append(f"  {name} {score(value)}")
        line.append(f"  lr {row['lr']:.1e}", style="dim")
        if best:
            line.append("  best", style="green")
        self._say(line)

    def _closing(self, record: Ended) -> str:
        at, took = record.progress, duration(self.clock() - self.began)
        steps, epochs = at.step - self.begun.step, at.epoch - self.begun.epoch
        done = f"{epochs} epoch{'' if epochs == 1 else 's'}, {steps} step{'' if steps == 1 else 's'} in {took}"
        state = self.parts.state
        best = "" if state is None or state.best is None else f"; best val_loss {score(state.best.value)}"
        if record.outcome == "stopped":
            return f"stopped by {record.reason} {where(at)}: {done}{best}"
        why = " (early stopping)" if record.reason == "early_stopping" else ""
        return f"trained {done}{why}{best}"

    def _say(self, line: Text) -> None:
        self.display.console.print(line, highlight=False, soft_wrap=True)


def where(at: Progress) -> str:
    """Where a training stands, in words."""
    if at.batch:
        return f"in epoch {at.epoch + 1}, after its batch {at.batch}"
    return f"after epoch {at.epoch}"
