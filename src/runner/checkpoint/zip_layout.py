"""The bytes of a zip file around its members, as this program writes them; and their reading. No torch here.

Members are stored, one after the other, each from a multiple of 4 KiB on, so that it can be mapped. Nothing in a header
varies but name, length and CRC: so a file is what this program wrote if and only if its headers, made again from those,
are the bytes that are there. That leaves no room for what zip files are misused for.
"""

import re
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.checkpoint.files import Source
from runner.errors import DamagedError, FormatError

ALIGNMENT = 4096
_DIRECTORY_LIMIT = 16 * 1024 * 1024
_MEMBERS_LIMIT = 10_000

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF

_PLAIN, _LARGE = 20, 45  # The versions of the format that a reader needs.
_UNIX = 3 << 8
_FIRST_DAY = 0x21  # 1 January 1980, the oldest date that a zip file can give.
_MODE = (stat.S_IFREG | 0o644) << 16
_SIZES, _PADDING = 1, 0xD935  # Extra fields: 64-bit lengths; alignment, as Android's packages have it.
_LARGE_SIZES = 20
_NAME = re.compile(r"(archive/)?(data/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A member; its bytes are `size` from `begin` on."""

    name: str
    crc: int
    size: int
    begin: int
    header: int
    """Where the bytes before it begin."""


def data_begin(name: str, position: int) -> int:
    """Where a member's bytes begin whose header stands at `position`; the same whatever its length is."""
    return -(-(position + _LOCAL.size + len(name) + _LARGE_SIZES + 6) // ALIGNMENT) * ALIGNMENT


def local_header(name: str, crc: int, size: int, position: int) -> bytes:
    """What stands at `position` before a member, padded so that the member is aligned."""
    sizes = struct.pack("<2H2Q", _SIZES, 16, size, size) if size >= _FULL_32 else b""
    length = data_begin(name, position) - position - _LOCAL.size - len(name) - len(sizes)
    padding = struct.pack("<3H", _PADDING, length - 4, ALIGNMENT).ljust(length, b"\0")
    short = _FULL_32 if sizes else size
    fixed = _LOCAL.pack(
        *(b"PK\x03\x04", _LARGE if sizes else _PLAIN, 0, 0, 0, _FIRST_DAY, crc, short, short),
        *(len(name), len(sizes) + len(padding)),
    )
    return fixed + name.encode("ascii") + sizes + padding


def directory(entries: Sequence[Entry], position: int) -> bytes:
    """What stands behind the last member, from `position` to the end of the file."""
    body = b"".join(map(_central, entries))
    end = position + len(body)
    large = len(entries) >= _FULL_16 or end >= _FULL_32
    wide = b""
    if large:
        count = len(entries)
        wide = _END_64.pack(
            b"PK\x06\x06", _END_64.size - 12, _UNIX | _LARGE, _LARGE, 0, 0, count, count, len(body), position
        ) + _LOCATOR.pack(b"PK\x06\x07", 0, end, 1)
    count = min(len(entries), _FULL_16)
    return (
        body
        + wide
        + _END.pack(
            *(b"PK\x05\x06", 0, 0, count, count, min(len(body), _FULL_32)),
            *(_FULL_32 if large else position, 0),
        )
    )


def read_entries(source: Source, path: Path) -> list[Entry]:
    """The members of a zip file that this program wrote, in their order. Raises DamagedError or FormatError.

    What is in them is not read; every other byte of the file is the one that was written.
    """
    entries = read_directory(source, path)
    position = 0
    for entry in entries:
        wanted = local_header(entry.name, entry.crc, entry.size, position)
        if entry.header != position or _read(source, position, len(wanted)) != wanted:
            raise _damaged(path, position, position + len(wanted), f"the zip header of {entry.name!r}")
        position += len(wanted) + entry.size
    wanted = directory(entries, position)
    if position + len(wanted) != source.size or _read(source, position, len(wanted)) != wanted:
        raise _damaged(path, position, source.size, "the zip directory")
    return entries


def read_directory(source: Source, path: Path) -> list[Entry]:
    """What a zip file says about its members, each harmless; whether that is true is another matter.

    `begin` is where this program would have put the member. Raises DamagedError or FormatError.
    """
    position, length, count = _end(source, path)
    raw = _read(source, position, length)
    entries: dict[str, Entry] = {}
    offset = 0
    for _ in range(count):
        if offset + _CENTRAL.size > len(raw):
            raise _damaged(path, position, source.size, "the zip directory")
        entry, offset = _entry(raw, offset, source.size, path)
        if entry.name in entries:
            raise _hostile(path, entry.name, "twice", "each name once")
        entries[entry.name] = entry
    if sum(entry.size for entry in entries.values()) > source.size:
        raise _hostile(path, next(iter(entries)), "in bytes that other members have too", "each byte once")
    return list(entries.values())


def _central(entry: Entry) -> bytes:
    wide = entry.size >= _FULL_32
    values = [entry.size, entry.size] if wide else []
    far = entry.header >= _FULL_32
    values += [entry.header] if far else []
    extra = struct.pack(f"<2H{len(values)}Q", _SIZES, 8 * len(values), *values) if values else b""
    version = _LARGE if values else _PLAIN
    size = _FULL_32 if wide else entry.size
    fixed = _CENTRAL.pack(
        *(b"PK\x01\x02", _UNIX | version, version, 0, 0, 0, _FIRST_DAY, entry.crc, size, size, len(entry.name)),
        *(len(extra), 0, 0, 0, _MODE, _FULL_32 if far else entry.header),
    )
    return fixed + entry.name.encode("ascii") + extra


def _end(source: Source, path: Path) -> tuple[int, int, int]:
    """Where the directory is, its length, and how many members it has."""
    raw = _read(source, max(0, source.size - _END.size), _END.size)
    if len(raw) < _END.size or not raw.startswith(b"PK\x05\x06"):
        raise DamagedError(
            f"{path}: does not end as a zip file of this program does: it is cut short, has bytes too many, "
            "or was packed by another program; use another checkpoint"
        )
    _, _, _, _, count, length, position, _ = _END.unpack(raw)
    tail = _END.size
    if position == _FULL_32 or count == _FULL_16:
        tail += _END_64.size + _LOCATOR.size
        wide = _read(source, max(0, source.size - tail), _END_64.size)
        if len(wide) < _END_64.size or not wide.startswith(b"PK\x06\x06"):
            raise _damaged(path, max(0, source.size - tail), source.size, "the end of the zip directory")
        *_, count, length, position = _END_64.unpack(wide)
    if count > _MEMBERS_LIMIT or length > _DIRECTORY_LIMIT or position + length + tail != source.size:
        raise _damaged(path, source.size - tail, source.size, "the end of the zip directory")
    return position, length, count


def _entry(raw: bytes, offset: int, file_size: int, path: Path) -> tuple[Entry, int]:
    """The member that is described at `offset`, and where the next one is."""
    fields = _CENTRAL.unpack(raw[offset : offset + _CENTRAL.size])
    signature, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length = fields[:13]
    attributes, header = fields[-2:]
    begin = offset + _CENTRAL.size
    end = begin + name_length + extra_length + comment_length
    if signature != b"PK\x01\x02" or end > len(raw):
        raise DamagedError(f"{path}: is damaged: its zip directory makes no sense; use another checkpoint")
    name = raw[begin : begin + name_length].decode("utf-8", "replace")
    if not _NAME.fullmatch(name):
        raise FormatError(
            f"{path}: holds a member {name!r:.120}; wanted plain names inside the checkpoint: it was not packed by "
            "this program; do not use it"
        )
    if stat.S_ISLNK(attributes >> 16):
        raise _hostile(path, name, "as a link", "regular files")
    if flags & 1:
        raise _hostile(path, name, "encrypted", "members that are stored")
    if method != 0 or packed != size:
        raise _hostile(path, name, f"compressed in the way of zip files ({method})", "members that are stored")
    extra = raw[begin + name_length : begin + name_length + extra_length]
    wide = list(struct.unpack(f"<{len(extra[4:]) // 8}Q", extra[4 : 4 + len(extra[4:]) // 8 * 8]))
    if size == _FULL_32 and len(wide) >= 2:
        size = wide.pop(0)
        wide.pop(0)
    if header == _FULL_32 and wide:
        header = wide.pop(0)
    if header + _LOCAL.size + size > file_size:
        raise _hostile(path, name, f"with {size} bytes from {header} on, in a file of {file_size}", "what it has")
    return Entry(name, crc, size, data_begin(name, header), header), end


def _read(source: Source, begin: int, length: int) -> bytes:
    data = bytearray(max(0, min(length, source.size - begin)))
    return bytes(data[: source.read_into(memoryview(data), begin)])


def _damaged(path: Path, begin: int, end: int, what: str) -> DamagedError:
    return DamagedError(
        f"{path}: is damaged: bytes {begin} to {end}, {what}, are not those that this program writes; "
        "use another checkpoint"
    )


def _hostile(path: Path, name: str, how: str, wanted: str) -> FormatError:
    return FormatError(
        f"{path}: holds {name!r} {how}; wanted {wanted}: it was not packed by this program; do not use it"
    )
