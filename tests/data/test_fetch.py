import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from runner.data.fetch import Source, draws_randomness, seed_from, seeded
from runner.data.tensors import Tensors

X, Y = torch.arange(8.0).reshape(8, 1), torch.arange(8)


class Plain(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        assert type(index) is int
        return X[index], Y[index]

    def __len__(self) -> int:
        return 8


class ListGiving(Plain):
    """Torch's own convention: `__getitems__` gives a list of samples."""

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("samples must be fetched at once")

    def __getitems__(self, indices: list[int]) -> list[Any]:
        assert type(indices) is list
        return [(X[index], Y[index]) for index in indices]


def summed(samples: Any) -> Any:
    return sum(float(x) for x, _ in samples)


DATASETS = [
    Plain(),
    ListGiving(),
    TensorDataset(X, Y),
    Tensors(X, Y),
    Subset(Tensors(X, Y), range(8)),
    Subset(Plain(), range(8)),
]


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("indices", [[5, 2, 7], torch.tensor([5, 2, 7])], ids=["list", "tensor"])
def test_every_kind_of_dataset_gives_the_same_batch(dataset: Any, indices: list[int] | Tensor) -> None:
    source = pickle.loads(pickle.dumps(Source(dataset, None, seed=0, rank=0)))  # noqa: S301
    x, y = source.batch(0, 0, indices)
    assert torch.equal(x, X[[5, 2, 7]])
    assert torch.equal(y, Y[[5, 2, 7]])
    # A collate function gets samples, also where a dataset would have given the batch.
    assert Source(dataset, summed, seed=0, rank=0).batch(0, 0, indices) == 14.0


def test_seeding_puts_the_three_generators_back() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    with seeded(1):
        expected = draw()
    with seeded(7):
        following = draw()
        with pytest.raises(KeyError), seeded(1):
            assert draw() == expected
            raise KeyError
        after = draw()
    with seeded(7):
        assert (draw(), draw()) == (following, after)


def test_seeds_depend_on_every_word() -> None:
    seeds = {seed_from("batch", a, b, c) for a in range(3) for b in range(3) for c in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert seed_from("order", 0, 1) != seed_from("batch", 0, 1)
    # Written down once: another value would shuffle every saved run anew.
    assert seed_from("order", 0, 0) == 2118667275734244636


def test_only_datasets_known_to_draw_nothing_are_not_seeded() -> None:
    quiet, loud = Tensors(X), Plain()
    assert not draws_randomness(quiet)
    assert not draws_randomness(TensorDataset(X))
    assert not draws_randomness(Subset(Subset(quiet, range(3)), range(2)))
    assert draws_randomness(loud)
    assert draws_randomness(Subset(loud, range(3)))
    assert draws_randomness(ConcatDataset([quiet, loud]))
    assert not draws_randomness(ConcatDataset([quiet, quiet]))
    assert Source(quiet, summed, seed=0, rank=0).draws
