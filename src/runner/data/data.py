"""What a `data` node of a config builds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Data:
    """The splits of a data set.

    A split is a map-style dataset (`__getitem__` and `__len__`), an `IterableDataset`, a DataLoader of a map-style
    dataset (for a sampler of its own), or any other loader with `state_dict` and `load_state_dict`. `validation` and
    `test` may be any loader: nothing is resumed in the middle of them.
    """

    train: Any
    validation: Any = None
    test: Any = None
    collate: Callable[[Sequence[Any]], Any] | None = None
    """Makes a batch of a list of samples; None means torch's `default_collate`. Loaders collate for themselves."""
    fingerprint: str | None = None
    """Changes when the data change, so that a resume on other data is noticed. None: nothing is known."""
