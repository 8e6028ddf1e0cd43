"""Batches of a loader that keeps its own position: torchdata's StatefulDataLoader, or any with `state_dict`."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from itertools import islice
from typing import Any

from torch.utils.data import IterableDataset

from runner.data.fetch import Collate, draws_randomness, seed_from, seeded
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
                f"data.train is a {type(loader).__qualname__} without `state_dict` and `load_state_dict`, so that a "
                "run could not be resumed in the middle of an epoch; give the dataset itself, or torchdata's "
                "StatefulDataLoader"
            )
        self._loader = loader
        self._seed = seed
        self._limit = limit
        self._position = (0, 0)
        """Epoch, and how many batches of it were given out."""
        self._ended = False
        """The loader itself has said that the epoch of `_position` is over."""
        self._restored: Mapping[str, Any] | None = None
        """The loader's state that waits for the next epoch to be read."""
        self._held: Any = None
        """The loader's state at `_position`, where the loader itself is one batch further."""
        self._begun = False
        """The loader has been iterated since it was made or restored."""
        self._close: Callable[[], None] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What cannot be resumed exactly, a line each."""
        dataset = getattr(self._loader, "dataset", self._loader)
        workers = getattr(self._loader, "num_workers", 0)
        if not self._keeps_state or not workers or not draws_randomness(dataset):
            return ()
        return (
            f"{self._name}: random numbers that it draws in its {workers} workers are not restored by a resume; use "
            "runtime.workers=0, or, if it draws none, say so with its attribute draws_randomness = False",
        )

    @property
    def _name(self) -> str:
        dataset = getattr(self._loader, "dataset", self._loader)
        return f"{type(dataset).__module__}.{type(dataset).__qualname__}"

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
        if self._restored is None:
            if start:
                raise DataError(f"batch {start} of epoch {epoch} was asked for, but the loader's state was not loaded")
            return self._read(epoch, start=0, cut=False)
        if (epoch, start) == self._position:
            if self._ended or start in (self._limit, self.num_batches):
                return iter(())
            return self._read(epoch, start=start, cut=False)
        over = self._ended or self._position[1] in (self._limit, self.num_batches)
        if over and (epoch, start) == (self._position[0] + 1, 0):
            return self._read(epoch, start=0, cut=not self._ended)
        raise DataError(
            f"batch {start} of epoch {epoch} was asked for, but the loader's saved position is "
            f"batch {self._position[1]} of epoch {self._position[0]}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The position after the batch that was given out last; {} for a loader that cannot tell."""
        if not self._keeps_state:
            return {}
        epoch, batch = self._position
        # Asked for before the first batch, torchdata's loader would start its workers to answer.
        state = self._loader.state_dict() if self._begun and self._held is None else self._held or self._restored
        kept = {"epoch": epoch, "batch": batch, "ended": self._ended, "loader": deepcopy(state)}
        return kept | {"workers": getattr(self._loader, "num_workers", 0)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave. Raises DataError if it is not that."""
        if set(state) != {"epoch", "batch", "ended", "loader", "workers"} or not self._keeps_state:
            raise DataError(
                f"the saved position has {sorted(state)}; wanted batch, ended, epoch, loader and workers, for a loader "
                "with `load_state_dict`; resume with the data of the saved run"
            )
        workers = getattr(self._loader, "num_workers", 0)
        if state["workers"] != workers:
            raise DataError(
                f"the position in {self._name} was saved with {state['workers']} workers, now there are {workers}: "
                f"each reads a share of its own; resume with runtime.workers={state['workers']}"
            )
        self._position = (state["epoch"], state["batch"])
        self._ended = state["ended"]
        self._restored = deepcopy(state["loader"])
        self._begun, self._held = False, None

    def close(self) -> None:
        """Ends the worker processes of a loader that was made here."""
        if self._close is not None:
            self._close()
            self._close = None

    def _read(self, epoch: int, *, start: int, cut: bool) -> Iterator[Any]:
        """`cut`: the restored state is that of an epoch before, which its limit has cut off."""
        if cut:
            with seeded(seed_from("loader", self._seed, epoch - 1)):
                self._iterator()
        with seeded(seed_from("loader", self._seed, epoch)):
            iterator = self._iterator()
        batch, total = start, self.num_batches
        self._position, self._ended, self._held = (epoch, batch), False, None
        items = [] if batch in (total, self._limit) else self._next(iterator, epoch, batch)
        while items:
            item = items.pop()
            batch += 1
            self._position = (epoch, batch)
            if batch == self._limit:
                self._held = None
                yield item
                return
            # The state of StatefulDataLoader (torchdata 0.11) on the last batch does not say that it is the last: what
            # comes after is an empty epoch, or with workers one that begins anew. So the end is looked for, with the
            # state from before the look in the hand: always where the length is not known, else at the last batch.
            looks = total is None or batch == total
            if looks:
                # A copy, because a dataset may give its live buffers, and go on to change them.
                before = deepcopy(self._loader.state_dict()) if self._keeps_state else None
                items = self._next(iterator, epoch, batch)
                self._ended = not items
                self._held = before if items else None
            yield item
            if batch == total:
                return
            if not looks:
                items = self._next(iterator, epoch, batch)
        self._ended = True
        if total is not None:
            raise DataError(
                f"the loader says that it has {total} batches, but it gave {batch} in epoch {epoch}; its length must "
                "be right, or not be told"
            )

    def _next(self, iterator: Iterator[Any], epoch: int, batch: int) -> list[Any]:
        """The next batch in a list; an empty list when there is none."""
        with seeded(seed_from("batch", self._seed, epoch, batch)):
            return list(islice(iterator, 1))

    def _iterator(self) -> Iterator[Any]:
        if self._restored is not None:
            self._loader.load_state_dict(self._restored)
            self._restored = None
        self._begun = True
        if getattr(self._loader, "worker_init_fn", None) is not ignore_signals:
            theirs: Iterator[Any] = iter(self._loader)
            return theirs
        with held_back_signals():
            iterator: Iterator[Any] = iter(self._loader)
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
            f"the data set {type(dataset).__qualname__} is iterable, and to resume it torchdata is needed, which "
            f"cannot be imported ({error}); pip install 'runner[iterable]'"
        ) from error
    with warnings.catch_warnings():
        # torchdata 0.11 calls `torch.set_vital`, which torch has deprecated. Nothing that a user could mend.
        warnings.filterwarnings("ignore", message="'set_vital' is deprecated", category=UserWarning)
        return StatefulDataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            worker_init_fn=ignore_signals if workers else None,
        )
