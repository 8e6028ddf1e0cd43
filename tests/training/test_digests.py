"""Digests of what goes into a step and of what it leaves."""

import random
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from runner.data.tensors import Tensors
from runner.training import digests
from runner.training.generators import capture, restore, seed_all

Pair = namedtuple("Pair", "x y")


@dataclass
class Graph:
    nodes: Tensor
    edges: Tensor


class Opaque:
    """What nothing is known of; it prints its address."""


def numbers(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


KINDS: dict[str, Callable[[], Any]] = {
    "tuple": lambda: (numbers(4, 3), torch.arange(4)),
    "mapping": lambda: {"tokens": torch.arange(6).reshape(2, 3), "name": ["a", "ü\udc80"], "weight": 0.5, "none": None},
    "named": lambda: Pair(numbers(2), numbers(3)),
    "dataclass": lambda: Graph(numbers(4, 2), torch.arange(4)),
    "packed": lambda: pack_sequence([numbers(3), numbers(2)]),
    "arrays": lambda: [np.arange(6).reshape(2, 3), np.float32(0.1), np.array(["a", "b"])],
    "empty": lambda: (torch.zeros(0, 3), [], {}),
    "scalars": lambda: (torch.tensor(1.5), True, 1, 1.0, 1j, b"1"),
    "bfloat16": lambda: torch.ones(3, dtype=torch.bfloat16),
    "conjugated": lambda: torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "grad": lambda: torch.ones(3, requires_grad=True),
    "channels last": lambda: numbers(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "strided": lambda: numbers(8, 6)[::2, 1::2],
    "sparse": lambda: torch.eye(3).to_sparse(),
    "objects": lambda: [Opaque(), np.array([Opaque()], dtype=object)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_batches_have_equal_digests(kind: str) -> None:
    make = KINDS[kind]
    assert digests.of_window([make()]) == digests.of_window([make()])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (numbers(4), numbers(4).neg()),
        (numbers(4), numbers(2, 2)),
        (numbers(4), numbers(4).double()),
        (torch.zeros(1), -torch.zeros(1)),
        (numbers(6)[::2], numbers(6)[1::2]),
        (torch.tensor([1j]), torch.tensor([1j]).conj()),
        (np.arange(3), np.arange(3)[::-1]),
        (np.array(["a"]), np.array(["b"])),
        ((1, 2), (2, 1)),
        (1, 1.0),
        (1, True),
        ("1", 1),
        (["ab"], ["a", "b"]),
        ([["a"], "b"], [["a", "b"]]),
        ({"a": 1}, {"b": 1}),
        (Graph(numbers(2), numbers(2)), Graph(numbers(2), -numbers(2))),
        (pack_sequence([numbers(3)]), pack_sequence([numbers(3) + 1])),
        (None, Opaque()),
    ],
)
def test_batches_that_differ_have_digests_that_differ(one: Any, other: Any) -> None:
    assert digests.of_window([one]) != digests.of_window([other])


def test_the_order_of_the_batches_in_a_window_counts() -> None:
    one, other = numbers(3), numbers(3) + 1
    assert digests.of_window([one, other]) != digests.of_window([other, one])


@pytest.mark.parametrize("shape", [(3 << 18,), (3, 1 << 18), (3 << 9, 1 << 9), (1, 3, 1 << 18)])
def test_of_a_large_tensor_the_beginning_counts(shape: tuple[int, ...]) -> None:
    large, changed = torch.zeros(shape), torch.zeros(shape)
    changed.view(-1)[-1] = 1
    assert digests.of_window([large]) == digests.of_window([changed])
    changed.view(-1)[1000] = 1
    assert digests.of_window([large]) != digests.of_window([changed])


DRAWS: dict[str, Callable[[], object]] = {
    "python": random.random,
    "python gauss": lambda: random.gauss(0, 1),
    "numpy": np.random.rand,
    "numpy normal": np.random.randn,
    "torch": lambda: torch.rand(1),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_whoever_draws_changes_the_digest_of_the_generators(draw: Callable[[], object]) -> None:
    before = capture()
    try:
        seed_all(3)
        first = digests.of_generators()
        assert digests.of_generators() == first, "looking changes nothing"
        draw()
        drawn = digests.of_generators()
        assert drawn != first
        draw()
        assert digests.of_generators() not in (first, drawn)
        seed_all(3)
        assert digests.of_generators() == first
    finally:
        restore(before)


def test_a_digest_is_the_same_in_every_process() -> None:
    """They are written down and compared years later: another value here makes all of them worthless."""
    assert digests.of_window([(numbers(4, 3), torch.arange(4)), {"a": [1, "b", None]}]) == "c01847119ccc06e2"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_steps_whose_loss_is_recorded_have_digests(train: Callable[..., Any], accumulate: int) -> None:
    taken = train(log_every=3, accumulate=accumulate).advance(7)
    assert [step.progress.step for step in taken if step.digests is not None] == [3, 6]


def test_digests_are_of_the_batches_and_of_the_generators_after_the_step(train: Callable[..., Any]) -> None:
    training = train(shuffle=False, accumulate=2)
    (step,) = training.advance(1)
    (x, y) = training.batches._source.dataset.tensors
    assert step.digests.batches == digests.of_window([(x[:4], y[:4]), (x[4:8], y[4:8])])
    assert step.digests.generators == digests.of_generators()


def test_another_order_of_the_samples_or_another_draw_in_the_model_shows(train: Callable[..., Any]) -> None:
    def digests_of(**parts: Any) -> list[tuple[str, str]]:
        return [(step.digests.batches, step.digests.generators) for step in train(**parts).advance(3)]

    def with_dropout() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(6, 3))

    def without() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(6, 3))

    plain, dropped = digests_of(model=without), digests_of(model=with_dropout)
    assert digests_of(model=without) == plain
    assert [one for one, _ in plain] == [one for one, _ in dropped]
    assert all(one != other for (_, one), (_, other) in zip(plain, dropped, strict=True))
    reordered = digests_of(model=without, shuffle=False)
    assert all(one != other for (one, _), (other, _) in zip(plain, reordered, strict=True))


def test_a_step_that_was_left_out_tells_what_went_into_it(train: Callable[..., Any]) -> None:
    def poisoned() -> Tensors:
        return Tensors(torch.full((10, 6), float("nan")), torch.zeros(10, dtype=torch.int64))

    (step,) = train(dataset=poisoned, nonfinite="skip").advance(1)
    assert step.skipped and step.digests is not None
