"""Files of one JSON object a line, to which a process that may die at any byte appends.

A last line that was torn by a crash is ignored when reading and cut before the next append. Numbers that JSON does not
know are written as the strings `nan`, `inf` and `-inf` and come back as floats.
"""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode(record: Mapping[str, Any]) -> bytes:
    """One line, with its end. A value that JSON cannot hold is a TypeError."""
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    except ValueError:  # Rare, so the common record is not walked twice.
        text = json.dumps(_spelt(record), ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    return text.encode("utf-8", "backslashreplace") + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """The object on a line; None if the line is torn or holds no object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    restored = _restored(value)
    return restored if isinstance(restored, dict) else None


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole record; [] if there is no file. A torn last line is ignored, any other is named in a warning."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(lines, start=1):
        record = decode(line)
        if record is not None:
            records.append(record)
        elif line.strip(b"\0 \r") and number < len(lines):
            log.warning("%s, line %d: damaged, left out", path, number)
    return records


def read_end(path: Path, size: int) -> list[dict[str, Any]]:
    """The whole records in the last `size` bytes; [] if there is no file. What is damaged is left out."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - size)
            file.seek(start)
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    # The first line has probably begun before.
    records = [decode(line) for line in (lines if start == 0 else lines[1:])]
    return [record for record in records if record is not None]


class Appender:
    """Appends whole lines to a file. Opening it cuts a last line that a crash has torn."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._end = _mend(self._file)
        except OSError:
            os.close(self._file)
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line. If it cannot be written whole, nothing of it stays."""
        line = encode(record)
        try:
            self._write(line)
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(line)

    def sync(self) -> None:
        """Return when everything appended has reached the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file. Calling it again does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], self._end + written)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _mend(file: int) -> int:
    """Cut a torn last line, or end a whole one that lacks only its newline. Returns where the next line begins."""
    size = os.fstat(file).st_size
    tail = b""
    while len(tail) < size and b"\n" not in tail:
        start = max(0, size - len(tail) - 65536)
        tail = os.pread(file, size - len(tail) - start, start) + tail
    tail = tail.rpartition(b"\n")[2]
    if not tail:
        return size
    if decode(tail) is not None:  # An object's closing brace is its last byte, so nothing but the newline is missing.
        os.pwrite(file, b"\n", size)
        return size + 1
    os.ftruncate(file, size - len(tail))
    return size - len(tail)


def _spelt(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {key: _spelt(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelt(item) for item in value]
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restored(item) for item in value]
    return value
