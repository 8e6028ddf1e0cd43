"""`runner.log`: what the package says while a run is worked on. Warnings go to the terminal too."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler
from pathlib import Path

_ALL = sys.maxsize


class _ToTerminal(logging.Handler):
    """Warnings, on what is standard error when they come: the progress bar puts something of its own in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        # Errors are raised anyway.
        if logging.WARNING <= record.levelno < logging.ERROR:
            sys.stderr.write(f"{self.format(record)}\n")


class _ToFile(logging.FileHandler):
    """The run's log. That it cannot be written, on a full disk, is said once; nothing else comes of it."""

    said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not self.said:
            self.said = True
            sys.stderr.write(f"WARNING {self.baseFilename}: cannot be written ({sys.exception()})\n")

    def close(self) -> None:
        # What could not be written is tried again here.
        with suppress(OSError):
            super().close()


@contextmanager
def run_log(path: Path) -> Iterator[Callable[[], None]]:
    """Inside, what the package logs is collected for the file at `path`; calling what this gives begins the file.

    Until then nothing is written, for a launch that is refused leaves the run as it was. Beginning raises OSError.
    """
    package = logging.getLogger("runner")
    waiting = MemoryHandler(_ALL, flushLevel=_ALL, flushOnClose=False)
    to_terminal = _ToTerminal()
    to_terminal.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handlers: list[logging.Handler] = [waiting, to_terminal]

    def begin() -> None:
        to_file = _ToFile(path, encoding="utf-8")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        waiting.setTarget(to_file)
        waiting.flush()
        package.removeHandler(waiting)
        package.addHandler(to_file)
        handlers.append(to_file)

    level = package.level
    package.setLevel(logging.INFO)
    for handler in handlers:
        package.addHandler(handler)
    try:
        yield begin
    finally:
        package.setLevel(level)
        for handler in handlers:
            package.removeHandler(handler)
            handler.close()
