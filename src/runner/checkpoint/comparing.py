"""How two states differ: which tensors, in how many elements and by how much, and which other values.

Equal means the same bits: two NaNs of the same bits are equal, 0.0 and -0.0 are not.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

NOT_THERE = "(not there)"
"""Stands for a value that one of two states has not."""

_PIECE = 1024 * 1024
"""Elements that are compared at once, so that comparing needs little memory beside the two states."""


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """Two tensors that differ, or one that the other state has not."""

    name: str
    one: str | None
    """Dtype and shape, such as `float32 (128, 64)`; None where it is not there."""
    other: str | None
    elements: int
    """Of the one that is there."""
    differing: int | None = None
    """How many elements differ; None where dtypes or shapes do."""
    max_abs: float | None = None
    """The greatest absolute difference; NaN where something became NaN or was. None where it cannot be computed."""
    relative: float | None = None
    """The norm of the difference over the norm of what is finite of the first; infinite where that is 0."""


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """Two values that are no tensors and differ; NOT_THERE where one state has none."""

    name: str
    one: Any
    other: Any


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two states, and how many tensors were compared."""

    tensors: tuple[TensorDifference, ...]
    values: tuple[ValueDifference, ...]
    num_tensors: int


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> Comparison:
    """Compare two trees of tensors and plain values, as `Checkpoint.state` gives them."""
    first, second = dict(_leaves(one, ())), dict(_leaves(other, ()))
    names = list(dict.fromkeys([*first, *second]))
    tensors, values, num_tensors = [], [], 0
    for name in names:
        before, after = first.get(name, NOT_THERE), second.get(name, NOT_THERE)
        if isinstance(before, Tensor) or isinstance(after, Tensor):
            num_tensors += 1
            if difference := _compare_tensors(name, before, after):
                tensors.append(difference)
        elif not _same(before, after):
            values.append(ValueDifference(name, before, after))
    return Comparison(tuple(tensors), tuple(values), num_tensors)


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Tensors and plain values by dotted names. A sequence of plain values is one value."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | Tensor | np.ndarray) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, str(index)))
    else:
        yield ".".join(path), value


def _compare_tensors(name: str, one: Any, other: Any) -> TensorDifference | None:
    whats = [_what(one), _what(other)]
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        there = one if isinstance(one, Tensor) else other
        return TensorDifference(name, whats[0], whats[1], there.numel())
    if whats[0] != whats[1]:
        return TensorDifference(name, whats[0], whats[1], one.numel())
    differing, greatest, squares, norm, computed = 0, 0.0, 0.0, 0.0, True
    for a, b in zip(_pieces(one), _pieces(other), strict=True):
        mask = _differs(a, b)
        count = int(mask.sum())
        differing += count
        try:
            x, y = _wide(a), _wide(b)
        except RuntimeError:
            # Torch has dtypes that it converts to nothing else.
            computed = False
            continue
        norm += float(x.abs().square().nan_to_num(nan=0.0, posinf=0.0).sum())
        if count:
            distance = (x[mask] - y[mask]).abs()
            top = float(distance.max())
            greatest = top if math.isnan(top) or top > greatest else greatest
            squares += float(distance.square().sum())
    if not differing:
        return None
    if not computed:
        return TensorDifference(name, whats[0], whats[1], one.numel(), differing)
    if norm > 0 or math.isnan(squares):
        relative = math.sqrt(squares / (norm or 1.0))
    else:
        relative = math.inf if squares > 0 else 0.0
    return TensorDifference(name, whats[0], whats[1], one.numel(), differing, greatest, relative)


def _what(value: Any) -> str | None:
    if value is NOT_THERE:
        return None
    if not isinstance(value, Tensor):
        return f"no tensor but {value!r:.40}"
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    return iter(torch.split(tensor.detach().contiguous().reshape(-1), _PIECE))


def _differs(one: Tensor, other: Tensor) -> Tensor:
    """Which elements have other bits."""
    size = one.element_size()
    bytes_ = [tensor.view(torch.uint8).reshape(-1, size) for tensor in (one, other)]
    return (bytes_[0] != bytes_[1]).any(dim=1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other or (one != one and other != other))
