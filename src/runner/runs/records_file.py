"""The records of a run as lines of `metrics.jsonl`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runner.errors import SaveError
from runner.metrics_file import MetricsFile
from runner.records import Ended, Epoch, Evaluation, Record, Saved, SaveFailed, Step


class RecordsFile:
    """Writes what is worth reading in a week: losses every `log_every` steps, epochs, evaluations, saves, the end.

    Raises SaveError where the disk does not take it.
    """

    def __init__(self, file: MetricsFile, *, log_every: int) -> None:
        self.file, self.log_every = file, log_every

    def observe(self, record: Record) -> None:
        if isinstance(record, Step) and record.progress.step % self.log_every and not record.skipped:
            return
        line = self._line(record)
        if line is not None:
            with self._reported():
                self.file.append(line)

    def start(self, step: int) -> None:
        """Note that the attempt goes on from `step`."""
        with self._reported():
            self.file.start(step)

    def sync(self) -> None:
        """Return when every record has reached the disk: before a checkpoint is committed that builds on them."""
        with self._reported():
            self.file.sync()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SaveError(
                f"{self.file.path}: cannot be written ({error.strerror}); free some space or make it writable, "
                "then resume the run"
            ) from error

    def _line(self, record: Record) -> dict[str, Any] | None:
        at = {"step": record.progress.step, "epoch": record.progress.epoch}
        if isinstance(record, Step):
            line = {"event": "step", **at, "loss": record.loss, "lr": record.lr}
            if record.grad_norm is not None:
                line["grad_norm"] = record.grad_norm
            if record.skipped:
                line["skipped"] = True
            return line
        if isinstance(record, Epoch):
            return {"event": "epoch", **at, "loss": record.loss, "lr": record.lr, "seconds": round(record.seconds, 3)}
        if isinstance(record, Evaluation):
            return {
                "event": "evaluation",
                **at,
                "split": record.split,
                **record.metrics,
                "weights": record.weights,
                "improved": record.improved,
                "seconds": round(record.seconds, 3),
            }
        if isinstance(record, Saved):
            return {
                "event": "saved",
                **at,
                "path": record.path.name,
                "reasons": list(record.reasons),
                "bytes": record.stats.size,
                "written": record.stats.written,
                "stall": round(record.stats.stall, 6),
                "seconds": round(record.stats.seconds, 4),
                "share": round(record.stats.share, 6),
            }
        if isinstance(record, SaveFailed):
            return {"event": "save_failed", **at, "message": record.message}
        if isinstance(record, Ended):
            return {"event": "end", **at, "outcome": record.outcome, "reason": record.reason}
        return None
