"""`metrics.jsonl`: what was measured, one line a record, the number of the attempt on each.

{"event": "attempt", "step": 0, "epoch": 0, "batch": 0, "attempt": 1}
{"event": "step", "step": 50, "epoch": 0, "loss": 0.71, "lr": 0.001, "attempt": 1}
{"event": "attempt", "step": 40, "epoch": 0, "batch": 40, "attempt": 2}       attempt 2 went on from step 40: 50 is void
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runner import jsonl
from runner.records import Progress

_END = 1 << 18
"""Bytes at the end of the file that `latest` looks at: some thousand records."""


class MetricsFile:
    """Appends the records of one attempt. Opening it cuts a last line that a crash has torn."""

    def __init__(self, path: Path, attempt: int) -> None:
        self.path = path
        self.attempt = attempt
        self._lines = jsonl.Appender(path)

    def start(self, at: Progress) -> None:
        """Record that this attempt goes on from there: what earlier attempts recorded after it no longer counts."""
        self.append({"event": "attempt", "step": at.step, "epoch": at.epoch, "batch": at.batch})

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, with this attempt's number, so that it survives the end of this process."""
        self._lines.append({**record, "attempt": self.attempt})

    def sync(self) -> None:
        """Return when every record has reached the disk: before a checkpoint is committed that builds on them."""
        self._lines.sync()

    def close(self) -> None:
        """Let go of the file. Calling it again does nothing."""
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records in order, as one uninterrupted run would have left them; [] if there is no file.

    Where an attempt went on, the earlier attempts' records of what came after are left out: of greater steps, and of
    windows of the same step that were skipped. Of an evaluation that was done again, because it had not been saved, the
    later record counts. The lines that only mark where an attempt began are left out, too.
    """
    records: list[dict[str, Any]] = []
    for record in jsonl.read(path):
        if record.get("event") != "attempt":
            if record.get("event") == "evaluation":
                _forget_evaluation(records, record)
            records.append(record)
        elif isinstance(record.get("step"), int):
            records = [earlier for earlier in records if not _after(earlier, record)]
    return records


def latest(path: Path, event: str) -> list[dict[str, Any]]:
    """The records of one kind near the end of the file, whichever attempt's; not all of a long file is read."""
    return [record for record in jsonl.read_end(path, _END) if record.get("event") == event]


def _forget_evaluation(records: list[dict[str, Any]], again: Mapping[str, Any]) -> None:
    """Take an earlier evaluation of the same split at the same step out of `records`."""
    for number in range(len(records) - 1, -1, -1):
        earlier = records[number]
        if earlier.get("step") != again.get("step"):
            return
        if earlier.get("event") == "evaluation" and earlier.get("split") == again.get("split"):
            del records[number]
            return


def _after(record: Mapping[str, Any], start: Mapping[str, Any]) -> bool:
    """Whether `record` is of a later position. Steps that were skipped do not count: epoch and batch go on alone."""
    for counter in ("step", "epoch", "batch"):
        at, restored = record.get(counter), start.get(counter)
        if not isinstance(at, int | float) or not isinstance(restored, int | float):
            return False
        if at != restored:
            return at > restored
    return False
