"""The signals that end a run: the first asks for a good end, the second leaves at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""SIGUSR1 is what a scheduler sends some time before a job's end, as Slurm does with `--signal=USR1@300`."""

SENT_TWICE = 0.5
"""Seconds within which the same signal again is the same wish: `timeout`, launchers and terminals often send it both to
a process and to its group."""


class Signals:
    """What has been asked for. The handler only notes it: nothing is saved inside a handler."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._heard: list[tuple[signal.Signals, float]] = []

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler. A signal that wants to leave at once kills the process, as if nothing had been caught."""
        asked, now = signal.Signals(number), self.clock()
        self._heard.append((asked, now))
        if len(self._heard) == 1:
            # Not by print, which may be in the middle of a line that it was interrupted in.
            with suppress(OSError):
                os.write(2, f"\n{asked.name}: stopping after this step; once more leaves at once\n".encode())
            return
        before, at = self._heard[-2]
        if leaves_at_once(asked, before=before, seconds=now - at):
            signal.signal(asked, signal.SIG_DFL)
            os.kill(os.getpid(), asked)

    def ask(self, number: signal.Signals) -> None:
        """Ask for a good end from within, as this signal would, but without a word."""
        self._heard.append((number, self.clock()))

    @property
    def received(self) -> signal.Signals | None:
        """The first one, if any has come: why the run ends."""
        return self._heard[0][0] if self._heard else None

    @property
    def exit_code(self) -> int:
        """128 + n, as shells report a process that signal n ended; 0 if there was none."""
        return 0 if self.received is None else 128 + self.received.value


def leaves_at_once(asked: signal.Signals, *, before: signal.Signals, seconds: float) -> bool:
    """Whether a signal means that there is no time for a good end, when `before` came so many seconds earlier.

    SIGHUP does not: a terminal that is closed sends it from its kernel and from its shell. SIGUSR1 is only a notice, so
    the SIGTERM that comes when the time is up is the first one to ask; what is being saved may still get finished.
    """
    if asked in (signal.SIGHUP, signal.SIGUSR1) or (asked == before and seconds < SENT_TWICE):
        return False
    return not (asked == signal.SIGTERM and before == signal.SIGUSR1)


@contextmanager
def caught() -> Iterator[Signals]:
    """Catch the signals of CAUGHT inside; afterwards their handlers are what they were before.

    Only the main thread may set handlers: in any other thread nothing is caught. A SIGHUP that is ignored, as `nohup`
    has it, stays ignored, and a SIGUSR1 that somebody handles stays his: submitit requeues its jobs by it.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals.note) for number in CAUGHT if _is_free(number)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python, and cannot be.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _is_free(number: signal.Signals) -> bool:
    if number == signal.SIGUSR1:
        return signal.getsignal(number) == signal.SIG_DFL
    return number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
