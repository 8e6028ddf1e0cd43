"""A save under way: what `CheckpointStore.save` returns."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import SaveError
from runner.records import Progress, Saved, SaveStats

if TYPE_CHECKING:
    from runner.checkpoint.staging import Staged
    from runner.checkpoint.writer import Writer


class Saving:
    """A state that is copied and being written. `asked` tells whether somebody has learnt what became of it."""

    def __init__(self, progress: Progress, staged: "Staged", began: float) -> None:
        self.progress = progress
        self.path: Path | None = None
        """Where the checkpoint is, once it is durable."""
        self.stall = time.perf_counter() - began
        """Seconds for which the caller had to wait."""
        self.asked = False
        # Not the staged bytes: who keeps this account must not keep the memory for a copy.
        self._copying = staged.copying
        self._began = began
        self._durable_after = 0.0
        self._future: Future[Saved] | None = None

    @property
    def staged(self) -> bool:
        """Whether the copy is complete: at once on the CPU, where `save` returns no earlier."""
        return self._copying is None or self._copying.finished

    @property
    def durable(self) -> bool:
        """Whether the checkpoint is on the disk, whole, under its name."""
        return self.path is not None

    @property
    def done(self) -> bool:
        """Whether nothing is under way any more: it is durable and the policy has been carried out, or it failed."""
        return self._future is not None and self._future.done()

    @property
    def stats(self) -> SaveStats | None:
        """What it has cost, once it is done and did not fail."""
        future = self._future
        if future is None or not future.done() or future.exception() is not None:
            return None
        return future.result().stats

    def wait(self, timeout: float | None = None) -> Saved:
        """What was saved, once it is durable. Raises what the save failed with.

        Raises SaveError when it takes longer than `timeout` seconds; it is still being written then.
        """
        if not self.join(timeout):
            raise SaveError(
                f"the checkpoint of step {self.progress.step} is still not written after {timeout:.0f} s; "
                "those before it are whole; look after the disk"
            )
        self.asked = True
        assert self._future is not None
        return self._future.result()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it is done, whatever came of it; False if that takes longer than `timeout` seconds."""
        assert self._future is not None
        try:
            self._future.exception(timeout)
        except FutureTimeoutError:
            return False
        return True

    def hold_updates(self) -> None:
        """On CUDA: let the optimizer's step that comes wait for the copy of the parameters. Elsewhere nothing."""
        if self._copying is not None:
            self._copying.hold_updates()

    def begin(self, writer: "Writer", write: Callable[["Saving"], Saved], *, size: int) -> None:
        """Let `writer` write it."""
        self._future = writer.begin(lambda: write(self), size=size, asked=lambda: self.asked)

    def became_durable(self, path: Path) -> None:
        """Called by the writing thread."""
        self._durable_after = time.perf_counter() - self._began
        self.path = path

    def stats_of(self, *, size: int, written: int, cpu_seconds: float) -> SaveStats:
        """The account of it, for the writing thread."""
        return SaveStats(size, written, self.stall, self._durable_after, self.stall + cpu_seconds)
