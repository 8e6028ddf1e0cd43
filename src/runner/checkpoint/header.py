"""The header of a tensor file in the safetensors format: laid out for writing, checked when read. No torch here.

8 bytes     length of the header, little endian
header      JSON: {name: {dtype, shape, data_offsets}}, and `__metadata__` with text values; padded with spaces
            so that the data begins at a multiple of 4 KiB
data        the tensors, without holes, the widest elements first, so that each is aligned by nature
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import DamagedError, FormatError

ALIGNMENT = 4096
LENGTH_BYTES = 8
LENGTH_LIMIT = 100_000_000
"""What the safetensors library accepts at most."""
METADATA = "__metadata__"

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2": 1,
    "F8_E5M2FNUZ": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}


TORCH_NAMES: Mapping[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}
"""What torch calls the dtypes of the format."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a file; `begin` and `end` count bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a tensor file holds, in the order in which it stands there."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    size: int
    """Bytes before the data."""

    def between(self, begin: int, end: int) -> list[Entry]:
        """The tensors with bytes in this part of the file."""
        return [entry for entry in self.entries.values() if entry.begin < end and begin < entry.end]


def aligned(position: int) -> int:
    """The first multiple of 4 KiB from `position` on."""
    return -(-position // ALIGNMENT) * ALIGNMENT


def lay_out(tensors: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]) -> tuple[bytes, Header]:
    """The bytes before the data, and where each (name, dtype, shape) goes."""
    in_order = sorted(tensors, key=lambda tensor: -ITEM_BYTES[tensor[1]])
    values: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    offset = 0
    for name, dtype, shape in in_order:
        end = offset + ITEM_BYTES[dtype] * math.prod(shape)
        values[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(values, separators=(",", ":")).encode("ascii")
    size = aligned(LENGTH_BYTES + len(text))
    length = size - LENGTH_BYTES
    if length > LENGTH_LIMIT:
        raise ValueError(f"the names of {len(in_order)} tensors need {length} bytes; a tensor file has {LENGTH_LIMIT}")
    entries = {
        name: Entry(
            name, dtype, tuple(shape), size + values[name]["data_offsets"][0], size + values[name]["data_offsets"][1]
        )
        for name, dtype, shape in in_order
    }
    return length.to_bytes(LENGTH_BYTES, "little") + text.ljust(length), Header(entries, dict(metadata), size)


def header_size(start: bytes, file_size: int, where: Path) -> int:
    """Where the data begins, from the first eight bytes of a file. Raises DamagedError."""
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if len(start) < LENGTH_BYTES or length > min(LENGTH_LIMIT, file_size - LENGTH_BYTES):
        raise DamagedError(
            f"{where}: says its header has {length} bytes, in a file of {file_size}; wanted a tensor file; "
            "use another checkpoint"
        )
    return LENGTH_BYTES + length


def parse_header(raw: bytes, file_size: int, where: Path) -> Header:
    """The header from a file's first `header_size` bytes. Raises DamagedError, or FormatError for an unknown dtype.

    Every tensor must have the bytes that its dtype and shape need, and all of them together must fill the file
    without a hole, an overlap or a byte beyond its end.
    """
    try:
        values = json.loads(raw[LENGTH_BYTES:], object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where}: its header cannot be read ({error}); use another checkpoint") from error
    if not isinstance(values, dict):
        raise _wrong(where, f"is {values!r:.80}, wanted a mapping of names")
    metadata = values.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _wrong(where, f"has the metadata {metadata!r:.80}, wanted text by name")
    entries = sorted(
        (_entry(name, value, len(raw), where) for name, value in values.items()),
        key=lambda entry: (entry.begin, entry.end),
    )
    position = len(raw)
    for entry in entries:
        if entry.begin != position:
            what = "overlaps the one before it" if entry.begin < position else "leaves a hole before it"
            raise _wrong(where, f"puts the tensor {entry.name!r} at byte {entry.begin}, which {what} (at {position})")
        position = entry.end
    if position != file_size:
        raise _wrong(where, f"describes tensors up to byte {position}, the file ends at {file_size}")
    return Header({entry.name: entry for entry in entries}, metadata, len(raw))


def _entry(name: str, value: object, data_start: int, where: Path) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _wrong(where, f"describes the tensor {name!r} as {value!r:.80}, wanted dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise FormatError(
            f"{where}: the tensor {name!r} has the dtype {dtype!r:.80}, wanted one of {', '.join(ITEM_BYTES)}; "
            "a newer runner may read it"
        )
    if not _are_counts(shape) or len(shape) > 64 or math.prod(max(length, 1) for length in shape) >= 2**60:
        raise _wrong(where, f"gives the tensor {name!r} the shape {shape!r:.80}, wanted a list of sizes")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _wrong(where, f"gives the tensor {name!r} the offsets {offsets!r:.80}, wanted where it begins and ends")
    begin, end = offsets
    needed = ITEM_BYTES[dtype] * math.prod(shape)
    if end - begin != needed:
        raise _wrong(where, f"gives the tensor {name!r} the bytes {begin} to {end}; {dtype} {shape} needs {needed}")
    return Entry(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return values


def _wrong(where: Path, what: str) -> DamagedError:
    return DamagedError(f"{where}: its header {what}; use another checkpoint")
