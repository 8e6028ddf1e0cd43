"""The records of a run as lines of `metrics.jsonl`."""

from typing import Any

from runner.metrics_file import MetricsFile
from runner.records import Ended, Epoch, Evaluation, Record, Saved, Step


class RecordsFile:
    """Writes what is worth reading in a week: losses every `log_every` steps, epochs, evaluations, saves, the end."""

    def __init__(self, file: MetricsFile, *, log_every: int) -> None:
        self.file, self.log_every = file, log_every

    def observe(self, record: Record) -> None:
        if isinstance(record, Step) and record.progress.step % self.log_every and not record.skipped:
            return
        line = self._line(record)
        if line is not None:
            self.file.append(line)

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
                "bytes": record.size,
                "seconds": round(record.seconds, 3),
            }
        if isinstance(record, Ended):
            return {"event": "end", **at, "outcome": record.outcome, "reason": record.reason}
        return None
