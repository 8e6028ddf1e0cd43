"""The records of a run as lines of `metrics.jsonl`."""

import logging
from dataclasses import asdict
from typing import Any

from runner.errors import SaveError
from runner.metrics_file import MetricsFile
from runner.records import Ended, Epoch, Evaluation, Progress, Record, Saved, SaveFailed, Step
from runner.runs.writing import reported

log = logging.getLogger(__name__)


class RecordsFile:
    """Writes what is worth reading in a week: losses every `log_every` steps, epochs, evaluations, saves, the end.

    Raises SaveError where the disk does not take it; unless `go_on`: then what it does not take is lost, which is said.
    """

    def __init__(self, file: MetricsFile, *, log_every: int, go_on: bool = False) -> None:
        self.file, self.log_every, self.go_on = file, log_every, go_on
        self.lost = 0
        """Records in a row that could not be written."""

    def observe(self, record: Record) -> None:
        if isinstance(record, Step) and record.progress.step % self.log_every and not record.skipped:
            return
        line = line_of(record)
        if line is None:
            return
        try:
            with reported(self.file.path):
                self.file.append(line)
        except SaveError as error:
            if not self.go_on:
                raise
            if not self.lost:
                log.warning("records are lost, and the training goes on: %s", error)
            self.lost += 1
            return
        if self.lost:
            log.warning("%s: records are written again; %d were lost", self.file.path, self.lost)
            self.lost = 0

    def start(self, at: Progress) -> None:
        """Note that the attempt goes on from there."""
        with reported(self.file.path):
            self.file.start(at)

    def sync(self) -> None:
        """Return when every record has reached the disk: before a checkpoint is committed that builds on them."""
        with reported(self.file.path):
            self.file.sync()


def line_of(record: Record) -> dict[str, Any] | None:
    """What of a record is written; None for one of which nothing is."""
    at = {"step": record.progress.step, "epoch": record.progress.epoch}
    if isinstance(record, Step):
        line: dict[str, Any] = {"event": "step", **at, "loss": record.loss, "lr": record.lr}
        if record.grad_norm is not None:
            line["grad_norm"] = record.grad_norm
        if record.skipped:
            # Its position, because the step stays the same.
            line |= {"skipped": True, "batch": record.progress.batch}
        if record.digests is not None:
            line["digests"] = asdict(record.digests)
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
