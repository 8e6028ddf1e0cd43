import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from runner.data.batches import Batches, make_batches
from runner.data.loader_batches import LoaderBatches
from runner.data.sampled_batches import SampledBatches
from runner.data.tensors import Tensors
from runner.errors import ConfigError, DataError
from runner.records import World


class Augmenting(Dataset[Any]):
    """Draws from all three generators, and counts its reads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reads: list[int] = []

    def __getitem__(self, index: int) -> Any:
        self.reads.append(index)
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)

    def __len__(self) -> int:
        return self.size


class Failing(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        raise KeyError(f"no sample {index}")

    def __len__(self) -> int:
        return 8


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


def make(dataset: Any, **changes: Any) -> Batches:
    options: dict[str, Any] = {"batch_size": 4, "shuffle": True, "drop_last": False, "seed": 3} | changes
    return Batches(dataset, **options)


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_the_same_for_any_workers_start_and_state_of_the_generators(workers: int) -> None:
    expected = {epoch: list(make(Augmenting(18)).epoch(epoch)) for epoch in range(2)}
    assert [len(batch) for batch in expected[0]] == [4, 4, 4, 4, 2]
    assert not equal(expected[0], expected[1])
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    batches = make(Augmenting(18), workers=workers)
    for epoch in (0, 1, 0):
        for start in (0, 1, 4, 5):
            assert equal(list(batches.epoch(epoch, start)), expected[epoch][start:])
    batches.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_batches_leaves_the_generators_as_they_were(workers: int) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    batches = make(Augmenting(8), workers=workers)
    list(batches.epoch(0))
    list(batches.epoch(1))
    batches.close()
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_an_epoch_gives_every_sample_once_in_an_order_of_its_own() -> None:
    batches = make(Tensors(torch.arange(10)))
    orders = [[int(i) for (batch,) in batches.epoch(epoch) for i in batch] for epoch in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    in_order = make(Tensors(torch.arange(10)), shuffle=False)
    assert [int(i) for (batch,) in in_order.epoch(2) for i in batch] == list(range(10))
    other_seed = make(Tensors(torch.arange(10)), seed=4)
    assert [int(i) for (batch,) in other_seed.epoch(0) for i in batch] != orders[0]


def test_going_on_in_the_middle_reads_nothing_of_what_is_skipped() -> None:
    dataset = Augmenting(1000)
    batches = make(dataset)
    next(batches.epoch(5, 200))
    assert len(dataset.reads) == 4
    dataset.reads.clear()
    assert list(batches.epoch(5, 250)) == []
    assert dataset.reads == []


@pytest.mark.parametrize(
    ("size", "drop_last", "limit", "expected"),
    [
        (8, False, None, [4, 4]),
        (9, False, None, [4, 4, 1]),
        (9, True, None, [4, 4]),
        (3, False, None, [3]),
        (9, False, 1, [4]),
        (9, False, 9, [4, 4, 1]),
    ],
)
def test_number_and_sizes_of_batches(size: int, drop_last: bool, limit: int | None, expected: list[int]) -> None:
    batches = make(Tensors(torch.arange(size)), drop_last=drop_last, limit=limit)
    assert [len(batch) for (batch,) in batches.epoch(0)] == expected
    assert len(batches) == batches.num_batches == len(expected)
    assert batches.dataset_size == size


@pytest.mark.parametrize("size", [16, 19])
def test_the_shares_of_two_ranks_are_disjoint_and_complete_in_every_batch(size: int) -> None:
    whole = [batch for (batch,) in make(Tensors(torch.arange(size))).epoch(1)]
    shares = [
        [batch for (batch,) in make(Tensors(torch.arange(size)), world=World(rank, 2)).epoch(1)] for rank in range(2)
    ]
    assert len(whole) == len(shares[0]) == len(shares[1])
    for batch, first, second in zip(whole, *shares, strict=True):
        assert torch.equal(batch[0::2], first)
        assert torch.equal(batch[1::2], second)


def test_ranks_augment_differently() -> None:
    first, second = (list(make(Augmenting(16), world=World(rank, 2)).epoch(0)) for rank in range(2))
    assert not torch.equal(first[0][:, 1:], second[0][:, 1:])


GLOO = """
import sys, torch, torch.distributed as dist
from runner.data.batches import Batches
from runner.data.tensors import Tensors
from runner.records import World
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
world = World(dist.get_rank(), dist.get_world_size())
batches = Batches(Tensors(torch.arange(22)), batch_size=8, shuffle=True, drop_last=False, seed=0, world=world)
seen = []
for (share,) in batches.epoch(3):
    shares = [torch.empty_like(share) for _ in range(2)]
    dist.all_gather(shares, share)
    seen += torch.stack(shares, dim=1).flatten().tolist()
alone = Batches(Tensors(torch.arange(22)), batch_size=8, shuffle=True, drop_last=False, seed=0)
assert seen == [int(i) for (batch,) in alone.epoch(3) for i in batch], seen
assert sorted(seen) == list(range(22))
dist.destroy_process_group()
"""


def test_two_processes_together_read_the_global_batches(tmp_path: Any) -> None:
    command = [sys.executable, "-c", GLOO]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path / "meet")]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]


def test_an_abandoned_epoch_does_not_disturb_the_next() -> None:
    expected = list(make(Augmenting(40)).epoch(1))
    batches = make(Augmenting(40), workers=2)
    abandoned = batches.epoch(0)
    next(abandoned)
    assert equal(list(batches.epoch(1)), expected)
    with pytest.raises(RuntimeError, match=r"^an epoch was read further after another had begun on the same batches"):
        next(abandoned)
    batches.close()


def test_an_error_of_the_dataset_reaches_the_reader() -> None:
    for workers in (0, 1):
        batches = make(Failing(), shuffle=False, workers=workers)
        with pytest.raises(KeyError, match="no sample 0"):
            next(batches.epoch(0))
        batches.close()


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        (0, {}, r"^the data set runner.data.tensors.Tensors is empty; a data set needs at least one sample$"),
        (
            3,
            {"drop_last": True},
            r"has 3 samples, less than one batch of 4, and drop_last is true, so that nothing is left",
        ),
        (
            9,
            {"world": World(0, 2)},
            r"the last batch has 1 samples for 2 processes; set data.drop_last=true or another",
        ),
    ],
)
def test_data_that_give_no_batch_are_refused(size: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(Tensors(torch.arange(size)), **changes)


def test_all_numbers_that_cannot_be_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make(Tensors(torch.arange(3)), batch_size=0, workers=-1, limit=0, world=World(2, 2))
    assert caught.value.problems == (
        "data.batch_size is 0; wanted at least 1",
        "runtime.workers is -1; wanted 0 or more",
        "the limit of batches an epoch is 0; wanted at least 1, or null for none",
        "the rank is 2 in a world of 2; wanted 0 to 1",
    )
    with pytest.raises(
        ConfigError, match=r"^data.batch_size is 1 for 2 processes; wanted at least one sample for each$"
    ):
        make(Tensors(torch.arange(3)), batch_size=1, world=World(0, 2))


def test_a_position_outside_the_epoch_is_refused() -> None:
    for start in (-1, 4):
        with pytest.raises(
            DataError, match=rf"^batch {start} was asked for in an epoch of 3 batches; the data, the batch size"
        ):
            make(Tensors(torch.arange(10))).epoch(0, start)


def test_a_position_needs_no_state() -> None:
    batches = make(Tensors(torch.arange(10)))
    assert batches.state_dict() == {}
    batches.load_state_dict({})
    with pytest.raises(DataError, match=r"^the saved position is that of a loader, but the data are now a map-style"):
        batches.load_state_dict({"epoch": 1})


def test_the_kind_of_batches_follows_from_the_data() -> None:
    options: dict[str, Any] = {"batch_size": 2, "shuffle": False, "drop_last": False, "seed": 0}
    assert isinstance(make_batches(Tensors(torch.arange(4)), **options), Batches)
    assert isinstance(make_batches([1, 2, 3], **options), Batches)
    assert isinstance(make_batches(Stream(), **options), LoaderBatches)
    assert isinstance(make_batches(DataLoader([1, 2, 3]), **options), SampledBatches)  # type: ignore[arg-type]
    plain = make_batches(DataLoader(Stream()), **options, resumable=False)
    assert isinstance(plain, LoaderBatches)
    with pytest.raises(
        DataError, match=r"^data.train is a DataLoader without `state_dict` and `load_state_dict`, so that a "
    ):
        make_batches(DataLoader(Stream()), **options)
    with pytest.raises(
        DataError, match=r"^the data set builtins.int is neither a data set nor a loader; wanted `__getitem__`"
    ):
        make_batches(3, **options)
    with pytest.raises(ConfigError, match=r"Stream is iterable and has an order of its own; set data.shuffle=false$"):
        make_batches(Stream(), **(options | {"shuffle": True}))
    with pytest.raises(
        ConfigError, match=r"Stream: iterable data cannot be shared out to 2 processes; use a map-style"
    ):
        make_batches(Stream(), **options, world=World(0, 2))


def test_the_first_batches_of_a_long_epoch_come_at_once() -> None:
    batches = make(range(10**6), batch_size=2, collate=list)
    assert len(list(islice(batches.epoch(0, 3), 4))) == 4


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
@pytest.mark.parametrize("dataset", [Tensors, TensorDataset])
def test_rows_gathered_for_several_batches_are_those_gathered_one_by_one(rows: int, dataset: type) -> None:
    x, y = torch.arange(rows * 32.0).reshape(rows, 32), torch.arange(rows)
    ahead = Batches(dataset(x, y), batch_size=8, shuffle=True, drop_last=False, seed=3)
    # 17 bytes a sample: such batches would not begin at an aligned address, so each is gathered by itself.
    single = Batches(dataset(x, y, x[:, :1].to(torch.uint8)), batch_size=8, shuffle=True, drop_last=False, seed=3)
    for start in {0, 1, ahead.num_batches - 1} & set(range(ahead.num_batches)):
        together, alone = list(ahead.epoch(1, start)), list(single.epoch(1, start))
        assert len(together) == len(alone) == ahead.num_batches - start
        for ours, theirs in zip(together, alone, strict=True):
            assert type(ours) is (tuple if dataset is Tensors else list)
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
            assert ours[0].data_ptr() % 64 == 0
