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
from runner.checkpoint.header import ALIGNMENT, aligned
from runner.errors import DamagedError, FormatError

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
    return aligned(position + _LOCAL.size + len(name) + _LARGE_SIZES + 6)


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
    entries = _harmless(_records(source, path), source.size, path)
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


def member_names(source: Source, path: Path) -> list[str]:
    """What a zip file says its members are called: anything at all. Raises DamagedError."""
    return [record.name for record in _records(source, path)]


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
    if count > _MEMBERS_LIMIT or length > _DIRECTORY_LIMIT or position + length > source.size:
        raise _damaged(path, source.size - tail, source.size, "the end of the zip directory")
    return position, length, count


@dataclass(frozen=True, slots=True)
class _Record:
    """What a directory says about a member."""

    name: str
    flags: int
    method: int
    mode: int
    crc: int
    packed: int
    size: int
    header: int


def _records(source: Source, path: Path) -> list[_Record]:
    position, length, count = _end(source, path)
    raw = _read(source, position, length)
    records: list[_Record] = []
    offset = 0
    for _ in range(count):
        begin = offset + _CENTRAL.size
        if begin > len(raw) or not raw.startswith(b"PK\x01\x02", offset):
            raise _damaged(path, position, source.size, "the zip directory")
        fields = _CENTRAL.unpack(raw[offset:begin])
        _, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length = fields[:13]
        attributes, header = fields[-2:]
        name = raw[begin : begin + name_length].decode("utf-8", "replace")
        extra = raw[begin + name_length + 4 : begin + name_length + extra_length]
        wide = list(struct.unpack(f"<{len(extra) // 8}Q", extra[: len(extra) // 8 * 8]))
        if size == _FULL_32 and len(wide) >= 2:
            size, packed = wide.pop(0), wide.pop(0)
        if header == _FULL_32 and wide:
            header = wide.pop(0)
        records.append(_Record(name, flags, method, attributes >> 16, crc, packed, size, header))
        offset = begin + name_length + extra_length + comment_length
    return records


def _harmless(records: Sequence[_Record], file_size: int, path: Path) -> list[Entry]:
    """The members, if none of them is what no archive of this program holds.

    `begin` is where this program would have put the member.
    """
    names: set[str] = set()
    for record in records:
        if not _NAME.fullmatch(record.name):
            raise FormatError(
                f"{path}: holds a member {record.name!r:.120}; wanted plain names inside the checkpoint: it was not "
                "packed by this program; do not use it"
            )
        if record.name in names:
            raise _hostile(path, record.name, "twice", "each name once")
        names.add(record.name)
        if stat.S_ISLNK(record.mode):
            raise _hostile(path, record.name, "as a link", "regular files")
        if record.flags & 1:
            raise _hostile(path, record.name, "encrypted", "members that are stored")
        if record.method != 0 or record.packed != record.size:
            how = f"compressed in the way of zip files ({record.method})"
            raise _hostile(path, record.name, how, "members that are stored")
        if record.header + _LOCAL.size + record.size > file_size:
            how = f"with {record.size} bytes from {record.header} on, in a file of {file_size}"
            raise _hostile(path, record.name, how, "what it has")
    if sum(record.size for record in records) > file_size:
        raise _hostile(path, records[0].name, "in bytes that other members have too", "each byte once")
    return [Entry(r.name, r.crc, r.size, data_begin(r.name, r.header), r.header) for r in records]


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
