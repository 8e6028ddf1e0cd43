"""Chunks of a file read and verified by several threads: reading, hashing and touching new memory hold no lock."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TypeVar

from runner.checkpoint.files import Member

T = TypeVar("T")

ALONE_BELOW_BYTES = 16 * 1024 * 1024
"""Less than this is read before threads have started."""
MOST_THREADS = 4
"""More do not read faster from one disk."""


def read_chunks(member: Member, indices: Sequence[int], read: Callable[[int, memoryview], T]) -> list[T]:
    """What `read` gives for each of these chunks, in their order; also given is memory for a chunk, to scribble on.

    `read` is called by several threads at once, for different chunks. Raises what one of them raised.
    """
    size = min(member.record.chunk_bytes, member.record.size)
    threads = min(MOST_THREADS, _cores()) if len(indices) * size >= ALONE_BELOW_BYTES else 1
    spare: SimpleQueue[bytearray] = SimpleQueue()

    def one(index: int) -> T:
        try:
            scratch = spare.get_nowait()
        except Empty:
            scratch = bytearray(size)
        try:
            begin, end = member.extent(index)
            return read(index, memoryview(scratch)[: end - begin])
        finally:
            spare.put(scratch)

    if threads == 1:
        return [one(index) for index in indices]
    with ThreadPoolExecutor(threads, "checkpoint reader") as pool:
        try:
            results = pool.map(one, indices)
        except RuntimeError:
            # A process that is ending starts no more threads, and may still be writing its last checkpoint.
            return [one(index) for index in indices]
        return list(results)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
