"""SIGINT, SIGTERM and SIGHUP while a run goes on: the first asks for a good end, the second leaves at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """What has been asked for. The handler only notes it: nothing is saved inside a handler."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler. A second SIGINT or SIGTERM kills the process with it, as if nothing had been caught.

        A second SIGHUP does not: a terminal that is closed sends it from its kernel and from its shell.
        """
        if self.received is None:
            self.received = signal.Signals(number)
            # Not by print, which may be in the middle of a line that it was interrupted in.
            with suppress(OSError):
                os.write(2, f"\n{self.received.name}: stopping after this step; once more leaves at once\n".encode())
        elif number != signal.SIGHUP:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @property
    def exit_code(self) -> int:
        """128 + n, as shells report a process that signal n ended; 0 if there was none."""
        return 0 if self.received is None else 128 + self.received.value


@contextmanager
def caught() -> Iterator[Signals]:
    """Catch the signals of CAUGHT inside; afterwards their handlers are what they were before.

    Only the main thread may set handlers: in any other thread nothing is caught. A SIGHUP that is ignored, as `nohup`
    has it, stays ignored.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    wanted = [n for n in CAUGHT if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, signals.note) for number in wanted}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python, and cannot be.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
