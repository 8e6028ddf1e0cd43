import math
from typing import Any

import numpy as np
import pytest
import torch

from runner.checkpoint.comparing import NOT_THERE, Comparison, TensorDifference, ValueDifference, compare

NAN, INF = math.nan, math.inf


def only(one: Any, other: Any) -> TensorDifference:
    """The difference of two tensors; there must be one."""
    found = compare({"x": one}, {"x": other})
    assert found.values == () and len(found.tensors) == 1 and found.num_tensors == 1
    return found.tensors[0]


@pytest.mark.parametrize(
    ("one", "other", "differing", "max_abs", "relative"),
    [
        ([3.0, 4.0, 0.0], [3.0, 4.0, 1.0], 1, 1.0, 0.2),
        ([1.0, 2.0], [1.0, -2.0], 1, 4.0, 4 / math.sqrt(5)),
        ([0.0, 0.0], [0.0, 1.0], 1, 1.0, INF),
        # The same number in other bits.
        ([0.0], [-0.0], 1, 0.0, 0.0),
        ([1.0, NAN], [1.5, NAN], 1, 0.5, 0.5),
        ([1.0, 2.0], [1.0, NAN], 1, NAN, NAN),
        ([NAN, 0.0], [1.0, 0.0], 1, NAN, NAN),
        ([1.0, 2.0], [INF, 2.0], 1, INF, INF),
        ([INF, 2.0], [INF, 3.0], 1, 1.0, 0.5),
    ],
)
def test_how_many_elements_differ_and_by_how_much(
    one: list[float], other: list[float], differing: int, max_abs: float, relative: float
) -> None:
    found = only(torch.tensor(one), torch.tensor(other))
    what = f"float32 ({len(one)},)"
    assert (found.name, found.one, found.other, found.elements, found.differing) == (
        "x",
        what,
        what,
        len(one),
        differing,
    )
    assert [found.max_abs, found.relative] == pytest.approx([max_abs, relative], nan_ok=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor(3), torch.tensor(4)),
        (torch.tensor([True, False]), torch.tensor([True, True])),
        (torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.complex64) * 1j),
        (torch.ones(3).bfloat16(), torch.full((3,), 2.0).bfloat16()),
        (torch.ones(3).to(torch.float8_e4m3fn), torch.full((3,), 2.0).to(torch.float8_e4m3fn)),
        (torch.arange(6).reshape(2, 3).T, torch.arange(1, 7).reshape(2, 3).T),
        (np.arange(3), np.arange(3) * 2),
    ],
)
def test_tensors_of_every_kind_are_compared(one: Any, other: Any) -> None:
    found = only(one, other)
    assert found.differing is not None and found.differing > 0
    assert found.max_abs is not None and found.max_abs > 0
    assert found.relative is not None and found.relative > 0
    assert compare({"x": one}, {"x": one}) == Comparison((), (), 1)


def test_empty_tensors_are_equal() -> None:
    assert compare({"x": torch.empty(0, 3)}, {"x": torch.empty(0, 3)}) == Comparison((), (), 1)


def test_a_large_tensor_is_compared_in_pieces() -> None:
    one, other = torch.zeros(2_500_000), torch.zeros(2_500_000)
    one[0] = 3.0
    other[0], other[1_500_000], other[-1] = 3.0, -4.0, 1.0
    found = only(one, other)
    assert (found.differing, found.max_abs) == (2, 4.0)
    assert found.relative == pytest.approx(math.sqrt(17) / 3)


def test_other_dtypes_and_shapes_and_what_only_one_has_is_told() -> None:
    one = {"a": torch.ones(2), "b": torch.ones(2), "only": torch.ones(2, 2), "kind": torch.ones(1)}
    other = {"a": torch.ones(2, 1), "b": torch.ones(2).double(), "new": torch.ones(3), "kind": 5}
    assert compare(one, other).tensors == (
        TensorDifference("a", "float32 (2,)", "float32 (2, 1)", 2),
        TensorDifference("b", "float32 (2,)", "float64 (2,)", 2),
        TensorDifference("only", "float32 (2, 2)", None, 4),
        TensorDifference("kind", "float32 (1,)", "no tensor but 5", 1),
        TensorDifference("new", None, "float32 (3,)", 3),
    )


def test_a_dtype_that_converts_to_nothing_is_still_compared() -> None:
    one, other = (torch.tensor([1, 2, number], dtype=torch.uint8).view(torch.bits8) for number in (3, 4))
    assert only(one, other) == TensorDifference("x", "bits8 (3,)", "bits8 (3,)", 3, 1)


def test_other_values_are_compared_by_type_and_value() -> None:
    one = {"n": {"a": 1, "b": NAN, "c": (1, (2, None)), "d": {}, "e": 0, "f": True}, "l": [{"x": 1}, {"x": 2}]}
    other = {"n": {"a": 1.0, "b": NAN, "c": (1, (3, None)), "d": {}, "f": 1, "g": "x"}, "l": [{"x": 1}, {"x": 5}]}
    assert compare(one, other) == Comparison(
        (),
        (
            ValueDifference("n.a", 1, 1.0),
            ValueDifference("n.c", (1, (2, None)), (1, (3, None))),
            ValueDifference("n.e", 0, NOT_THERE),
            ValueDifference("n.f", True, 1),
            ValueDifference("l.1.x", 2, 5),
            ValueDifference("n.g", NOT_THERE, "x"),
        ),
        0,
    )
