"""A checkpoint in one file, read where it is. No torch.

a zip file       the files of a checkpoint as members, an empty one `tag.NAME` for each tag;
                 with `--compress` their names end in .zst
a torch file     the same as members in archive/data/, and a pickle that shows them to torch
"""

import os
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from runner.checkpoint import tags, torch_file
from runner.checkpoint.compressed import SUFFIX, Frames
from runner.checkpoint.files import FileRecord, Member, Source, Stretch, reading
from runner.checkpoint.manifest import MANIFEST_NAME, SIZE_LIMIT, Manifest, parse_manifest
from runner.checkpoint.zip_layout import Entry, member_names, read_entries
from runner.errors import CheckpointError, DamagedError, FormatError

_MAGIC = b"PK\x03\x04"
_BLOCK = 1024 * 1024


class Packed:
    """A checkpoint in one file, read where it is. Making one checks every byte that is not in a listed file.

    The file stays open as long as this object lives: another one that takes its place meanwhile is not seen.
    """

    def __init__(self, path: Path) -> None:
        # A link to a packed file is as good as the file.
        self.path = path.resolve() if path.is_symlink() else path
        with reading(self.path) as descriptor:
            self._descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor)
        self._manifest, self._entries, self._prefix = self._read()

    def __reduce__(self) -> tuple[type["Packed"], tuple[Path]]:
        # A descriptor means nothing in another process.
        return Packed, (self.path,)

    def manifest(self) -> Manifest:
        return self._read()[0]

    def manifest_bytes(self) -> bytes:
        entry = self._entries[f"{self._prefix}{MANIFEST_NAME}"]
        return self._bytes_of(entry, entry.size) or b""

    def opened(self, name: str, record: FileRecord) -> Member:
        where = self.path / name
        entry = self._entries.get(f"{self._prefix}{name}")
        if entry is not None:
            return Member(where, record, self._stretch(entry))
        entry = self._entries.get(f"{self._prefix}{name}{SUFFIX}")
        if entry is None:
            raise DamagedError(f"{where}: is missing; use another checkpoint")
        return Member(where, record, self._decompressed(entry, record, where))

    def tags(self) -> tuple[str, ...]:
        return tuple(sorted(name.removeprefix(tags.PREFIX) for name in self._unlisted()))

    def damages(self) -> list[str]:
        """Members whose CRC is not that of their bytes, so that other programs would refuse them."""
        damages = []
        for entry in self._entries.values():
            crc, stretch = 0, Stretch(self._descriptor, entry.begin, entry.size, self.path)
            for offset in range(0, entry.size, _BLOCK):
                block = memoryview(bytearray(min(_BLOCK, entry.size - offset)))
                crc = zlib.crc32(block[: stretch.read_into(block, offset)], crc)
            if crc != entry.crc:
                damages.append(
                    f"{self.path}: is damaged: the zip CRC of {entry.name!r} is {entry.crc:08x}, its bytes have "
                    f"{crc:08x}; use another checkpoint"
                )
        return damages

    def _unlisted(self) -> list[str]:
        """The members that belong to no listed file, without what every torch file has."""
        listed = {MANIFEST_NAME, *self._manifest.files, *(f"{name}{SUFFIX}" for name in self._manifest.files)}
        names = [name for name in self._entries if name not in torch_file.FRAME]
        return [name for name in (name.removeprefix(self._prefix) for name in names) if name not in listed]

    def _read(self) -> tuple[Manifest, dict[str, Entry], str]:
        source = Stretch(self._descriptor, 0, os.fstat(self._descriptor).st_size, self.path)
        start = bytearray(min(len(_MAGIC), source.size))
        source.read_into(memoryview(start), 0)
        if bytes(start) != _MAGIC:
            raise CheckpointError(
                f"{self.path}: is a file, and no packed checkpoint (it begins with {bytes(start)!r}); "
                "give a run's directory, a checkpoint's, or a file that `runs pack` wrote"
            )
        prefix = _prefix_of(member_names(source, self.path), self.path)
        entries = {entry.name: entry for entry in read_entries(source, self.path)}
        manifest = self._manifest_in(source, entries[f"{prefix}{MANIFEST_NAME}"])
        self._manifest, self._entries, self._prefix = manifest, entries, prefix
        for name in self._unlisted():
            if self._entries[f"{prefix}{name}"].size or not name.startswith(tags.PREFIX):
                raise FormatError(
                    f"{self.path}: holds {name!r}, which its manifest does not list: it was not packed by this "
                    "program; do not use it"
                )
        if prefix:
            self._check_frame(manifest, entries)
        return manifest, entries, prefix

    def _check_frame(self, manifest: Manifest, entries: Mapping[str, Entry]) -> None:
        """What is for torch alone must be what this program writes. So no pickle is ever run, or even read."""
        size = entries[f"{self._prefix}{MANIFEST_NAME}"].size
        for name, wanted in torch_file.frame(manifest, size, self.opened, self.path).items():
            if name not in entries or self._bytes_of(entries[name], len(wanted)) != wanted:
                raise FormatError(
                    f"{self.path}: its {name!r} is not the one that belongs to the checkpoint in it: damaged, or not "
                    "packed by this program; nothing in it was run; do not use it"
                )

    def _bytes_of(self, entry: Entry, limit: int) -> bytes | None:
        if entry.size > limit:
            return None
        raw = bytearray(entry.size)
        with self._stretch(entry) as source:
            source.read_into(memoryview(raw), 0)
        return bytes(raw)

    def _manifest_in(self, source: Source, entry: Entry) -> Manifest:
        where = self.path / MANIFEST_NAME
        if entry.size > SIZE_LIMIT:
            raise DamagedError(f"{where}: has {entry.size} bytes, wanted at most {SIZE_LIMIT}; use another checkpoint")
        raw = bytearray(entry.size)
        source.read_into(memoryview(raw), entry.begin)
        return parse_manifest(bytes(raw), where)

    @contextmanager
    def _stretch(self, entry: Entry) -> Iterator[Source]:
        if os.fstat(self._descriptor).st_size < entry.begin + entry.size:
            raise DamagedError(f"{self.path}: was written over since it was opened; open it again")
        yield Stretch(self._descriptor, entry.begin, entry.size, self.path)

    @contextmanager
    def _decompressed(self, entry: Entry, record: FileRecord, where: Path) -> Iterator[Source]:
        with self._stretch(entry) as source:
            yield Frames(source, record, where)


def _prefix_of(names: Sequence[str], path: Path) -> str:
    for prefix in ("", torch_file.PREFIX):
        if f"{prefix}{MANIFEST_NAME}" in names:
            return prefix
    what = "a torch file" if any(name.endswith("data.pkl") for name in names) else "a zip file"
    there = ", ".join(map(repr, names[:5])) if names else "nothing"
    raise FormatError(
        f"{path}: is {what}, and no checkpoint of this program; it holds {there}; "
        "weights of other programs are read by init_from="
    )
