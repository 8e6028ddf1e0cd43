"""Worker processes that fetch batches ahead, and how they end."""

import atexit
import os
import signal
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from runner.data.fetch import Source
from runner.errors import DataError

Task = tuple[int, int, list[int]]
"""What a worker is told: epoch, number of the batch, indices."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Workers:
    """Processes that fetch batches of a source in order. They live over epochs, until `close`."""

    def __init__(self, source: Source, *, workers: int, pin_memory: bool, like: DataLoader[Any] | None = None) -> None:
        """Starts nothing yet: the processes start with the first epoch.

        How they start, and how far they read ahead, is as in the loader `like`.
        """
        self._tasks = _Tasks()
        self._turn = 0
        self._loader: DataLoader[Any] = DataLoader(
            _Fetched(source),
            batch_size=None,
            sampler=self._tasks,
            num_workers=workers,
            collate_fn=_unchanged,
            worker_init_fn=ignore_signals if like is None else _Beginning(like.worker_init_fn),
            persistent_workers=True,
            prefetch_factor=None if like is None else like.prefetch_factor,
            timeout=0 if like is None else like.timeout,
            multiprocessing_context=None if like is None or not like.num_workers else like.multiprocessing_context,
            pin_memory=pin_memory,
            # Without one of its own, the loader would draw from the global generator at every epoch.
            generator=torch.Generator(),
        )
        self._close: Callable[[], None] | None = None

    def batches(self, tasks: Iterable[Task]) -> Iterator[Any]:
        """The batches of `tasks`. Only one such iterator can be in use; an earlier one is void.

        Raises DataError when a worker dies. What the dataset raises in a worker is raised here.
        """
        self._turn += 1
        turn = self._turn
        self._tasks.tasks = tasks
        try:
            with held_back_signals():
                iterator = iter(self._loader)
            if self._close is None:
                self._close = close_at_exit(self, self._loader)
            while turn == self._turn:
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                yield batch
        except (RuntimeError, OSError, EOFError) as error:
            if not _is_death(error):
                raise
            _let_go(self._loader)
            self.close()
            raise DataError(
                f"a data worker died ({str(error).strip() or type(error).__name__}); the system may have been short of "
                "memory: set runtime.workers to a smaller number, or to 0 to see the dataset's own error"
            ) from error
        raise RuntimeError("an epoch was read further after another had begun on the same batches; read one at a time")

    def close(self) -> None:
        """Ends the processes. A later epoch starts new ones."""
        if self._close is not None:
            self._close()
            self._close = None


@contextmanager
def held_back_signals() -> Iterator[None]:
    """Keeps what ends a run waiting while workers are started, until `ignore_signals` is in force in them."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of a fork in a process with threads. Torch always has some and its workers allow for it.
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def ignore_signals(_worker: int) -> None:
    """Run in a new worker: Ctrl-C reaches the whole process group, but only the main process decides what it means."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def close_at_exit(owner: object, loader: DataLoader[Any]) -> Callable[[], None]:
    """Ends the workers of `loader` when `owner` is gone, at exit, or when the returned function is called.

    Call it once they run: exit functions are called in reverse order, and torch's own, one for each worker, would wait
    for workers that nobody has told to end.
    """
    finalizer = weakref.finalize(owner, _end_workers, loader, os.getpid())
    atexit.register(finalizer)

    def close() -> None:
        atexit.unregister(finalizer)
        finalizer()

    return close


def _end_workers(loader: DataLoader[Any], pid: int) -> None:
    # A forked child has inherited the objects, but the workers are not its own.
    iterator: Any = loader._iterator
    if iterator is None or os.getpid() != pid:
        return
    _let_go(loader)
    loader._iterator = None
    iterator._shutdown_workers()
    for worker in iterator._workers:
        # They ignore SIGTERM, which torch sends to those that are stuck.
        if worker.is_alive():
            worker.kill()
            worker.join()


def _is_death(error: Exception) -> bool:
    """A worker has died, as against what the dataset has raised in a worker that lives."""
    # Torch raises a plain RuntimeError, from its handler of SIGCHLD or from its wait for data.
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker (pid")
    # A tensor is fetched from the worker that made it; this is what comes when that has just gone.
    return " in DataLoader worker process " not in str(error)


def _let_go(loader: DataLoader[Any]) -> None:
    """Tells torch that these workers may end. Else its handler of SIGCHLD would raise, here or anywhere later."""
    iterator: Any = loader._iterator
    while iterator is not None and iterator._worker_pids_set:
        with suppress(RuntimeError):
            signal_handling._remove_worker_pids(id(iterator))  # type: ignore[attr-defined]
            iterator._worker_pids_set = False


class _Beginning:
    """What a worker begins with: ours, then theirs."""

    def __init__(self, theirs: Callable[[int], None] | None) -> None:
        self.theirs = theirs

    def __call__(self, worker: int) -> None:
        ignore_signals(worker)
        if self.theirs is not None:
            self.theirs(worker)


class _Tasks:
    """The loader's sampler: gives what the next epoch is to give."""

    def __init__(self) -> None:
        self.tasks: Iterable[Task] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)


class _Fetched(Dataset[Any]):
    """The loader's dataset: "item" `task` is that batch."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, task: Task) -> Any:
        return self.source.batch(*task)


def _unchanged(batch: Any) -> Any:
    return batch
