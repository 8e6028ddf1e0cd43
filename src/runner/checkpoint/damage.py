"""What is damaged in a file of a checkpoint, named as closely as its header allows. No torch here."""

from runner.checkpoint.files import Member
from runner.checkpoint.header import Header, header_size, parse_header
from runner.errors import CheckpointError


def damages_in(member: Member) -> list[str]:
    """A line for each damaged chunk of an opened file, naming the tensors in it where there are some."""
    scratch = bytearray(member.record.chunk_bytes if len(member.record.chunks) > 1 else member.record.size)
    header: Header | None = None
    damages = []
    for index in range(len(member.record.chunks)):
        begin, end = member.extent(index)
        chunk = memoryview(scratch)[: end - begin]
        good = member.fill(index, chunk)
        if index == 0 and member.path.suffix == ".safetensors":
            header = _try_header(bytes(chunk), member)
        if not good:
            names = [repr(entry.name) for entry in header.between(begin, end)] if header else []
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            holding = "the tensors " + ", ".join(names[:5]) + more if names else ""
            if index == 0 and member.path.suffix == ".safetensors":
                holding = f"the header and {holding}" if holding else "the header"
            damages.append(str(member.damaged(index, holding)))
    return damages


def _try_header(start: bytes, member: Member) -> Header | None:
    """The header, if it lies in the first chunk and makes sense, damaged or not: only for naming what is damaged."""
    try:
        size = header_size(start, member.record.size, member.path)
        return parse_header(start[:size], member.record.size, member.path) if size <= len(start) else None
    except CheckpointError:
        return None
