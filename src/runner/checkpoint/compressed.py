"""A compressed file of a checkpoint: each chunk a zstd frame of its own, so that a part can be read alone. No torch.

    frames      one for each chunk, in order; each says how long its content is
    index       a frame that zstd skips: 4 bytes 5E 2A 4D 18, 4 bytes length, then 4 bytes for the length of each frame

So `zstd -d` makes the file of it, too.
"""

import importlib
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from runner.checkpoint.files import FileRecord, Source
from runner.errors import ConfigError, DamagedError

SUFFIX = ".zst"
_LEVEL = 3
_INDEX = struct.Struct("<4sI")
_SKIPPED = b"\x5e\x2a\x4d\x18"


def zstd() -> Any:
    """The library. Raises ConfigError where it is not installed."""
    try:
        return importlib.import_module("zstandard")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "zstandard is not installed, and compressed checkpoints need it; pip install 'runner[compress]'"
        ) from error


def compressed(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The frames of a file's chunks, then the index."""
    compressor = zstd().ZstdCompressor(level=_LEVEL, write_content_size=True)
    lengths = []
    for chunk in chunks:
        frame = compressor.compress(chunk)
        lengths.append(len(frame))
        yield frame
    yield _INDEX.pack(_SKIPPED, 4 * len(lengths)) + struct.pack(f"<{len(lengths)}I", *lengths)


class Frames:
    """The content of a compressed file, by chunks. Its lengths are checked before anything is unpacked."""

    in_chunks = True

    def __init__(self, source: Source, record: FileRecord, where: Path) -> None:
        self._zstd = zstd()
        self._source = source
        self._record = record
        self._where = where
        self.size = record.size
        self.identity = source.identity
        self._ends = self._read_index()

    def read_into(self, memory: memoryview, offset: int) -> int:
        """Unpack the chunk that begins at `offset`."""
        index = offset // self._record.chunk_bytes
        begin = self._ends[index - 1] if index else 0
        frame = bytearray(self._ends[index] - begin)
        self._source.read_into(memoryview(frame), begin)
        try:
            # The frame must say how long its content is, and that is what is wanted: nothing larger is made.
            if self._zstd.frame_content_size(frame) != len(memory):
                raise self._wrong(f"holds in frame {index} something else than {len(memory)} bytes")
            content = self._zstd.ZstdDecompressor().decompress(frame, max_output_size=len(memory))
        except self._zstd.ZstdError as error:
            raise self._wrong(f"cannot be unpacked in frame {index} ({error})") from error
        memory[: len(content)] = content
        return len(content)

    def _read_index(self) -> list[int]:
        """Where each frame ends."""
        count = self._record.num_chunks
        raw = bytearray(_INDEX.size + 4 * count)
        begin = self._source.size - len(raw)
        if begin < 0 or self._source.read_into(memoryview(raw), begin) != len(raw):
            raise self._wrong("is too short for its index")
        if _INDEX.unpack(raw[: _INDEX.size]) != (_SKIPPED, 4 * count):
            raise self._wrong(f"does not end with an index of {count} frames")
        ends, end = [], 0
        for length in struct.unpack(f"<{count}I", raw[_INDEX.size :]):
            end += length
            ends.append(end)
        if end != begin:
            raise self._wrong(f"has {begin} bytes of frames, its index says {end}")
        return ends

    def _wrong(self, what: str) -> DamagedError:
        return DamagedError(f"{self._where}: is damaged: its compressed form {what}; use another checkpoint")
