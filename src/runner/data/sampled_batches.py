"""Batches of a map-style dataset in an order of the user's own: that of the sampler in a loader that he gives.

Of a torch DataLoader, or torchdata's, only the parts are used: dataset, batch sampler, collate function, workers. So
random augmentation is seeded for each batch, and a position is a number of batches, as everywhere else.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from itertools import chain, islice
from typing import Any

from torch import Generator
from torch.utils.data import DataLoader, IterableDataset, default_collate
from torch.utils.data._utils import pin_memory as pinning

from runner.data.fetch import Generators, Source, seed_from
from runner.data.workers import Task, Workers
from runner.errors import DataError

CHECKED = 10_000
"""Batches after which an epoch counts as over when a sampler is tried."""
AHEAD = 64
"""Batches of which the indices are drawn at once: putting generators in place and back costs 50 microseconds."""


def has_sampler(split: Any) -> bool:
    """Whether `split` is a loader whose batches can be made from its parts."""
    if not isinstance(split, DataLoader) or isinstance(split.dataset, IterableDataset) or split.batch_sampler is None:
        return False
    # One that iterates in a way of its own gives other batches than its parts would.
    return type(split) is DataLoader or type(split).__module__.partition(".")[0] == "torchdata"


class SampledBatches:
    """The same interface as `Batches`, in the order of a loader's batch sampler.

    What a sampler draws from the global generators is seeded by (seed, epoch). What it remembers from one epoch to the
    next, in `state_dict` or in a torch Generator, is kept as it was when the epoch began: a resume passes over the
    indices of the batches that were given out, and reads none of them. An evaluation (`resumable=False`) begins with
    the same memory every time.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        *,
        seed: int,
        workers: int = 0,
        pin_memory: bool = False,
        limit: int | None = None,
        resumable: bool = True,
    ) -> None:
        """Raises DataError if the sampler remembers something that cannot be saved."""
        collate: Callable[..., Any] | None = None if loader.collate_fn is default_collate else loader.collate_fn
        self._source = Source(loader.dataset, collate, seed=seed, rank=0)
        self._order = _Order(loader.batch_sampler, seed, limit)
        self._order.check_repeats()
        self._always = None if resumable else self._order.state()
        self._pin_memory = pin_memory or loader.pin_memory
        count = loader.num_workers or workers
        self._workers = (
            Workers(self._source, workers=count, pin_memory=self._pin_memory, like=loader) if count else None
        )
        self._began: dict[str, Any] | None = None
        """Which epoch is being read, and what the sampler remembered when it began; None between two epochs."""
        self._next_epoch = 0

    @property
    def num_batches(self) -> int | None:
        """Batches an epoch; None where only reading can tell."""
        return self._order.num_batches

    def __len__(self) -> int:
        if (length := self.num_batches) is None:
            raise TypeError(f"the number of batches of {self._order.name} is not known")
        return length

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Batches `start`, `start` + 1, ... of that epoch. Only one epoch at a time can be read.

        Raises DataError for a position in the middle whose memory was not brought back by `load_state_dict`.
        """
        if not 0 <= start <= (start if self.num_batches is None else self.num_batches):
            raise DataError(
                f"batch {start} was asked for in an epoch of {self.num_batches} batches; the data or the sampler are "
                "not those with which this position was saved"
            )
        known = self._began is not None and self._began["epoch"] == epoch
        if start and self._order.remembers and not known:
            raise DataError(f"batch {start} of epoch {epoch} was asked for, but the sampler's state was not loaded")
        memory = self._always
        if memory is None:
            memory = self._began["sampler"] if known and self._began is not None else self._order.state()
        # Loaded also where it is there already, so that an epoch begins in one way, resumed or not.
        self._order.load(memory)
        self._began = {"epoch": epoch, "sampler": memory}
        tasks = self._order.tasks(epoch, start)
        fetched = self._fetch(tasks) if self._workers is None else self._workers.batches(tasks)
        return self._counted(fetched, epoch, start)

    def state_dict(self) -> dict[str, Any]:
        """What the sampler remembered when the epoch began that is to be gone on with; {} if it remembers nothing."""
        if not self._order.remembers:
            return {}
        return deepcopy(self._began) or {"epoch": self._next_epoch, "sampler": self._order.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave. Raises DataError if it is not that."""
        wanted = {"epoch", "sampler"} if self._order.remembers else set()
        if set(state) != wanted or (wanted and state["sampler"].keys() != self._order.state().keys()):
            raise DataError(
                f"the saved position is not one of {self._order.name}: it has {sorted(state)}; resume with the data of "
                "the saved run"
            )
        self._began = deepcopy(dict(state)) or None

    def close(self) -> None:
        """Ends the worker processes, if any."""
        if self._workers is not None:
            self._workers.close()

    def _fetch(self, tasks: Iterator[Task]) -> Iterator[Any]:
        for task in tasks:
            batch = self._source.batch(*task)
            yield pinning.pin_memory(batch) if self._pin_memory else batch  # type: ignore[no-untyped-call]

    def _counted(self, batches: Iterator[Any], epoch: int, start: int) -> Iterator[Any]:
        """Notes when the epoch is over: from then on the sampler's memory is that of the next one."""
        given = start
        for batch in batches:
            given += 1
            if given == self.num_batches:
                self._end(epoch)
            yield batch
        self._end(epoch)

    def _end(self, epoch: int) -> None:
        if self._began is not None and self._began["epoch"] == epoch:
            self._began, self._next_epoch = None, epoch + 1


class _Order:
    """The indices of a batch sampler, and what it remembers."""

    def __init__(self, sampler: Any, seed: int, limit: int | None) -> None:
        self.sampler, self.seed, self.limit = sampler, seed, limit
        inner = getattr(sampler, "sampler", None)
        self.samplers = {"batch_sampler": sampler} | ({} if inner is None else {"sampler": inner})
        self.loaded = False
        """A state was loaded since the last pass."""

    @property
    def name(self) -> str:
        """The sampler that decides, by its class."""
        chosen = self.samplers.get("sampler", self.sampler)
        return f"the sampler {type(chosen).__module__}.{type(chosen).__qualname__}"

    @property
    def num_batches(self) -> int | None:
        try:
            length = len(self.sampler)
        except (TypeError, NotImplementedError):
            return None
        return length if self.limit is None else min(length, self.limit)

    @property
    def remembers(self) -> bool:
        return any(_has_state(part) or _generator(part) is not None for part in self.samplers.values())

    def state(self) -> dict[str, Any]:
        """What the samplers remember now."""
        state: dict[str, Any] = {}
        for name, part in self.samplers.items():
            if _has_state(part):
                state[name] = deepcopy(part.state_dict())
            elif (generator := _generator(part)) is not None:
                state[name] = generator.get_state()
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        for name, part in self.samplers.items():
            if _has_state(part):
                part.load_state_dict(deepcopy(state[name]))
            elif (generator := _generator(part)) is not None:
                generator.set_state(state[name])
        self.loaded = True

    def tasks(self, epoch: int, start: int) -> Iterator[Task]:
        """Which indices make which batch, from batch `start` of the epoch on."""
        number, told = start, self.num_batches
        for indices in self._drawn(epoch, start):
            if told is None or number < told:
                yield epoch, number, indices
            number += 1
        if told is not None and number != told:
            raise DataError(
                f"{self.name} says that it has {told} batches, but it gave {number} in epoch {epoch}; its length must "
                "be right, or not be told"
            )

    def check_repeats(self) -> None:
        """Raises DataError if passes that begin with the same generators and the same memory are not the same."""
        before = self.state()
        self._check_repeats_from(before, epoch=0)
        self.load(before)
        if self.remembers:
            generators, batches = self._begun(0)
            with generators:
                deque(islice(batches, CHECKED), maxlen=0)
            self._check_repeats_from(self.state(), epoch=1)
            self.load(before)

    def _check_repeats_from(self, state: Mapping[str, Any], *, epoch: int) -> None:
        """`state` is that of the sampler now."""
        heads = []
        for _ in range(2):
            generators, batches = self._begun(epoch)
            with generators:
                heads.append(str(list(islice(batches, AHEAD))))
            self.load(state)
        if heads[0] != heads[1]:
            why = "what state_dict gave does not bring it back" if self.remembers else "it has no state_dict"
            raise DataError(
                f"{self.name} gives other batches when it begins again, and {why}: a run could not be resumed exactly; "
                "draw from the global generators of random, numpy or torch, which are seeded for every epoch, or give "
                "it `state_dict` and `load_state_dict`"
            )

    def _drawn(self, epoch: int, start: int) -> Iterator[list[Any]]:
        """The indices of each batch; the sampler has come to its end before the last of them is given."""
        generators, batches = self._begun(epoch)
        batches = islice(batches, self.limit)
        with generators:
            drawn = list(islice(batches, start, start + AHEAD))
        while drawn:
            with generators:
                following = list(islice(batches, AHEAD))
            yield from drawn
            drawn = following

    def _begun(self, epoch: int) -> tuple[Generators, Iterator[list[Any]]]:
        """A pass over the batches of the epoch, and the generators from which it draws."""
        while True:
            generators = Generators(seed_from("order", self.seed, epoch))
            with generators:
                batches = self._pass(epoch)
                first = list(islice(batches, 1))
            after_load, self.loaded = self.loaded, False
            if first or not after_load:
                return generators, chain(first, batches)
            # After a pass, the state of some says that nothing is left, as torchdata's StatefulDistributedSampler's.

    def _pass(self, epoch: int) -> Iterator[list[Any]]:
        for part in self.samplers.values():
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        return map(list, iter(self.sampler))


def _has_state(part: Any) -> bool:
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def _generator(part: Any) -> Generator | None:
    """The generator that torch's own samplers may be given."""
    generator = getattr(part, "generator", None)
    return generator if isinstance(generator, Generator) else None
