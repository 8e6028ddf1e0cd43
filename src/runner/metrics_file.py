"""`metrics.jsonl`: what was measured, one line a record, the number of the attempt on each.

{"event": "attempt", "step": 0, "attempt": 1}
{"event": "step", "step": 50, "loss": 0.71, "lr": 0.001, "attempt": 1}
{"event": "attempt", "step": 40, "attempt": 2}       step 50 was taken back: attempt 2 went on from step 40
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runner import jsonl


class MetricsFile:
    """Appends the records of one attempt. Opening it cuts a last line that a crash has torn."""

    def __init__(self, path: Path, attempt: int) -> None:
        self.path = path
        self.attempt = attempt
        self._lines = jsonl.Appender(path)

    def start(self, step: int) -> None:
        """Record that this attempt goes on from `step`: what earlier attempts recorded after it no longer counts."""
        self.append({"event": "attempt", "step": step})

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

    Where an attempt went on from step s, the earlier attempts' records with a greater step are left out. So are the
    lines that only mark where an attempt began.
    """
    records: list[dict[str, Any]] = []
    for record in jsonl.read(path):
        if record.get("event") != "attempt":
            records.append(record)
            continue
        restored = record.get("step")
        if isinstance(restored, int):
            records = [earlier for earlier in records if not _after(earlier, restored)]
    return records


def _after(record: Mapping[str, Any], step: int) -> bool:
    at = record.get("step")
    return isinstance(at, int | float) and at > step
