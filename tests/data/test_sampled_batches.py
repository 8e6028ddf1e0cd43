import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from runner.data.batches import make_batches
from runner.data.sampled_batches import SampledBatches
from runner.errors import DataError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchdata.stateful_dataloader import StatefulDataLoader
    from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

SIZE = 10


class Augmenting(Dataset[Any]):
    """Draws from all three generators, and counts its reads."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __getitem__(self, index: int) -> Any:
        self.reads.append(index)
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)

    def __len__(self) -> int:
        return SIZE


class Buckets:
    """Batches of neighbours, in random order: from the generator of Python, or from one of their own."""

    def __init__(self, *, own: bool = False) -> None:
        self.random: Any = random.Random(0) if own else random

    def __iter__(self) -> Iterator[list[int]]:
        starts = [0, 4, 8]
        self.random.shuffle(starts)
        for start in starts:
            yield list(range(start, min(start + 4, SIZE)))

    def __len__(self) -> int:
        return 3


class Remembering(Buckets):
    """Says what its generator is before the next pass."""

    def __init__(self) -> None:
        super().__init__(own=True)

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.random.getstate()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.random.setstate(state["random"])


class Forgetful(Remembering):
    """Says what its generator was before the last pass, so that a pass would come twice."""

    def __iter__(self) -> Iterator[list[int]]:
        self.before = self.random.getstate()
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        return {"random": getattr(self, "before", self.random.getstate())}


class Unsized(Remembering):
    __len__ = None  # type: ignore[assignment]


class Odd(Buckets):
    def __init__(self, told: int) -> None:
        super().__init__()
        self.told = told

    def __len__(self) -> int:
        return self.told


def stateful(**options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return StatefulDataLoader(Augmenting(), **options)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


WEIGHTS = torch.arange(1.0, SIZE + 1)
LOADERS: dict[str, Callable[[], Any]] = {
    "weighted": lambda: DataLoader(Augmenting(), batch_size=4, sampler=WeightedRandomSampler(WEIGHTS, SIZE)),
    "weighted by a generator": lambda: DataLoader(
        Augmenting(), batch_size=4, sampler=WeightedRandomSampler(WEIGHTS, SIZE, generator=seeded())
    ),
    "random by a generator": lambda: DataLoader(
        Augmenting(), batch_size=4, sampler=RandomSampler(range(SIZE), generator=seeded())
    ),
    "a random part": lambda: DataLoader(Augmenting(), batch_size=4, sampler=SubsetRandomSampler(range(9))),
    "shuffled": lambda: DataLoader(Augmenting(), batch_size=4, shuffle=True),
    "buckets": lambda: DataLoader(Augmenting(), batch_sampler=Buckets()),
    "buckets with state": lambda: DataLoader(Augmenting(), batch_sampler=Remembering()),
    "buckets without length": lambda: DataLoader(Augmenting(), batch_sampler=Unsized()),
    "shuffled by torchdata": lambda: stateful(batch_size=4, shuffle=True),
    "torchdata's distributed": lambda: stateful(
        batch_size=4, sampler=StatefulDistributedSampler(Augmenting(), num_replicas=1, rank=0)
    ),
    "buckets by torchdata": lambda: stateful(batch_sampler=Remembering()),
}


def batches_of(loader: Any, *, workers: int = 0, limit: int | None = None, resumable: bool = True) -> SampledBatches:
    batches = make_batches(
        loader, batch_size=1, shuffle=True, drop_last=False, seed=5, workers=workers, limit=limit, resumable=resumable
    )
    assert isinstance(batches, SampledBatches)
    return batches


def equal(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("kind", "limit"),
    # The state of torchdata's own says where a pass was cut off by a limit, and the next begins there.
    [(kind, None) for kind in LOADERS] + [(kind, 2) for kind in LOADERS if kind != "torchdata's distributed"],
)
def test_a_run_goes_on_from_every_batch_with_any_workers(kind: str, limit: int | None, workers: int) -> None:
    torch.manual_seed(0)
    whole, record = batches_of(LOADERS[kind](), limit=limit), []
    for epoch in range(3):
        total = limit or 3
        for number, batch in enumerate(whole.epoch(epoch), start=1):
            # An epoch without a length ends when it is asked for more than there is.
            unsized = whole.num_batches is None
            at = (epoch + 1, 0) if number == total and not unsized else (epoch, number)
            record.append((at, batch, whole.state_dict()))
    assert len(record) == 3 * (limit or 3)
    orders = [[batch[:, 0].tolist() for _, batch, _ in record[start::3]] for start in range(3)]
    assert orders[0] != orders[1] or orders[1] != orders[2]
    for done, ((epoch, start), _, state) in enumerate(record, start=1):
        torch.manual_seed(0)
        resumed = batches_of(LOADERS[kind](), workers=workers, limit=limit)
        torch.rand(7)
        resumed.load_state_dict(state)
        assert str(resumed.state_dict()) == str(state)
        rest = list(resumed.epoch(epoch, start))
        for later in range(epoch + 1, 3):
            rest += list(resumed.epoch(later))
        assert equal(rest[: len(record) - done], [batch for _, batch, _ in record[done:]])
        resumed.close()


def test_what_was_given_out_is_not_read_again() -> None:
    loader = LOADERS["weighted"]()
    list(batches_of(loader).epoch(0, 2))
    assert len(loader.dataset.reads) == 2


def test_reading_leaves_the_generators_as_they_were() -> None:
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    for kind in ("weighted", "buckets", "shuffled"):
        list(batches_of(LOADERS[kind]()).epoch(0))
    assert (random.getstate(), str(np.random.get_state())) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("kind", LOADERS)
def test_every_evaluation_reads_the_same(kind: str) -> None:
    batches = batches_of(LOADERS[kind](), resumable=False)
    first = list(batches.epoch(0))
    assert equal(list(batches.epoch(0)), first)
    next(batches.epoch(0))
    assert equal(list(batches.epoch(0)), first)


@pytest.mark.parametrize(
    ("sampler", "why"),
    [
        (lambda: Buckets(own=True), "it has no state_dict"),
        (Forgetful, "what state_dict gave does not bring it back"),
    ],
)
def test_a_sampler_that_cannot_be_brought_back_is_refused(sampler: Callable[[], Any], why: str) -> None:
    with pytest.raises(DataError) as caught:
        batches_of(DataLoader(Augmenting(), batch_sampler=sampler()))
    assert str(caught.value) == (
        f"the sampler {type(sampler()).__module__}.{type(sampler()).__qualname__} gives other batches when it begins "
        f"again, and {why}: a run could not be resumed exactly; draw from the global generators of random, numpy or "
        "torch, which are seeded for every epoch, or give it `state_dict` and `load_state_dict`"
    )


@pytest.mark.parametrize("told", [2, 4])
def test_a_length_that_is_not_true_is_said(told: int) -> None:
    with pytest.raises(DataError, match=rf"says that it has {told} batches, but it gave 3 in epoch 0; its length must"):
        list(batches_of(DataLoader(Augmenting(), batch_sampler=Odd(told))).epoch(0))


def test_positions_that_cannot_be_gone_to_are_refused() -> None:
    batches = batches_of(LOADERS["buckets with state"]())
    with pytest.raises(DataError, match=r"^batch 4 was asked for in an epoch of 3 batches; the data or the sampler"):
        batches.epoch(0, 4)
    with pytest.raises(DataError, match=r"^batch 1 of epoch 0 was asked for, but the sampler's state was not loaded$"):
        batches.epoch(0, 1)
    with pytest.raises(DataError, match=r"^the saved position is not one of the sampler .*Remembering: it has \['x'\]"):
        batches.load_state_dict({"x": 1})
    with pytest.raises(DataError, match=r"^the saved position is not one of the sampler .*Buckets: it has \['epoch'"):
        batches_of(LOADERS["buckets"]()).load_state_dict(batches.state_dict())


def test_the_loaders_own_workers_and_their_beginning_are_kept() -> None:
    begun: Any = torch.zeros(2).share_memory_()

    def begin(worker: int) -> None:
        begun[worker] = 1

    loader = DataLoader(Augmenting(), batch_sampler=Buckets(), num_workers=2, worker_init_fn=begin)
    batches = batches_of(loader)
    assert len(list(batches.epoch(0))) == len(batches) == 3
    assert begun.tolist() == [1, 1]
    assert loader.dataset.reads == []  # type: ignore[attr-defined]
    batches.close()
