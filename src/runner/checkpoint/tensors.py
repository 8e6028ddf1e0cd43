"""Tensor files: named tensors as bytes in the safetensors format, streamed out and read back with every byte checked.

Dtypes that the format does not have are stored as one that it has, and named in the metadata `runner.dtypes`.
"""

import json
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from runner.checkpoint.damage import damaged_tensors, read_header
from runner.checkpoint.files import CHUNK_BYTES, Member
from runner.checkpoint.header import TORCH_NAMES, Entry, Header, lay_out
from runner.checkpoint.reading import read_chunks
from runner.errors import CheckpointError, DamagedError

_NAMES: Mapping[torch.dtype, str] = {getattr(torch, name): dtype for dtype, name in TORCH_NAMES.items()}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}

# Dtypes that the format lacks: what they are stored as, and the length of the dimension that is added for it.
_STAND_INS: Mapping[str, tuple[torch.dtype, str, tuple[int, ...]]] = {
    "complex128": (torch.complex128, "F64", (2,)),
    "complex32": (torch.complex32, "F16", (2,)),
    "float4_e2m1fn_x2": (torch.float4_e2m1fn_x2, "U8", ()),
}
_STAND_INS_BY_DTYPE = {dtype: (tag, name, extra) for tag, (dtype, name, extra) in _STAND_INS.items()}
_TAGS = "runner.dtypes"

_MOST_PARTS = 64
"""With more tensors than this in a chunk, to read it in one piece and copy is quicker than to read each into place."""


def can_store(tensor: Tensor) -> bool:
    """Whether a tensor has a form in a tensor file: dense, with values, of a dtype that is known."""
    known = tensor.dtype in _NAMES or tensor.dtype in _STAND_INS_BY_DTYPE
    return known and tensor.layout == torch.strided and not tensor.is_meta


class TensorFile:
    """Tensors to be written to one file. They are read while `chunks` is consumed, not before."""

    def __init__(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
        self._tensors = tensors
        tags: dict[str, str] = {}
        specs = []
        for name, tensor in tensors.items():
            if tensor.dtype in _NAMES:
                specs.append((name, _NAMES[tensor.dtype], tuple(tensor.shape)))
            else:
                tags[name], stored, extra = _STAND_INS_BY_DTYPE[tensor.dtype]
                specs.append((name, stored, (*tensor.shape, *extra)))
        # Other programs look at `format` to learn that a file came from torch.
        metadata = {"format": "pt", **(facts or {})} | ({_TAGS: json.dumps(tags)} if tags else {})
        self.start, self.header = lay_out(specs, metadata)
        """The bytes before the data, and where in the file each tensor stands."""

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return max((entry.end for entry in self.header.entries.values()), default=self.header.size)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The file's bytes from the start, in pieces of CHUNK_BYTES; only the last is shorter."""
        return _in_chunks(self._pieces())

    def _pieces(self) -> Iterator[memoryview]:
        yield memoryview(self.start)
        for name in self.header.entries:
            yield memory_of(_on_host(self._tensors[name]))


def check_dtype(dtype: object) -> None:
    """Raises CheckpointError for what is no dtype of real numbers that tensors could be cast to."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise CheckpointError(f"dtype is {dtype!r}; wanted one of real numbers, such as torch.bfloat16")


def placed(tensor: Tensor, device: str | torch.device, dtype: torch.dtype | None) -> Tensor:
    """A tensor on another device; as another dtype where both are of real numbers."""
    real = dtype is not None and dtype.is_floating_point and tensor.is_floating_point()
    return tensor.to(device=device, dtype=dtype if real else None)


def memory_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the host, not copied; what is written into them changes the tensor."""
    # The view in between is for the dtypes that numpy lacks; a tensor without dimensions has no last one to view.
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def tensors_in(member: Member, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors of an opened file, or those of `names` that it has, each in storage of its own.

    Only the chunks that hold them are read; every chunk read is compared with its digest. Raises DamagedError naming
    the tensors that a damaged chunk holds.
    """
    header = read_header(member)
    entries = [entry for name, entry in header.entries.items() if names is None or name in names]
    dtypes = _true_dtypes(header, member.path)
    tensors = {entry.name: _empty(entry, dtypes) for entry in entries}
    _fill(member, header, {name: memory_of(tensor) for name, tensor in tensors.items()})
    return tensors


def _fill(member: Member, header: Header, memories: Mapping[str, memoryview]) -> None:
    """Read the chunks that hold bytes of these tensors into their memory."""
    entries = [entry for entry in header.entries.values() if entry.end > entry.begin]
    ends = [entry.end for entry in entries]
    wanted = sorted({index for name in memories for index in _chunks_of(header.entries[name], member)})

    def read(index: int, scratch: memoryview) -> bool:
        begin, end = member.extent(index)
        held = _from(entries, bisect_right(ends, begin), end)
        parts = [
            (max(entry.begin, begin), memories[entry.name][max(begin - entry.begin, 0) : end - entry.begin])
            for entry in held
            if entry.name in memories
        ]
        fits = len(parts) <= _MOST_PARTS and sum(len(memory) for _, memory in parts) == end - begin
        if fits and not member.in_chunks:
            return member.scatter(index, [memory for _, memory in parts])
        good = member.fill(index, scratch)
        for position, memory in parts:
            memory[:] = scratch[position - begin : position - begin + len(memory)]
        return good

    for index, good in zip(wanted, read_chunks(member, wanted, read), strict=True):
        if not good:
            raise damaged_tensors(member, index, header)


def _chunks_of(entry: Entry, member: Member) -> range:
    if entry.begin == entry.end:
        return range(0)
    size = member.record.chunk_bytes
    return range(entry.begin // size, (entry.end - 1) // size + 1)


def _from(entries: list[Entry], first: int, end: int) -> list[Entry]:
    last = first
    while last < len(entries) and entries[last].begin < end:
        last += 1
    return entries[first:last]


def _true_dtypes(header: Header, path: Path) -> dict[str, str]:
    """The dtypes of the tensors that are stored as another one."""
    try:
        tags = json.loads(header.metadata.get(_TAGS, "{}"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: its metadata cannot be read ({error}); use another checkpoint") from error
    if not isinstance(tags, dict):
        raise DamagedError(f"{path}: its metadata {_TAGS} is {tags!r:.80}, wanted dtypes by name")
    for name, tag in tags.items():
        entry = header.entries.get(name)
        stand_in = _STAND_INS.get(tag) if isinstance(tag, str) else None
        if entry is None or stand_in is None or entry.dtype != stand_in[1] or not _ends_with(entry.shape, stand_in[2]):
            raise DamagedError(
                f"{path}: says that {name!r} is {tag!r}, which does not agree with its header; use another checkpoint"
            )
    return tags


def _ends_with(shape: tuple[int, ...], end: tuple[int, ...]) -> bool:
    return shape[len(shape) - len(end) :] == end


def _empty(entry: Entry, tags: Mapping[str, str]) -> Tensor:
    if entry.name not in tags:
        return torch.empty(entry.shape, dtype=_DTYPES[entry.dtype])
    dtype, _, extra = _STAND_INS[tags[entry.name]]
    return torch.empty(entry.shape[: len(entry.shape) - len(extra)], dtype=dtype)


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()


def _in_chunks(pieces: Iterable[memoryview]) -> Iterator[bytes | memoryview]:
    pending: list[memoryview] = []
    length = 0
    for piece in pieces:
        taken = 0
        while taken < len(piece):
            part = piece[taken : taken + CHUNK_BYTES - length]
            pending.append(part)
            taken += len(part)
            length += len(part)
            if length == CHUNK_BYTES:
                yield pending[0] if len(pending) == 1 else b"".join(pending)
                pending, length = [], 0
    if pending:
        yield b"".join(pending)
