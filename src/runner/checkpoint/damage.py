"""What is damaged in a file of a checkpoint, named as closely as its header allows; and that header. No torch here."""

from runner.checkpoint.files import Member
from runner.checkpoint.header import LENGTH_BYTES, Header, header_size, parse_header
from runner.checkpoint.reading import read_chunks
from runner.errors import CheckpointError, DamagedError


def damages_in(member: Member) -> list[str]:
    """A line for each damaged chunk of an opened file, naming the tensors in it where there are some."""
    chunks = range(member.record.num_chunks)
    bad = [index for index, good in zip(chunks, read_chunks(member, chunks, member.fill), strict=True) if not good]
    if bad:
        header = likely_header(member)
        return [str(damaged_tensors(member, index, header)) for index in bad]
    if member.path.suffix != ".safetensors":
        return []
    try:
        # Bytes that are as they were written can still be none of ours.
        read_header(member)
    except CheckpointError as error:
        return [str(error)]
    return []


def likely_header(member: Member) -> Header | None:
    """The header of a tensor file that is damaged somewhere, if it still makes sense; None for other files."""
    if member.path.suffix != ".safetensors":
        return None
    begin, end = member.extent(0)
    start = bytearray(end - begin)
    member.fill(0, memoryview(start))
    return try_header(bytes(start), member)


def damaged_tensors(member: Member, index: int, header: Header | None) -> DamagedError:
    """The error for a damaged chunk, naming what it holds. Without a header that makes sense, only the place."""
    begin, end = member.extent(index)
    parts = ["the header"] if header is not None and begin < header.size else []
    if header is not None and (held := header.between(begin, end)):
        names = ", ".join(repr(entry.name) for entry in held[:5])
        parts.append(f"the tensors {names}" + (f" and {len(held) - 5} more" if len(held) > 5 else ""))
    return member.damaged(index, " and ".join(parts))


def try_header(start: bytes, member: Member) -> Header | None:
    """The header, if it lies in the first chunk and makes sense, damaged or not: only for naming what is damaged."""
    try:
        size = header_size(start, member.record.size, member.path)
        return parse_header(start[:size], member.record.size, member.path) if size <= len(start) else None
    except CheckpointError:
        return None


def read_header(member: Member) -> Header:
    """The header of an opened tensor file, verified."""
    record = member.record
    if record.size < LENGTH_BYTES:
        raise DamagedError(f"{member.path}: has {record.size} bytes, wanted a tensor file; use another checkpoint")
    raw = bytearray()
    needed = LENGTH_BYTES
    index = 0
    while len(raw) < needed:
        begin, end = member.extent(index)
        chunk = bytearray(end - begin)
        if not member.fill(index, memoryview(chunk)):
            raise damaged_tensors(member, index, try_header(bytes(chunk), member) if index == 0 else None)
        raw += chunk
        if needed == LENGTH_BYTES and len(raw) >= LENGTH_BYTES:
            needed = header_size(bytes(raw[:LENGTH_BYTES]), record.size, member.path)
        index += 1
    return parse_header(bytes(raw[:needed]), record.size, member.path)
