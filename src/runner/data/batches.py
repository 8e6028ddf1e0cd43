"""Batches with a position: which batch comes when depends on the seed, the epoch and the batch's number alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data._utils import pin_memory as pinning

from runner.data.fetch import Collate, Source, seed_from
from runner.data.loader_batches import LoaderBatches, loader_of_iterable
from runner.data.position import Cut
from runner.data.sampled_batches import SampledBatches, has_sampler
from runner.data.workers import Task, Workers
from runner.errors import ConfigError, DataError
from runner.records import World

_ALONE = World()


class Batches:
    """Batches of a map-style dataset. Any batch of any epoch can be had at once, without reading the ones before it.

    `batch_size` counts the samples of all ranks together; this rank gets indices[rank::size] of each batch. The
    batches are the same, bit for bit, for any number of workers. `limit` ends every epoch after that many batches.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        workers: int = 0,
        collate: Collate | None = None,
        world: World = _ALONE,
        pin_memory: bool = False,
        limit: int | None = None,
    ) -> None:
        """Raises ConfigError for numbers that cannot be, DataError for a dataset that has no batch to give."""
        _check(batch_size=batch_size, workers=workers, limit=limit, world=world)
        self.dataset_size = len(dataset)
        if not self.dataset_size:
            raise DataError(f"{_name(dataset)} is empty; a data set needs at least one sample")
        whole, rest = divmod(self.dataset_size, batch_size)
        if drop_last and not whole:
            raise DataError(
                f"{_name(dataset)} has {self.dataset_size} samples, less than one batch of {batch_size}, and "
                "drop_last is true, so that nothing is left; set data.drop_last=false or a smaller data.batch_size"
            )
        self._num_batches = min(whole if drop_last or not rest else whole + 1, limit or self.dataset_size)
        if self._num_batches > whole and rest < world.size:
            raise DataError(
                f"{_name(dataset)}: the last batch has {rest} samples for {world.size} processes; "
                "set data.drop_last=true or another data.batch_size"
            )
        self._order = _Order(self.dataset_size, batch_size, self._num_batches, shuffle, seed, world)
        self._source = Source(dataset, collate, seed=seed, rank=world.rank)
        self._at_once = self._source.batches_at_once(batch_size) if world.size == 1 and not pin_memory else 1
        self._pin_memory = pin_memory
        self._workers = Workers(self._source, workers=workers, pin_memory=pin_memory) if workers else None

    @property
    def cut(self) -> Cut:
        """How an epoch is cut into batches: what a position means."""
        order = self._order
        return Cut(order.size, order.batch_size, order.num_batches, order.shuffle, order.seed)

    @property
    def num_batches(self) -> int | None:
        """Batches an epoch. Known here; the type is that of all batches."""
        return self._num_batches

    def __len__(self) -> int:
        return self._num_batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Batches `start`, `start` + 1, ... of that epoch: of each, the share of this rank.

        With workers, only one epoch at a time can be read. Raises DataError if there is no such position.
        """
        if not 0 <= start <= self._num_batches:
            raise DataError(
                f"batch {start} was asked for in an epoch of {self._num_batches} batches; the data, the batch size "
                "or drop_last are not those with which this position was saved"
            )
        if self._workers is not None:
            return self._workers.batches(self._order.tasks(epoch, start))
        return self._fetch(epoch, start)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a position is an epoch and a number of batches, which the caller counts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises DataError if there is something to load."""
        if state:
            raise DataError(
                "the saved position is that of a loader, but the data are now a map-style dataset; "
                "resume with the data of the saved run"
            )

    def close(self) -> None:
        """Ends the worker processes, if any. It also happens when this object is gone, and at exit."""
        if self._workers is not None:
            self._workers.close()

    def _fetch(self, epoch: int, start: int) -> Iterator[Any]:
        if self._at_once > 1:
            for indices in self._order.several(epoch, start, self._at_once):
                yield from self._source.rows_of_batches(indices, self._order.batch_size)
            return
        for number, indices in self._order.batches(epoch, start):
            batch = self._source.batch(epoch, number, indices)
            yield pinning.pin_memory(batch) if self._pin_memory else batch  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Order:
    """Which indices make which batch. It has no reference to the batches, whose workers would keep them alive."""

    size: int
    batch_size: int
    num_batches: int
    shuffle: bool
    seed: int
    world: World

    def batches(self, epoch: int, start: int) -> Iterator[tuple[int, Tensor]]:
        """The number and the indices (of this rank) of each batch from `start` on."""
        order = self._permutation(epoch)
        rank, size = self.world.rank, self.world.size
        for number in range(start, self.num_batches):
            indices = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield number, indices if size == 1 else indices[rank::size]

    def several(self, epoch: int, start: int, count: int) -> Iterator[Tensor]:
        """The indices of `count` batches at a time, from batch `start` on; for one process alone."""
        order = self._permutation(epoch)
        for first in range(start, self.num_batches, count):
            yield order[first * self.batch_size : min(first + count, self.num_batches) * self.batch_size]

    def tasks(self, epoch: int, start: int) -> Iterator[Task]:
        """The same, for workers."""
        for number, indices in self.batches(epoch, start):
            yield epoch, number, indices.tolist()

    def _permutation(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.size)
        generator = torch.Generator()
        generator.manual_seed(seed_from("order", self.seed, epoch))
        return torch.randperm(self.size, generator=generator)


AnyBatches = Batches | SampledBatches | LoaderBatches


def make_batches(
    split: Any,
    *,
    batch_size: int,
    shuffle: bool,
    drop_last: bool,
    seed: int,
    workers: int = 0,
    collate: Collate | None = None,
    world: World = _ALONE,
    pin_memory: bool = False,
    limit: int | None = None,
    resumable: bool = True,
) -> AnyBatches:
    """Batches of a split of `Data`, whatever it is.

    A loader has its own batches and order, and its own workers if it has any: only `seed` and `limit` apply to it.
    `resumable=False` is for evaluation, which never starts in the middle: there any loader will do.
    Raises ConfigError or DataError if the split cannot be used.
    """
    if isinstance(split, IterableDataset) or not _is_map_style(split):
        if world.size > 1:
            raise ConfigError(
                f"{_name(split)}: iterable data cannot be shared out to {world.size} processes; use a map-style dataset"
            )
        if isinstance(split, IterableDataset):
            if shuffle:
                raise ConfigError(f"{_name(split)} is iterable and has an order of its own; set data.shuffle=false")
            _check(batch_size=batch_size, workers=workers, limit=limit, world=world)
            split = loader_of_iterable(
                split,
                batch_size=batch_size,
                drop_last=drop_last,
                workers=workers,
                collate=collate,
                pin_memory=pin_memory,
            )
        elif has_sampler(split):
            return SampledBatches(
                split, seed=seed, workers=workers, pin_memory=pin_memory, limit=limit, resumable=resumable
            )
        elif not hasattr(split, "__iter__"):
            raise DataError(
                f"{_name(split)} is neither a data set nor a loader; wanted `__getitem__` and `__len__` (map-style), "
                "an IterableDataset, or a loader with `state_dict` and `load_state_dict`"
            )
        return LoaderBatches(split, seed=seed, limit=limit, resumable=resumable)
    return Batches(
        split,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        seed=seed,
        workers=workers,
        collate=collate,
        world=world,
        pin_memory=pin_memory,
        limit=limit,
    )


def _is_map_style(split: Any) -> bool:
    return not isinstance(split, DataLoader) and hasattr(split, "__getitem__") and hasattr(split, "__len__")


def _check(*, batch_size: int, workers: int, limit: int | None, world: World) -> None:
    problems = []
    if batch_size < 1:
        problems.append(f"data.batch_size is {batch_size}; wanted at least 1")
    elif batch_size < world.size:
        problems.append(
            f"data.batch_size is {batch_size} for {world.size} processes; wanted at least one sample for each"
        )
    if workers < 0:
        problems.append(f"runtime.workers is {workers}; wanted 0 or more")
    if limit is not None and limit < 1:
        problems.append(f"the limit of batches an epoch is {limit}; wanted at least 1, or null for none")
    if not 0 <= world.rank < world.size:
        problems.append(f"the rank is {world.rank} in a world of {world.size}; wanted 0 to {world.size - 1}")
    if problems:
        raise ConfigError(problems)


def _name(dataset: Any) -> str:
    return f"the data set {type(dataset).__module__}.{type(dataset).__qualname__}"
