"""A data set that lies in memory as tensors."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from runner.errors import DataError


class Tensors(Dataset[tuple[Tensor, ...]]):
    """Samples are the rows of `tensors`; a batch is indexed at once, many times quicker than sample by sample."""

    draws_randomness = False
    """Nothing random happens in a fetch, so no generator has to be seeded around it."""
    returns_batches = True
    """`__getitems__` gives the finished batch, not a list of samples to collate."""

    def __init__(self, *tensors: Tensor) -> None:
        """Raises DataError if there is no tensor or if their first dimensions differ."""
        sizes = [tuple(tensor.shape) for tensor in tensors]
        if not sizes or any(not size or size[0] != sizes[0][0] for size in sizes):
            raise DataError(f"Tensors: shapes {sizes}; wanted at least one tensor, all with the same number of rows")
        self.tensors = tensors

    def __len__(self) -> int:
        return self.tensors[0].shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, ...]:
        return tuple(rows(tensor, indices) for tensor in self.tensors)


def rows(tensor: Tensor, indices: Sequence[int] | Tensor) -> Tensor:
    """A new tensor with these rows of `tensor`, in the order of `indices`."""
    # The stubs of torch know sequences of numbers only in the form of lists.
    index = indices if isinstance(indices, Tensor) else torch.tensor(cast(list[int], indices), dtype=torch.int64)
    return tensor.index_select(0, index.to(tensor.device))
