"""Batches of a loader that keeps its own position: torchdata's StatefulDataLoader, or any with `state_dict`."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import IterableDataset

from runner.data.fetch import Collate, seed_from, seeded
from runner.data.workers import close_at_exit, held_back_signals, ignore_signals
from runner.errors import ConfigError, DataError


class LoaderBatches:
    """The same interface as `Batches` around a loader. Position is the loader's own state.

    The state belongs to the batch that was given out last: read no batch ahead of the one being trained on.
    What the loader draws from global generators in this process is seeded by (seed, epoch, batch), and puts them back;
    what its workers draw is theirs to save.
    """

    def __init__(self, loader: Any, *, seed: int, limit: int | None = None, resumable: bool = True) -> None:
        """Raises DataError if the position is needed (`resumable`) and the loader cannot tell it."""
        self._keeps_state = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
        if resumable and not self._keeps_state:
            raise DataError(
                f"data.train is a {type(loader).__qualname__} without `state_dict` and `load_state_dict`, so that a run could "
                "not be resumed in the middle of an epoch; give the dataset itself, or a torchdata StatefulDataLoader"
            )
        self._loader = loader
        self._seed = seed
        self._limit = limit
        self._position: tuple[int, int] | None = None
        """Epoch and batches given out of it; None before the first."""
        self._ended = False
        """The loader itself has said that the epoch of `_position` is over."""
        self._restored: Mapping[str, Any] | None = None
        """A loader's state that waits for the next call of `epoch`."""
        self._close: Callable[[], None] | None = None

    @property
    def num_batches(self) -> int | None:
        """Batches an epoch; None where only reading can tell."""
        # With workers, torch estimates the length of iterable data; only reading tells the number of batches.
        if isinstance(getattr(self._loader, "dataset", None), IterableDataset) and self._loader.num_workers:
            return None
        try:
            length = len(self._loader)
        except TypeError:
            return None
        return length if self._limit is None else min(length, self._limit)

    def __len__(self) -> int:
        if (length := self.num_batches) is None:
            raise TypeError(f"the number of batches of this {type(self._loader).__qualname__} is not known")
        return length

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of that epoch from `start` on, which must be 0 or what `load_state_dict` has brought back.

        Raises DataError for any other position: a loader cannot be sent there.
        """
        if self._restored is None or self._position is None:
            if start:
                raise DataError(f"batch {start} of epoch {epoch} was asked for, but the loader's state was not loaded")
            return self._read(epoch, start=0, unfinished=None)
        if (epoch, start) == self._position:
            if self._ended or start == self._limit:
                return iter(())
            return self._read(epoch, start=start, unfinished=None)
        if (epoch, start) == (self._position[0] + 1, 0):
            return self._read(epoch, start=0, unfinished=None if self._ended else self._position)
        raise DataError(
            f"batch {start} of epoch {epoch} was asked for, but the loader's saved position is "
            f"batch {self._position[1]} of epoch {self._position[0]}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The position after the batch that was given out last; {} before the first."""
        if self._position is None or not self._keeps_state:
            return {}
        epoch, batch = self._position
        state = self._loader.state_dict() if self._restored is None else self._restored
        return {"epoch": epoch, "batch": batch, "ended": self._ended, "loader": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave. Raises DataError if it is not that."""
        if not state:
            self._position, self._ended, self._restored = None, False, None
            return
        if set(state) != {"epoch", "batch", "ended", "loader"} or not self._keeps_state:
            raise DataError(
                f"the saved position has {sorted(state)}; wanted batch, ended, epoch and loader, for a loader with "
                "`load_state_dict`; resume with the data of the saved run"
            )
        self._position = (state["epoch"], state["batch"])
        self._ended = state["ended"]
        self._restored = state["loader"]

    def close(self) -> None:
        """Ends the worker processes of a loader that was made here."""
        if self._close is not None:
            self._close()
            self._close = None

    def _read(self, epoch: int, *, start: int, unfinished: tuple[int, int] | None) -> Iterator[Any]:
        if unfinished is not None:
            self._finish(*unfinished)
        with seeded(seed_from("loader", self._seed, epoch)):
            iterator = self._iterator()
        batch = start
        self._position, self._ended = (epoch, batch), False
        while batch != self._limit:
            try:
                with seeded(seed_from("batch", self._seed, epoch, batch)):
                    item = next(iterator)
            except StopIteration:
                self._ended = True
                return
            batch += 1
            self._position = (epoch, batch)
            yield item

    def _finish(self, epoch: int, batch: int) -> None:
        """Brings a loader whose state was taken on the last batch of `epoch` to the end of that epoch.

        Such a state (StatefulDataLoader's, torchdata 0.11) says that the last batch was given out, not that the epoch is over:
        the next iteration is the empty rest of the old epoch. Gone through here, so that it is not taken for the new one.
        """
        with seeded(seed_from("loader", self._seed, epoch)):
            iterator = self._iterator()
        if batch == self._limit:
            return
        with seeded(seed_from("batch", self._seed, epoch, batch)):
            for _ in iterator:
                raise DataError(
                    f"epoch {epoch + 1} was asked for, but the loader's saved position is batch {batch} of epoch {epoch}, "
                    "and that epoch has more batches"
                )

    def _iterator(self) -> Iterator[Any]:
        if self._restored is not None:
            self._loader.load_state_dict(self._restored)
            self._restored = None
        if getattr(self._loader, "worker_init_fn", None) is not ignore_signals:
            return iter(self._loader)
        with held_back_signals():
            iterator = iter(self._loader)
        if self._close is None:
            self._close = close_at_exit(self, self._loader)
        return iterator


def loader_of_iterable(
    dataset: IterableDataset[Any],
    *,
    batch_size: int,
    drop_last: bool,
    workers: int,
    collate: Collate | None,
    pin_memory: bool,
) -> Any:
    """torchdata's StatefulDataLoader of an iterable dataset. Raises ConfigError if torchdata is not installed."""
    try:
        from torchdata.stateful_dataloader import StatefulDataLoader
    except ImportError as error:
        raise ConfigError(
            f"the data set {type(dataset).__qualname__} is iterable, and to resume it torchdata is needed, which cannot be imported "
            f"({error}); pip install 'runner[iterable]'"
        ) from error
    return StatefulDataLoader(
        dataset,
        batch_size=batch_size,
        drop_last=drop_last,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=ignore_signals if workers else None,
    )
