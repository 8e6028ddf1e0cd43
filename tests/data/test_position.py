"""A position in an epoch, when its batches are cut in another way than when it was saved."""

from dataclasses import asdict, replace

import pytest
import torch

from runner.data.batches import Batches
from runner.data.position import Cut, converted, cut_of
from runner.data.tensors import Tensors

THEN = Cut(samples=100, batch_size=10, batches=10, shuffle=True, seed=0)


def finer(batch_size: int, **changes: int) -> Cut:
    return replace(THEN, batch_size=batch_size, batches=-(-100 // batch_size), **changes)


SHRUNK = "the unfinished epoch: it has 3 batches now, and they are done; the next one begins"
OTHER_ORDER = "so that it goes on in another order; some samples come twice in it, others not at all"


@pytest.mark.parametrize(
    ("done", "now", "position", "notes"),
    [
        (0, finer(7), 0, []),
        (4, THEN, 4, []),
        (4, finer(20), 2, ["the position: batch 4 of 10 samples is batch 2 of 20"]),
        (4, finer(5), 8, ["the position: batch 4 of 10 samples is batch 8 of 5"]),
        (
            5,
            finer(20),
            2,
            ["the position: batch 5 of 10 samples is batch 2 of 20; samples that are trained on again: 10"],
        ),
        (
            1,
            finer(32),
            0,
            ["the position: batch 1 of 10 samples is batch 0 of 32; samples that are trained on again: 10"],
        ),
        (
            9,
            finer(64),
            1,
            ["the position: batch 9 of 10 samples is batch 1 of 64; samples that are trained on again: 26"],
        ),
        (5, replace(THEN, batches=3), 3, [SHRUNK]),
        (3, replace(THEN, batches=3), 3, [SHRUNK]),
        (2, replace(THEN, batches=3), 2, ["the unfinished epoch: it ends after 30 samples now, not after 100"]),
        (2, replace(THEN, seed=1), 2, [f"the unfinished epoch: the seed is another, {OTHER_ORDER}"]),
        (2, replace(THEN, shuffle=False), 2, [f"the unfinished epoch: data.shuffle is false now, {OTHER_ORDER}"]),
        (
            2,
            replace(THEN, samples=120, batches=12),
            2,
            [f"the unfinished epoch: the data have 120 samples, and had 100, {OTHER_ORDER}"],
        ),
        (
            5,
            replace(THEN, samples=30, batches=3),
            3,
            [f"the unfinished epoch: the data have 30 samples, and had 100, {OTHER_ORDER}", SHRUNK],
        ),
    ],
)
def test_where_an_epoch_goes_on(done: int, now: Cut, position: int, notes: list[str]) -> None:
    assert converted(done, THEN, now) == (position, notes)


def test_in_a_fixed_order_more_samples_change_nothing_of_what_was_done() -> None:
    fixed = replace(THEN, shuffle=False)
    assert converted(2, fixed, replace(fixed, seed=1)) == (2, [])
    assert converted(2, fixed, replace(fixed, samples=120, batches=12)) == (
        2,
        ["the unfinished epoch: the data have 120 samples, and had 100"],
    )


@pytest.mark.parametrize("limit", [None, 4])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("sizes", [(2, 4), (4, 2), (3, 5), (5, 3), (4, 4), (1, 7), (7, 1)])
def test_no_sample_is_left_out_and_as_many_as_said_come_again(
    sizes: tuple[int, int], drop_last: bool, limit: int | None
) -> None:
    def batches(size: int) -> Batches:
        data = Tensors(torch.arange(23))
        return Batches(data, batch_size=size, shuffle=True, drop_last=drop_last, seed=3, limit=limit)

    then, now = (batches(size) for size in sizes)
    for done in range(len(then)):
        seen = [int(i) for (batch,) in list(then.epoch(2))[:done] for i in batch]
        position, notes = converted(done, then.cut, now.cut)
        rest = [int(i) for (batch,) in now.epoch(2, position) for i in batch]
        again = set(seen) & set(rest)
        said = f"samples that are trained on again: {len(again)}"
        assert (said in " ".join(notes)) == bool(again)
        whole = [int(i) for (batch,) in now.epoch(2) for i in batch]
        assert set(whole) <= set(seen) | set(rest)


def test_a_cut_is_read_back_from_what_a_checkpoint_says() -> None:
    assert cut_of(asdict(THEN)) == THEN
    assert cut_of(None) is None
    assert cut_of({"samples": 3}) is None
