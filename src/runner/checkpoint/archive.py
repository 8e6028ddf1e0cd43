"""A checkpoint packed into one file, and unpacked again: every byte of every file as it was, tags included.

    .zip         the files as members, stored, each from a multiple of 4 KiB on
    .pt, .pth    the same in a torch file, which `torch.load(weights_only=True)` opens

What is read is verified; what is written is whole and durable, or not there.
"""

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from runner.checkpoint import tags, torch_file
from runner.checkpoint.compressed import SUFFIX, compressed, zstd
from runner.checkpoint.damage import damaged_tensors, likely_header
from runner.checkpoint.durable import InMemory, write_all, write_file
from runner.checkpoint.files import Member
from runner.checkpoint.fresh import in_the_way, new_directory, new_file, reported
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.manifest import MANIFEST_NAME, parse_manifest
from runner.checkpoint.zip_layout import Entry, data_begin, directory, local_header
from runner.errors import CheckpointError, ConfigError, DamagedError

SUFFIXES = {".zip": "", ".pt": torch_file.PREFIX, ".pth": torch_file.PREFIX}
"""What is written under which name, as what the names of its members begin with."""


def check_target(file: Path, *, compress: bool) -> None:
    """Raise ConfigError unless a checkpoint can be packed into a new file of this name."""
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{file}: packed files end in {', '.join(SUFFIXES)}; choose one of these")
    if compress and file.suffix.lower() != ".zip":
        raise ConfigError(f"{file}: torch reads no compressed files; give a name that ends in .zip, or do not compress")
    if compress:
        zstd()
    if os.path.lexists(file):
        raise in_the_way(file)


def pack(checkpoint: Checkpoint, file: Path, *, compress: bool = False) -> int:
    """Pack a checkpoint into a new file, durably; its size. Verified meanwhile.

    Raises ConfigError for a name that cannot be, CheckpointError for a damaged checkpoint, SaveError when it cannot be
    written; then nothing is left.
    """
    check_target(file, compress=compress)
    text = _manifest_text(checkpoint)
    with reported(file, checkpoint.manifest.size), new_file(file) as descriptor:
        return write_archive(descriptor, checkpoint, text, SUFFIXES[file.suffix.lower()], compress=compress)


def write_archive(descriptor: int, checkpoint: Checkpoint, manifest: bytes, prefix: str, *, compress: bool) -> int:
    """Write a checkpoint, whose manifest has this text, as a zip file, or as a torch file with its prefix; its size."""
    place = checkpoint.place
    archive = _Archive(descriptor)
    if prefix:
        members = torch_file.frame(checkpoint.manifest, len(manifest), place.opened, checkpoint.path)
        for name, data in members.items():
            archive.add(name, [data])
    archive.add(f"{prefix}{MANIFEST_NAME}", [manifest])
    for name, record in checkpoint.manifest.files.items():
        with place.opened(name, record) as member:
            if compress:
                archive.add(f"{prefix}{name}{SUFFIX}", compressed(_Verified(member).chunks()))
            else:
                archive.add(f"{prefix}{name}", _Verified(member).chunks())
    for tag in checkpoint.tags:
        archive.add(f"{prefix}{tags.PREFIX}{tag}", [])
    return archive.end()


def unpack(file: Path, target: Path) -> Checkpoint:
    """Unpack a packed checkpoint into a directory that is new or empty, durably. Verified meanwhile.

    Raises CheckpointError for a file that is damaged or none, SaveError when it cannot be written; then nothing is
    left.
    """
    if not file.is_file():
        what = "is a directory" if file.is_dir() else "is not there"
        raise CheckpointError(f"{file}: {what}; give a file that `runs pack` wrote")
    return copy(Checkpoint.open(file), target)


def copy(checkpoint: Checkpoint, target: Path) -> Checkpoint:
    """Copy a checkpoint, packed or not, into a directory that is new or empty, as `unpack` does."""
    text = _manifest_text(checkpoint)
    # An empty directory is no loss, and renaming replaces no other.
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
        raise in_the_way(target)
    with reported(target, checkpoint.manifest.size), new_directory(target) as hidden:
        for name, record in checkpoint.manifest.files.items():
            with checkpoint.place.opened(name, record) as member:
                write_file(hidden / name, _Verified(member))
        for tag in checkpoint.tags:
            write_file(hidden / f"{tags.PREFIX}{tag}", InMemory(b""))
        write_file(hidden / MANIFEST_NAME, InMemory(text))
    return Checkpoint(target, checkpoint.manifest)


class _Archive:
    """A zip file that is being written from its start."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._entries: list[Entry] = []
        self._position = 0

    def add(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        header, begin, size, crc = self._position, data_begin(name, self._position), 0, 0
        os.lseek(self._descriptor, begin, os.SEEK_SET)
        for chunk in chunks:
            write_all(self._descriptor, chunk)
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
        os.lseek(self._descriptor, header, os.SEEK_SET)
        write_all(self._descriptor, local_header(name, crc, size, header))
        self._entries.append(Entry(name, crc, size, begin, header))
        self._position = begin + size

    def end(self) -> int:
        """Write the directory; the size of the file."""
        last = directory(self._entries, self._position)
        os.lseek(self._descriptor, self._position, os.SEEK_SET)
        write_all(self._descriptor, last)
        return self._position + len(last)


class _Verified:
    """The content of an opened file, each chunk compared with its digest before it is given out."""

    def __init__(self, member: Member) -> None:
        self._member = member

    @property
    def size(self) -> int:
        return self._member.record.size

    def chunks(self) -> Iterator[memoryview]:
        member = self._member
        scratch = memoryview(bytearray(min(member.record.chunk_bytes, member.record.size)))
        for index in range(member.record.num_chunks):
            begin, end = member.extent(index)
            chunk = scratch[: end - begin]
            if not member.fill(index, chunk):
                raise damaged_tensors(member, index, likely_header(member))
            yield chunk


def _manifest_text(checkpoint: Checkpoint) -> bytes:
    text = checkpoint.place.manifest_bytes()
    where = checkpoint.path / MANIFEST_NAME
    if parse_manifest(text, where) != checkpoint.manifest:
        raise DamagedError(f"{where}: is another one than when it was opened; open it again")
    return text
