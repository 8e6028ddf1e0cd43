"""Getting one batch out of a map-style dataset, the same one wherever and whenever it is fetched."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

from runner.data.tensors import Tensors, rows

AHEAD_BYTES = 1 << 20
"""Rows of a dataset in memory are gathered for several batches at once, up to this size."""
ALIGNMENT = 64
"""Bytes: torch's CPU tensors begin at multiples of it."""

Collate = Callable[[Sequence[Any]], Any]


def seed_from(*words: str | int) -> int:
    """64 bits that depend on all the words and on nothing else."""
    return xxhash.xxh3_64_intdigest(" ".join(map(str, words)).encode())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators of python, numpy and torch (CPU) for the block, then puts them back as they were."""
    states = _states()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Not torch.manual_seed, which also visits every accelerator and takes fifty times as long.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        _set_states(states)


class Generators:
    """Global generators for work that is done in parts: seeded at first, then each part goes on from the one before.

    Outside of the parts, the process's own are as they were. The same three as those of `seeded`.
    """

    def __init__(self, seed: int) -> None:
        with seeded(seed):
            self._inside = _states()
        self._outside = self._inside

    def __enter__(self) -> None:
        self._outside = _states()
        _set_states(self._inside)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = _states()
        _set_states(self._outside)


def _states() -> tuple[Any, Any, Tensor]:
    return random.getstate(), np.random.get_state(), torch.default_generator.get_state()


def _set_states(states: tuple[Any, Any, Tensor]) -> None:
    python, arrays, tensors = states
    random.setstate(python)
    np.random.set_state(arrays)
    torch.default_generator.set_state(tensors)


class Source:
    """Batches of a map-style dataset by their indices; random augmentation is seeded by (seed, epoch, batch, rank).

    Seeded are the global generators of python, numpy and torch. A dataset that owns a generator must seed it itself.
    It can be pickled if the dataset and `collate` can.
    """

    def __init__(self, dataset: Any, collate: Collate | None, *, seed: int, rank: int) -> None:
        self.dataset = dataset
        self.collate = collate
        self.seed = seed
        self.rank = rank
        # A collate function may draw too (mixing samples, masking tokens), and there is no way to know.
        self.draws = collate is not None or draws_randomness(dataset)
        self._fetch = self._fetcher()

    def batch(self, epoch: int, number: int, indices: Sequence[int] | Tensor) -> Any:
        """The batch of these `indices`, which is batch `number` of `epoch`."""
        if not self.draws:
            return self._fetch(indices)
        with seeded(seed_from("batch", self.seed, epoch, number, self.rank)):
            return self._fetch(indices)

    def batches_at_once(self, batch_size: int) -> int:
        """Of how many batches the rows can be gathered together: 1 unless they lie in memory as tensors.

        Only where each batch then begins at an address that a fresh tensor could have: kernels may choose their order
        of summation by it, and the numbers must not depend on how a batch was fetched.
        """
        if self.draws or type(self.dataset) not in (Tensors, TensorDataset):
            return 1
        sizes: list[int] = [batch_size * tensor[:1].nbytes for tensor in self.dataset.tensors]
        on_cpu = all(tensor.device.type == "cpu" for tensor in self.dataset.tensors)
        if not on_cpu or not all(size > 0 and size % ALIGNMENT == 0 for size in sizes):
            return 1
        return max(1, AHEAD_BYTES // sum(sizes))

    def rows_of_batches(self, indices: Tensor, batch_size: int) -> Iterator[Any]:
        """Several batches of a dataset of tensors, one after the other: gathering them costs little more than one."""
        parts = [torch.split(rows(tensor, indices), batch_size) for tensor in self.dataset.tensors]
        made: type = tuple if type(self.dataset) is Tensors else list
        return map(made, zip(*parts, strict=True))

    def _fetcher(self) -> Callable[[Sequence[int] | Tensor], Any]:
        if self.collate is None:
            if type(self.dataset) is TensorDataset:
                return self._rows
            if getattr(self.dataset, "returns_batches", False):
                return self._finished_batch
            if isinstance(self.dataset, Subset) and getattr(_inside(self.dataset), "returns_batches", False):
                return self._finished_batch_of_subset
        # A dataset that returns finished batches has no list of samples for a collate function.
        if hasattr(self.dataset, "__getitems__") and not getattr(_inside(self.dataset), "returns_batches", False):
            return self._samples_at_once
        return self._samples

    def _rows(self, indices: Sequence[int] | Tensor) -> Any:
        # A list, because that is what default_collate makes of the tuples of a TensorDataset.
        return [rows(tensor, indices) for tensor in self.dataset.tensors]

    def _finished_batch(self, indices: Sequence[int] | Tensor) -> Any:
        return self.dataset.__getitems__(indices)

    def _finished_batch_of_subset(self, indices: Sequence[int] | Tensor) -> Any:
        return self.dataset.__getitems__(_numbers(indices))

    def _samples_at_once(self, indices: Sequence[int] | Tensor) -> Any:
        return self._collated(self.dataset.__getitems__(_numbers(indices)))

    def _samples(self, indices: Sequence[int] | Tensor) -> Any:
        return self._collated([self.dataset[index] for index in _numbers(indices)])

    def _collated(self, samples: Sequence[Any]) -> Any:
        return default_collate(list(samples)) if self.collate is None else self.collate(samples)


def draws_randomness(dataset: Any) -> bool:
    """Whether a fetch may draw random numbers: what the dataset says in `draws_randomness`; unknown counts as yes."""
    if isinstance(dataset, Subset):
        return draws_randomness(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return any(draws_randomness(part) for part in dataset.datasets)
    return bool(getattr(dataset, "draws_randomness", type(dataset) is not TensorDataset))


def _inside(dataset: Any) -> Any:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _numbers(indices: Sequence[int] | Tensor) -> list[int]:
    # Plain integers, as a DataLoader gives them: a dataset may use them as keys.
    return indices.tolist() if isinstance(indices, Tensor) else list(indices)
