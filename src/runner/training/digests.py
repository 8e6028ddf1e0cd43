"""Short digests of what goes into a step and of what it leaves, so that a step that is taken again can be compared.

They are recorded where the loss is. Equal digests stand for equal bytes.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from runner.training import generators

_PLAIN = (str, int, float, complex, np.generic, type(None))
MOST_BYTES = 1 << 20
"""Of each tensor of a batch. Other samples, another order or another augmentation show in its beginning already."""


def of_window(window: Sequence[Any]) -> str:
    """The digest of the contents of batches, in their order; of each tensor the first MOST_BYTES."""
    return _digest(window)


def of_generators() -> str:
    """The digest of the states of all the process's random generators."""
    states = generators.capture()
    version, words, gauss = states["python"]
    # At once: one by one, 625 numbers would take longer than all the rest.
    return _digest({**states, "python": (version, array("L", words).tobytes(), gauss)})


def _digest(value: Any) -> str:
    digest = xxhash.xxh3_64()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: xxhash.xxh3_64, value: Any) -> None:
    """Take in every tensor and plain value in `value`, and what each is. Of anything else only what it is."""
    kind = type(value)
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)};".encode())
        if value.layout is torch.strided and not value.is_meta and not value.is_nested:
            part = _beginning(value.detach()).cpu().resolve_conj().resolve_neg().contiguous()
            digest.update(part.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest.update(f"{value.dtype} {value.shape};".encode())
        digest.update(_beginning(value).tobytes())
    elif isinstance(value, bytes):
        digest.update(b"bytes %d;" % len(value))
        digest.update(value)
    elif isinstance(value, _PLAIN):
        digest.update(f"{kind.__name__} {value!r};".encode("utf-8", "surrogatepass"))
    elif isinstance(value, Mapping):
        digest.update(b"mapping %d;" % len(value))
        for key, item in value.items():
            _feed(digest, key)
            _feed(digest, item)
    elif isinstance(value, list | tuple):
        digest.update(b"sequence %d;" % len(value))
        for item in value:
            _feed(digest, item)
    elif is_dataclass(kind):
        _feed(digest, {field.name: getattr(value, field.name) for field in fields(kind)})
    else:
        # Not what it prints, which may name an address: another one in every process.
        digest.update(f"{kind.__module__}.{kind.__qualname__};".encode())


def _beginning(values: Any) -> Any:
    """The first MOST_BYTES of a tensor or an array, by whole rows where it has rows: only these are copied."""
    while values.nbytes > MOST_BYTES:
        row = values[0].nbytes
        values = values[0] if row > MOST_BYTES else values[: MOST_BYTES // row]
    return values
