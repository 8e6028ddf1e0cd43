"""Where in an epoch a training goes on, if its batches are cut in another way than when the position was saved."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Cut:
    """How an epoch of a map-style data set is cut into batches."""

    samples: int
    batch_size: int
    batches: int
    shuffle: bool
    seed: int
    """Which order a shuffled epoch has follows from it, from the epoch and from the number of samples."""

    @property
    def read(self) -> int:
        """Samples in all batches of an epoch; `drop_last` or a limit leave some out."""
        return min(self.batches * self.batch_size, self.samples)


def cut_of(saved: Mapping[str, Any] | None) -> Cut | None:
    """A cut from its fields; None where they are not known."""
    names = [field.name for field in fields(Cut)]
    return None if saved is None or set(saved) != set(names) else Cut(*(saved[name] for name in names))


def converted(done: int, then: Cut, now: Cut) -> tuple[int, list[str]]:
    """The position of an epoch of which `done` batches were consumed, and a line for each thing to know about it.

    Where the batches are of another size, it is rounded down to a whole one: no sample is left out.
    """
    if not done or then == now:
        return done, []
    samples = done * then.batch_size
    batch, again = divmod(samples, now.batch_size)
    notes = []
    if now.batch_size != then.batch_size:
        line = f"the position: batch {done} of {then.batch_size} samples is batch {batch} of {now.batch_size}"
        notes.append(line + (f"; samples that are trained on again: {again}" if again else ""))
    causes = [
        text
        for text, differs in (
            (f"the data have {now.samples} samples, and had {then.samples}", now.samples != then.samples),
            (f"data.shuffle is {str(now.shuffle).lower()} now", now.shuffle != then.shuffle),
            ("the seed is another", now.seed != then.seed and now.shuffle),
        )
        if differs
    ]
    if causes and (now.shuffle or then.shuffle):
        notes.append(
            f"the unfinished epoch: {' and '.join(causes)}, so that it goes on in another order; "
            "some samples come twice in it, others not at all"
        )
    elif causes:
        notes.append(f"the unfinished epoch: {' and '.join(causes)}")
    if batch > now.batches or (batch == now.batches and again < now.batch_size):
        batch = now.batches
        notes.append(f"the unfinished epoch: it has {now.batches} batches now, and they are done; the next one begins")
    elif now.read != then.read and now.samples == then.samples:
        notes.append(f"the unfinished epoch: it ends after {now.read} samples now, not after {then.read}")
    return batch, notes
