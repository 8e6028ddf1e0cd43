"""SIGINT and SIGTERM while a run goes on: the first asks for a good end, the second leaves at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CAUGHT = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """What has been asked for. The handler only notes it: nothing is saved inside a handler."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler. A second signal of any kind kills the process with it, as if nothing had been caught."""
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """128 + n, as shells report a process that signal n ended; 0 if there was none."""
        return 0 if self.received is None else 128 + self.received.value


@contextmanager
def caught() -> Iterator[Signals]:
    """Catch SIGINT and SIGTERM inside; afterwards their handlers are what they were before.

    Only the main thread may set handlers: in any other thread nothing is caught.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals.note) for number in CAUGHT}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python, and cannot be.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
