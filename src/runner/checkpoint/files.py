"""One file of a checkpoint: what was recorded about it, and reading it with every byte checked.

A file is cut into chunks of `chunk_bytes`; each has its own xxh3-128, so that a part can be read and verified alone
and damage can be placed. The file's digest is the xxh3-128 of its chunks' digests one after the other.
No torch here.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Protocol, TypeVar

import xxhash

from runner.errors import CheckpointError, DamagedError, FormatError

P = ParamSpec("P")
R = TypeVar("R")

CHUNK_BYTES = 4 * 1024 * 1024
DIGEST_LENGTH = 32

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file held when it was written."""

    size: int
    digest: str
    chunk_bytes: int
    chunks: str
    """The digests of its chunks, one after the other: one text, because 10,000 manifests hold millions of them."""

    @classmethod
    def of(cls, size: int, digests: Iterable[str]) -> "FileRecord":
        """The record of a file that was written in chunks of CHUNK_BYTES with these digests."""
        chunks = "".join(digests)
        return cls(size, digest_of(chunks.encode("ascii")), CHUNK_BYTES, chunks)

    @property
    def num_chunks(self) -> int:
        return len(self.chunks) // DIGEST_LENGTH

    def digest_of_chunk(self, index: int) -> str:
        return self.chunks[index * DIGEST_LENGTH : (index + 1) * DIGEST_LENGTH]


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """The xxh3-128 of some bytes, as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(data)


def record_of(chunks: Iterable[bytes | memoryview]) -> FileRecord:
    """The record of a file that would be written from these chunks (each of CHUNK_BYTES, only the last shorter)."""
    size, digests = 0, []
    for chunk in chunks:
        size += len(chunk)
        digests.append(digest_of(chunk))
    return FileRecord.of(size, digests)


def check_name(name: str, where: Path) -> None:
    """Refuse a file name that could lead out of the checkpoint's directory. Raises FormatError."""
    if not _FILE_NAME.fullmatch(name):
        raise FormatError(
            f"{where}: names a file {name!r}; wanted a plain name inside the checkpoint's directory; "
            "the checkpoint was not written by this program: do not use it"
        )


def again(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call until no signal interrupts."""
    while True:
        try:
            return call(*args, **kwargs)
        except InterruptedError:
            continue


@contextmanager
def reading(path: Path) -> Iterator[int]:
    """A descriptor for a regular file; links and everything else that is not one are refused, never followed."""
    try:
        # Non-blocking, so that a pipe that stands in the file's place cannot hang the reader.
        descriptor = again(os.open, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        if not path.parent.exists():
            raise CheckpointError(
                f"{path.parent}: was removed meanwhile, by its run's keep rules perhaps; open another one, or tag one "
                "with `runs tag` first, so that it stays"
            ) from error
        raise DamagedError(f"{path}: is missing; use another checkpoint, or put the file back") from error
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be opened ({error.strerror}); wanted a readable file, and no link; use another checkpoint"
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamagedError(f"{path}: is no regular file, wanted one; use another checkpoint")
        yield descriptor
    finally:
        os.close(descriptor)


def read_small(path: Path, limit: int) -> bytes:
    """The whole of a small file, unverified. Raises DamagedError when it is longer than `limit` bytes."""
    with reading(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise DamagedError(f"{path}: has {size} bytes, wanted at most {limit}; use another checkpoint")
        data = bytearray(size)
        filled = _fill(descriptor, memoryview(data), 0, path)
    return bytes(data[:filled])


class Source(Protocol):
    """Where the bytes of an opened file are: a file of its own, or part of an archive."""

    @property
    def size(self) -> int: ...

    @property
    def identity(self) -> tuple[int, int]:
        """The file itself, whatever its names."""
        ...

    @property
    def in_chunks(self) -> bool:
        """Whether it can be read by whole chunks only."""
        ...

    def read_into(self, memory: memoryview, offset: int) -> int:
        """Read from `offset` on until `memory` is full or the bytes end; how many were read. Raises DamagedError."""
        ...


class Stretch:
    """Part of an opened file, from byte `begin` on."""

    in_chunks = False

    def __init__(self, descriptor: int, begin: int, size: int, path: Path) -> None:
        self._descriptor = descriptor
        self._begin = begin
        self._path = path
        self.size = size
        status = os.fstat(descriptor)
        self.identity = (status.st_dev, status.st_ino)

    def read_into(self, memory: memoryview, offset: int) -> int:
        wanted = memory[: max(0, self.size - offset)]
        return _fill(self._descriptor, wanted, self._begin + offset, self._path)


@contextmanager
def whole_file(path: Path) -> Iterator[Source]:
    """A regular file as a source."""
    with reading(path) as descriptor:
        yield Stretch(descriptor, 0, os.fstat(descriptor).st_size, path)


class Member:
    """An opened file of a checkpoint that has the recorded length. Every chunk read is compared with its digest.

    `path` is a file, or what is named in errors when `opened` gives another source.
    """

    def __init__(self, path: Path, record: FileRecord, opened: AbstractContextManager[Source] | None = None) -> None:
        self.path = path
        self.record = record
        self._opened = whole_file(path) if opened is None else opened

    def __enter__(self) -> "Member":
        self._source = self._opened.__enter__()
        self.identity = self._source.identity
        self.in_chunks = self._source.in_chunks
        size = self._source.size
        if size != self.record.size:
            self._opened.__exit__(None, None, None)
            what = "is cut short" if size < self.record.size else "has bytes too many"
            raise DamagedError(
                f"{self.path}: {what}: {size} bytes are there, {self.record.size} were written; use another checkpoint"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    def extent(self, index: int) -> tuple[int, int]:
        """Where chunk `index` begins and ends in the file."""
        begin = index * self.record.chunk_bytes
        return begin, min(begin + self.record.chunk_bytes, self.record.size)

    def fill(self, index: int, into: memoryview) -> bool:
        """Read chunk `index` into memory of its length; True when its bytes are those that were written."""
        begin, end = self.extent(index)
        filled = self._source.read_into(into, begin)
        return filled == end - begin and digest_of(into) == self.record.digest_of_chunk(index)

    def scatter(self, index: int, into: Sequence[memoryview]) -> bool:
        """Read chunk `index` into several pieces of memory, one after the other; True as `fill` is.

        Not for a member that can be read by whole chunks only (`in_chunks`).
        """
        position, _ = self.extent(index)
        digest = xxhash.xxh3_128()
        for memory in into:
            if self._source.read_into(memory, position) != len(memory):
                return False
            digest.update(memory)
            position += len(memory)
        return bool(digest.hexdigest() == self.record.digest_of_chunk(index))

    def read(self) -> bytes:
        """All of the file. Raises DamagedError."""
        data = bytearray(self.record.size)
        view = memoryview(data)
        for index in range(self.record.num_chunks):
            begin, end = self.extent(index)
            if not self.fill(index, view[begin:end]):
                raise self.damaged(index)
        return bytes(data)

    def damaged(self, index: int, holding: str = "") -> DamagedError:
        """The error for chunk `index`; `holding` says what stands there."""
        begin, end = self.extent(index)
        held = f", which hold {holding}," if holding else ""
        return DamagedError(
            f"{self.path}: is damaged: bytes {begin} to {end}{held} are not those that were written "
            "(checksum differs); use another checkpoint"
        )


def _fill(descriptor: int, into: memoryview, offset: int, path: Path) -> int:
    """Read until `into` is full or the file ends; how many bytes were read."""
    filled = 0
    while filled < len(into):
        try:
            count = again(os.preadv, descriptor, [into[filled:]], offset + filled)
        except OSError as error:
            raise DamagedError(
                f"{path}: cannot be read at byte {offset + filled} ({error.strerror}); use another checkpoint"
            ) from error
        if count == 0:
            break
        filled += count
    return filled
