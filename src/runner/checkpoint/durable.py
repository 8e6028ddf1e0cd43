"""Single file operations that hold against interruption and power cuts: what commits, archives and exports are made of.

Every call that changes something goes through `os`.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runner.checkpoint.files import CHUNK_BYTES, FileRecord, digest_of
from runner.checkpoint.files import again as again
from runner.quantities import size

# What file systems answer that cannot reserve space or sync a directory: nothing is wrong, it is only not offered.
_NOT_OFFERED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_FLUSH_BYTES = 8 * 1024 * 1024
"""How much is written before the disk is asked to begin with it: small enough to overlap, large enough to be cheap."""


class Content(Protocol):
    """What a file will hold."""

    @property
    def size(self) -> int: ...

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The bytes, in pieces of CHUNK_BYTES; only the last is shorter."""
        ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """Bytes at hand."""

    data: bytes | memoryview

    @property
    def size(self) -> int:
        return len(self.data)

    def chunks(self) -> Iterator[bytes | memoryview]:
        view = memoryview(self.data)
        for begin in range(0, len(view), CHUNK_BYTES):
            yield view[begin : begin + CHUNK_BYTES]


def write_file(path: Path, content: Content) -> FileRecord:
    """Write a new file, durably, and hash it meanwhile. Its name is durable once its directory is synced.

    Raises OSError; FileExistsError when something stands there.
    """
    wanted, digests, written, flushed = content.size, [], 0, 0
    descriptor = again(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _reserve(descriptor, wanted)
        for chunk in content.chunks():
            digests.append(digest_of(chunk))
            write_all(descriptor, chunk)
            written += len(chunk)
            if written - flushed >= _FLUSH_BYTES:
                _begin_flushing(descriptor, flushed, written)
                flushed = written
        if written != wanted:
            raise RuntimeError(f"{path}: {written} bytes written, {wanted} were announced")
        again(_fdatasync, descriptor)
    finally:
        os.close(descriptor)
    return FileRecord.of(wanted, digests)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = again(os.open, directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_opened(descriptor)
    finally:
        os.close(descriptor)


def sync_opened(directory: int) -> None:
    """Make the names in an opened directory durable."""
    try:
        again(os.fsync, directory)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise


def make_directory(directory: Path) -> None:
    """Make a directory and those above it, durably. One that is there is fine."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    with suppress(FileExistsError):
        again(os.mkdir, directory)
    if not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    sync_directory(directory.parent)


def unused(directory: Path, name: str) -> Path:
    """`name` in `directory`, or `name-2`, `name-3`, ... when something stands there."""
    path, count = directory / name, 1
    while os.path.lexists(path):
        count += 1
        path = directory / f"{name}-{count}"
    return path


def free_bytes(directory: Path) -> int | None:
    """Bytes that can still be written, or None where that cannot be known."""
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


def advice(directory: Path, error: OSError, wanted: int) -> str:
    """What to say of, and to do about, a write of `wanted` bytes to `directory` that failed."""
    if error.errno == errno.ENOENT:
        return "make its directory first"
    if error.errno == errno.EFBIG:
        return f"{size(wanted)} wanted, more than one file may have here; raise the limit (`ulimit -f`)"
    if error.errno not in _FULL:
        return "make the directory writable"
    free = free_bytes(directory)
    space = "" if free is None else f", {size(free)} free on its disk"
    return f"{size(wanted)} wanted{space}; make room, with `runs prune RUN --last 1 --yes` for one"


def _reserve(descriptor: int, wanted: int) -> None:
    """Take the space before a byte is written: a full disk shows at once, and syncing is quicker."""
    if wanted and hasattr(os, "posix_fallocate"):
        try:
            again(os.posix_fallocate, descriptor, 0, wanted)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it, however little the system takes at a time."""
    view = memoryview(data)
    while view:
        count = again(os.write, descriptor, view)
        if count == 0:
            raise OSError(errno.EIO, "nothing more was written")
        view = view[count:]


def _begin_flushing(descriptor: int, begin: int, end: int) -> None:
    """Let the disk begin while more is being written, so that the sync at the end finds little left to do.

    Linux starts writing a range back when it is told that nobody needs it in memory. Only advice: errors mean nothing.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)


def _fdatasync(descriptor: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)
