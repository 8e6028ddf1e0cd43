import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from runner.data.batches import make_batches
from runner.data.loader_batches import LoaderBatches
from runner.errors import ConfigError, DataError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchdata.stateful_dataloader import StatefulDataLoader

SIZE = 10


class Stream(IterableDataset[Any]):
    """Counts its passes, and goes through other numbers in each: what must survive a resume."""

    def __init__(self, *, size: int = SIZE) -> None:
        self.size = size
        self.passes = 0
        self.at = 0

    def __iter__(self) -> Iterator[Any]:
        while self.at < self.size:
            self.at += 1
            yield torch.tensor([100 * self.passes + self.at, torch.rand(()).item()])
        self.passes += 1
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"passes": self.passes, "at": self.at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.passes, self.at = state["passes"], state["at"]


class Sized(Stream):
    def __len__(self) -> int:
        return self.size


def stream_batches(
    dataset: Stream, *, workers: int = 0, limit: int | None = None, batch_size: int = 4
) -> LoaderBatches:
    batches = make_batches(
        dataset, batch_size=batch_size, shuffle=False, drop_last=False, seed=5, workers=workers, limit=limit
    )
    assert isinstance(batches, LoaderBatches)
    return batches


def shuffled_batches() -> LoaderBatches:
    # Given to `make_batches`, it would be taken to its parts.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = StatefulDataLoader(list(range(SIZE)), batch_size=4, shuffle=True)
    return LoaderBatches(loader, seed=5)


KINDS: dict[str, Callable[[], LoaderBatches]] = {
    "unknown length": lambda: stream_batches(Stream()),
    "known length": lambda: stream_batches(Sized()),
    "limited": lambda: stream_batches(Stream(), limit=2),
    "shuffled by the loader": shuffled_batches,
    "a worker": lambda: stream_batches(Stream(), workers=1),
}


def run(batches: LoaderBatches, *, epochs: int) -> list[tuple[tuple[int, int], Any, dict[str, Any]]]:
    """Position after, batch, and state, of each batch."""
    record = []
    for epoch in range(epochs):
        for number, batch in enumerate(batches.epoch(epoch), start=1):
            record.append(((epoch, number), batch, batches.state_dict()))
    return record


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_from_every_batch_also_from_the_last_of_an_epoch(kind: str) -> None:
    whole = KINDS[kind]()
    record = run(whole, epochs=3)
    lengths = [sum(epoch == e for (epoch, _), _, _ in record) for e in range(3)]
    # This data set goes on where its last pass was cut off.
    assert lengths == ([2, 1, 2] if kind == "limited" else [3, 3, 3])
    whole.close()
    # A worker's own copy of the data set starts anew in each epoch, and its random numbers are its own.
    columns = slice(0, 1) if kind == "a worker" else slice(None)
    for done, (position, _, state) in enumerate(record, start=1):
        epoch, number = position
        last = number == lengths[epoch]
        # A loop that knows the length goes to the next epoch at once; one that does not asks for the empty rest first.
        for first in [(epoch, number)] if not last or epoch == 2 else [(epoch, number), (epoch + 1, 0)]:
            resumed = KINDS[kind]()
            torch.rand(7)
            resumed.load_state_dict(state)
            rest = list(resumed.epoch(*first))
            for later in range(first[0] + 1, 3):
                rest += list(resumed.epoch(later))
            expected = [batch for _, batch, _ in record[done:]]
            assert len(rest) == len(expected)
            for got, wanted in zip(rest, expected, strict=True):
                assert torch.equal(got[..., columns], wanted[..., columns])
            resumed.close()


def test_the_state_of_stateful_data_loader_on_the_last_batch_still_gives_an_empty_epoch() -> None:
    """The reason for what LoaderBatches does; when this fails, it can go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = (StatefulDataLoader(list(range(4)), batch_size=2) for _ in range(2))
    iterator = iter(first)
    next(iterator)
    next(iterator)
    second.load_state_dict(first.state_dict())
    assert list(second) == []


def test_reading_leaves_torchs_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    run(stream_batches(Stream()), epochs=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_can_be_taken_before_the_first_batch() -> None:
    batches = stream_batches(Stream())
    state = batches.state_dict()
    assert state == {"epoch": 0, "batch": 0, "ended": False, "loader": None, "workers": 0}
    other = stream_batches(Stream())
    other.load_state_dict(state)
    assert len(list(other.epoch(0))) == 3


def test_the_number_of_batches_is_known_where_the_loader_knows_it() -> None:
    assert stream_batches(Stream()).num_batches is None
    assert stream_batches(Sized()).num_batches == 3
    assert stream_batches(Sized(), limit=2).num_batches == 2
    assert stream_batches(Sized(), workers=1).num_batches is None
    assert len(shuffled_batches()) == 3
    with pytest.raises(TypeError, match=r"^the number of batches of this StatefulDataLoader is not known$"):
        len(stream_batches(Stream()))


def test_a_length_that_is_not_true_is_said() -> None:
    class Boasting(Sized):
        def __len__(self) -> int:
            return 100

    with pytest.raises(
        DataError, match=r"^the loader says that it has 25 batches, but it gave 3 in epoch 0; its length must be"
    ):
        list(stream_batches(Boasting()).epoch(0))


def test_positions_that_a_loader_cannot_be_sent_to_are_refused() -> None:
    batches = stream_batches(Stream())
    with pytest.raises(DataError, match=r"^batch 2 of epoch 0 was asked for, but the loader's state was not loaded$"):
        batches.epoch(0, 2)
    next(batches.epoch(0))
    state = batches.state_dict()
    for position in [(0, 2), (1, 1), (0, 0), (1, 0)]:
        other = stream_batches(Stream())
        other.load_state_dict(state)
        with pytest.raises(DataError, match=r"was asked for, but the loader's saved position is batch 1 of epoch 0$"):
            other.epoch(*position)


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(
        DataError,
        match=r"^the saved position has \['x'\]; wanted batch, ended, epoch, loader and workers, for a loader",
    ):
        stream_batches(Stream()).load_state_dict({"x": 1})


def test_a_plain_loader_serves_for_evaluation() -> None:
    class Numbers(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(4))

    batches = make_batches(
        DataLoader(Numbers(), batch_size=2),
        batch_size=2, shuffle=False, drop_last=False, seed=0, resumable=False,
    )  # fmt: skip
    for _ in range(2):
        assert torch.equal(torch.cat(list(batches.epoch(0))), torch.arange(4))
    assert batches.state_dict() == {}


def test_torchdata_is_asked_for_where_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    # None is how Python itself marks a module that cannot be imported.
    monkeypatch.setitem(sys.modules, "torchdata.stateful_dataloader", None)
    with pytest.raises(
        ConfigError,
        match=r"(?s)^the data set Stream is iterable.*cannot be imported.*pip install 'runner\[iterable\]'$",
    ):
        stream_batches(Stream())


def test_another_number_of_workers_is_refused_because_each_reads_a_share_of_its_own() -> None:
    batches = stream_batches(Stream())
    next(batches.epoch(0))
    other = stream_batches(Stream(), workers=1)
    with pytest.raises(DataError) as caught:
        other.load_state_dict(batches.state_dict())
    assert str(caught.value) == (
        f"the position in {Stream.__module__}.Stream was saved with 0 workers, now there are 1: each reads a share of "
        "its own; resume with runtime.workers=0"
    )


def test_what_workers_draw_is_said_not_to_be_restored() -> None:
    class Quiet(Stream):
        draws_randomness = False

    assert stream_batches(Stream(), workers=1).notes == (
        f"{Stream.__module__}.Stream: random numbers that it draws in its 1 workers are not restored by a resume; use "
        "runtime.workers=0, or, if it draws none, say so with its attribute draws_randomness = False",
    )
    assert stream_batches(Stream()).notes == stream_batches(Quiet(), workers=1).notes == ()
