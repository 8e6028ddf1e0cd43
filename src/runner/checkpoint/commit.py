"""How files become a checkpoint, whole or not at all, and how one is removed again.

Everything is written into a hidden directory beside its place: space is reserved, bytes are written and synced, the
manifest is written and synced last, then the directory. Renaming it makes it a checkpoint, and syncing the parent
makes that last. Nothing is written in place; nothing old is touched. Removing goes the other way: renamed to a hidden
name first, so that a checkpoint is never there in part.

Every call that changes something goes through `os`.
"""

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from runner.checkpoint.files import CHUNK_BYTES, FileRecord, digest_of, digest_of_chunks
from runner.checkpoint.manifest import MANIFEST_NAME, Manifest, read_manifest
from runner.errors import CheckpointError, SaveError

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# What file systems answer that cannot reserve space or sync a directory: nothing is wrong, it is only not offered.
_NOT_OFFERED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


class Content(Protocol):
    """What a file will hold."""

    @property
    def size(self) -> int: ...

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The bytes, in pieces of CHUNK_BYTES; only the last is shorter."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """Bytes at hand."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def chunks(self) -> Iterator[bytes | memoryview]:
        view = memoryview(self.data)
        for begin in range(0, len(view), CHUNK_BYTES):
            yield view[begin : begin + CHUNK_BYTES]


@dataclass(frozen=True, slots=True)
class Linked:
    """A file that stands unchanged in an earlier checkpoint. `content` is written where links do not work."""

    source: Path
    record: FileRecord
    content: Content


def commit(
    directory: Path,
    name: str,
    *,
    owner: str,
    files: Mapping[str, Content | Linked],
    seal: Callable[[Mapping[str, FileRecord]], bytes],
) -> tuple[Path, dict[str, FileRecord]]:
    """Write a checkpoint `name` in `directory`; `seal` makes its manifest from what was written.

    Returns where it is and the records of its files. `owner` marks the hidden names, so that `clean` touches only what
    this owner left. Raises SaveError; then nothing of it is left, unless removing fails too: then the next `clean`
    removes it.
    """
    hidden = unused(directory, hidden_name(owner, name))
    target = unused(directory, name)
    wanted = sum(file.size for file in files.values() if not isinstance(file, Linked))
    try:
        again(os.mkdir, hidden)
        records = {file: _place(hidden / file, content) for file, content in files.items()}
        _write(hidden / MANIFEST_NAME, Text(seal(records)), os.fsync)
        sync_directory(hidden)
        again(os.rename, hidden, target)
        sync_directory(directory)
    except BaseException as error:
        # Also when interrupted: half a checkpoint must not wait for the next start to free its space.
        discard(hidden)
        _withdraw(target, hidden)
        if isinstance(error, OSError):
            raise failed(target, error, wanted) from error
        raise
    return target, records


def strangers(path: Path, manifest: Manifest) -> list[str]:
    """What stands in a checkpoint's place that this program did not write: it must not be removed."""
    if path.is_symlink():
        return ["a link in place of the directory"]
    listed = {*manifest.files, MANIFEST_NAME}
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.name not in listed or not _is_file(entry))


def remove(path: Path, *, owner: str) -> None:
    """Remove a checkpoint that has no `strangers`. Raises OSError; what is left over is removed by `clean`."""
    hidden = unused(path.parent, hidden_name(owner, path.name))
    again(os.rename, path, hidden)
    discard(hidden)


def clean(directory: Path, *, owner: str) -> None:
    """Remove what a writer that died left in `directory` under this owner's hidden names."""
    pattern = re.compile(re.escape(hidden_name(owner, "")) + r"step-\d+(-\d+)?")
    with suppress(FileNotFoundError):
        for path in sorted(directory.iterdir()):
            if pattern.fullmatch(path.name):
                discard(path)


def discard(hidden: Path) -> None:
    """Remove a hidden directory and the files in it; with a manifest, only the files that it lists. Never raises."""
    if hidden.is_symlink() or not hidden.is_dir():
        return
    try:
        with os.scandir(hidden) as scanned:
            entries = list(scanned)
    except OSError as error:
        log.warning("%s is a leftover that could not be listed (%s); it can be deleted", hidden, error.strerror)
        return
    try:
        listed = {*read_manifest(hidden).files, MANIFEST_NAME}
    except CheckpointError:
        listed = {entry.name for entry in entries}
    # The manifest last, so that the list is there until nothing is left to remove.
    for entry in sorted(entries, key=lambda entry: entry.name == MANIFEST_NAME):
        if entry.name in listed and _is_file(entry):
            with suppress(OSError):
                again(os.unlink, entry.path)
    try:
        again(os.rmdir, hidden)
    except OSError as error:
        log.warning("%s is a leftover that could not be removed (%s); it can be deleted", hidden, error.strerror)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = again(os.open, directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        again(os.fsync, descriptor)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
    finally:
        os.close(descriptor)


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


def hidden_name(owner: str, name: str) -> str:
    """The hidden name under which `owner` prepares or removes `name`."""
    return f".tmp-{digest_of(owner.encode())[:8]}-{name}"


def free_bytes(directory: Path) -> int | None:
    """Bytes that can still be written, or None where that cannot be known."""
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


def failed(path: Path, error: OSError, wanted: int) -> SaveError:
    """The error for a checkpoint that could not be written."""
    free = free_bytes(path.parent)
    space = "" if free is None else f", {free} free on its disk"
    return SaveError(
        f"{path}: could not be saved ({error.strerror or error}); {wanted} bytes wanted{space}; "
        "the checkpoints saved before are whole; make room or make the directory writable, then save again"
    )


def again(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call until no signal interrupts."""
    while True:
        try:
            return call(*args, **kwargs)
        except InterruptedError:
            continue


def _place(path: Path, file: Content | Linked) -> FileRecord:
    if not isinstance(file, Linked):
        return _write(path, file, _fdatasync)
    try:
        again(os.link, file.source, path, follow_symlinks=False)
    except OSError as error:
        log.debug("%s could not be linked (%s), so it is written again", file.source, error.strerror)
        return _write(path, file.content, _fdatasync)
    return file.record


def _write(path: Path, content: Content, sync: Callable[[int], None]) -> FileRecord:
    size, digests, written = content.size, [], 0
    descriptor = again(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _reserve(descriptor, size)
        for chunk in content.chunks():
            digests.append(digest_of(chunk))
            _write_all(descriptor, chunk)
            written += len(chunk)
        if written != size:
            raise RuntimeError(f"{path}: {written} bytes written, {size} were announced")
        again(sync, descriptor)
    finally:
        os.close(descriptor)
    return FileRecord(size, digest_of_chunks(digests), CHUNK_BYTES, tuple(digests))


def _reserve(descriptor: int, size: int) -> None:
    """Take the space before a byte is written: a full disk shows at once, and syncing is quicker."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            again(os.posix_fallocate, descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        count = again(os.write, descriptor, view)
        if count == 0:
            raise OSError(errno.EIO, "nothing more was written")
        view = view[count:]


def _fdatasync(descriptor: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


def _withdraw(target: Path, hidden: Path) -> None:
    """Take back a checkpoint whose name may not be durable: it was refused, so it must not be found."""
    if not os.path.lexists(target):
        return
    with suppress(OSError):
        again(os.rename, target, hidden)
        discard(hidden)


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)
