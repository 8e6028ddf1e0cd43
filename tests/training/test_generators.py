import json
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from runner.checkpoint.tree import flatten, unflatten
from runner.training.generators import capture, restore, seed_all, untouched


def draw() -> tuple[float, float, float, float, float]:
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.standard_normal(),
        float(torch.rand(())),
        float(torch.randn(())),
    )


def test_a_seed_decides_what_every_generator_gives() -> None:
    with untouched():
        seed_all(5)
        first = draw()
        seed_all(5)
        assert draw() == first
        seed_all(2**32 - 1)
        assert draw() != first


@pytest.mark.parametrize("before", [lambda: None, draw, lambda: [draw() for _ in range(700)]])
def test_captured_generators_go_on_as_they_were_also_through_a_file(before: Callable[[], object]) -> None:
    with untouched():
        seed_all(1)
        before()
        value, tensors = flatten(capture())
        expected = [draw(), draw()]
        seed_all(9)
        assert restore(unflatten(json.loads(json.dumps(value)), tensors)) == []
        assert [draw(), draw()] == expected


def test_what_is_drawn_inside_leaves_no_mark_even_after_an_error() -> None:
    states = flatten(capture())
    with pytest.raises(KeyError), untouched():
        draw()
        seed_all(4)
        raise KeyError("an error")
    after = flatten(capture())
    assert after[0] == states[0]
    assert all(torch.equal(after[1][name], states[1][name]) for name in states[1])


def test_generators_that_this_machine_lacks_are_named() -> None:
    count = torch.cuda.device_count() + 1
    states = capture() | {"cuda": [torch.zeros(16, dtype=torch.uint8)] * count}
    missing = [f"the generators of {count} CUDA devices: this machine has {count - 1}"]
    if not torch.backends.mps.is_available():
        states |= {"mps": torch.zeros(16, dtype=torch.uint8)}
        missing.append("the generator of the MPS device: this machine has none")
    assert restore(states) == missing
