"""The terminal that a run writes to. That it goes away is no reason to stop training."""

import os
import sys
from contextlib import suppress
from typing import IO, Any, cast

from rich.console import Console


def terminal() -> Console:
    """A console on standard output. Once nobody reads it any more (`runner | head`, a closed window), it is silent."""
    return Console(file=cast(IO[str], _Output(sys.stdout)))


class _Output:
    """Standard output, until writing to it fails."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            return self._stream.write(text)
        self._silence()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._silence()

    def _silence(self) -> None:
        """Put nothing in the place of what has gone, or Python would fail at its end when it flushes."""
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
