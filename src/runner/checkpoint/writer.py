"""One background thread that does one thing after the other: what is written while the training goes on."""

import atexit
import logging
import os
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import SimpleQueue
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

SLOWEST_BYTES_PER_SECOND = 10_000_000
"""A disk that is slower than this is taken for one that does not answer."""


def patience(size: int) -> float:
    """For how many seconds to wait at most until `size` bytes are written."""
    return 60.0 + size / SLOWEST_BYTES_PER_SECOND


class Writer:
    """A thread that is started when there is something to do. The process waits at its exit, but not for ever."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: Future[Any] | None = None
        self._asked: Callable[[], bool] = _nobody
        self._size = 0

    @property
    def busy(self) -> bool:
        """Whether something is being done."""
        return self._last is not None and not self._last.done()

    def begin(self, task: Callable[[], T], *, size: int, asked: Callable[[], bool] | None = None) -> "Future[T]":
        """Do `task` when what was begun before is done. It writes about `size` bytes.

        `asked` tells at the exit whether somebody has learnt what became of it. If not, a failure is logged then.
        """
        future: Future[T] = Future()
        if self._thread is None:
            # A daemon, because the interpreter would wait for any other without an end.
            thread = threading.Thread(target=self._work, name="checkpoint writer", daemon=True)
            thread.start()
            self._thread = thread
            atexit.register(self._leave, os.getpid())
        self._tasks.put((future, task))
        self._last, self._asked, self._size = future, asked or _nobody, size
        return future

    def idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is being done; False if that took longer than `timeout` seconds."""
        if self._last is not None:
            try:
                self._last.exception(timeout)
            except FutureTimeoutError:
                return False
        return True

    def close(self) -> None:
        """Let the thread end when it has done what was begun. Another `begin` starts another."""
        if self._thread is not None:
            self._tasks.put((Future(), _stop))
            self._thread = None
            if self._settled():
                atexit.unregister(self._leave)

    def _settled(self) -> bool:
        """Whether nothing is being done, and nothing has failed of which nobody has learnt."""
        return self._last is None or (self._last.done() and (self._last.exception() is None or self._asked()))

    def _work(self) -> None:
        while True:
            future, task = self._tasks.get()
            if task is _stop:
                return
            try:
                result = task()
            except BaseException as error:
                # Whoever asks gets it. This thread has nobody to raise it to. What it was working on is let go.
                traceback.clear_frames(error.__traceback__)
                future.set_exception(error)
            else:
                future.set_result(result)
            # Nothing of a task is held while the next is waited for.
            del future, task

    def _leave(self, process: int) -> None:
        if os.getpid() != process or self._last is None:
            return
        if not self.idle(patience(self._size)):
            log.error(
                "the last checkpoint is still not written after %.0f s and is given up; those before are whole",
                patience(self._size),
            )
        elif (error := self._last.exception()) and not self._asked():
            log.error("the last save has failed: %s", error)


def _nobody() -> bool:
    return False


def _stop() -> None:
    """What ends the thread."""
