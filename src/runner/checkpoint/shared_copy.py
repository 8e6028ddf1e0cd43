"""Memory copied by two threads together: one core alone does not use what the memory can give.

The pieces are handed out one after the other to whoever is free, so a thread that gets no core only means that the
other copies more. Each piece is one call of `memmove` without the interpreter lock: torch's own copy would start its
threads beside those of the training.
"""

import ctypes
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from torch import Tensor

FROM_BYTES = 1024 * 1024
"""What is smaller than this in all is copied before another thread has woken up."""
PIECE_BYTES = 512 * 1024
"""Small enough that nobody waits long for the last piece, large enough that handing it out costs nothing."""

Beside = Callable[[Callable[[], None]], "Future[None]"]
"""Lets another thread carry something out."""


def can_share(source: Tensor) -> bool:
    """Whether a tensor's bytes lie in the host's memory one after the other, as they will stand in a file."""
    return source.is_cpu and source.is_contiguous() and not source.is_conj() and not source.is_neg()


def copy_together(pairs: Iterable[tuple[Tensor, Tensor]], beside: Beside | None) -> None:
    """Copy each (target, source) of the same number of bytes, both as `can_share` wants them."""
    # A list's iterator gives each piece to one thread only; a generator cannot be asked by two.
    pieces = list(_pieces(pairs))
    handed_out = iter(pieces)

    def work() -> None:
        for target, source, begin, size in handed_out:
            ctypes.memmove(target.data_ptr() + begin, source.data_ptr() + begin, size)

    other = beside(work) if beside is not None and sum(size for *_, size in pieces) >= FROM_BYTES else None
    work()
    if other is not None:
        other.result()


def _pieces(pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor, int, int]]:
    # The tensors themselves, not their addresses: they must live as long as somebody copies.
    for target, source in pairs:
        size = source.nbytes
        if target.nbytes != size:
            raise ValueError(f"{size} bytes to copy into a place of {target.nbytes}")
        for begin in range(0, size, PIECE_BYTES):
            yield target, source, begin, min(PIECE_BYTES, size - begin)
