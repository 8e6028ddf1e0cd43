"""Compressed files of a checkpoint, chunk by chunk."""

import struct
from pathlib import Path

import pytest
import zstandard

from runner.checkpoint.compressed import Frames, compressed
from runner.checkpoint.files import FileRecord, Member, digest_of, whole_file
from runner.errors import DamagedError


def record(data: bytes, chunk_bytes: int) -> FileRecord:
    chunks = "".join(digest_of(data[begin : begin + chunk_bytes]) for begin in range(0, len(data), chunk_bytes))
    return FileRecord(len(data), digest_of(chunks.encode()), chunk_bytes, chunks)


def write(path: Path, data: bytes, chunk_bytes: int) -> Path:
    pieces = [data[begin : begin + chunk_bytes] for begin in range(0, len(data), chunk_bytes)]
    path.write_bytes(b"".join(compressed(pieces)))
    return path


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 1000])
def test_what_was_compressed_comes_back_by_chunks_and_as_a_whole(length: int, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4
    data = data[:length]
    path = write(tmp_path / "x.zst", data, 10)
    with whole_file(path) as source:
        frames = Frames(source, record(data, 10), path)
        assert frames.size == length
        for begin in reversed(range(0, length, 10)):
            memory = bytearray(len(data[begin : begin + 10]))
            assert frames.read_into(memoryview(memory), begin) == len(memory)
            assert memory == data[begin : begin + 10]


def test_other_programs_unpack_it_too(tmp_path: Path) -> None:
    data = b"abc" * 1000
    path = write(tmp_path / "x.zst", data, 64)
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        assert reader.read() == data


def test_zeros_become_small(tmp_path: Path) -> None:
    assert write(tmp_path / "x.zst", bytes(1_000_000), 100_000).stat().st_size < 1000


def test_a_flipped_byte_is_noticed_or_changes_what_comes_out(tmp_path: Path) -> None:
    data = b"abcdefgh" * 8
    path = write(tmp_path / "x.zst", data, 24)
    raw = bytearray(path.read_bytes())
    for position in range(len(raw)):
        raw[position] ^= 4
        path.write_bytes(raw)
        memories = [bytearray(24), bytearray(24), bytearray(16)]
        with whole_file(path) as source:
            try:
                frames = Frames(source, record(data, 24), path)
                for index, memory in enumerate(memories):
                    frames.read_into(memoryview(memory), index * 24)
            except DamagedError as error:
                assert str(error).startswith(f"{path}: is damaged: its compressed form ")
            else:
                # The digests of the chunks notice this.
                assert b"".join(memories) != data
        raw[position] ^= 4


def test_lengths_in_the_index_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    data = bytes(100)
    path = write(tmp_path / "x.zst", data, 50)
    raw = path.read_bytes()
    for lengths in ((0, 0), (2**32 - 1, 2**32 - 1), (len(raw), 0)):
        path.write_bytes(raw[:-8] + struct.pack("<2I", *lengths))
        with whole_file(path) as source, pytest.raises(DamagedError, match="bytes of frames, its index says"):
            Frames(source, record(data, 50), path)
    path.write_bytes(raw)
    with whole_file(path) as source, pytest.raises(DamagedError, match="does not end with an index of 4 frames"):
        Frames(source, record(data, 25), path)


def test_a_member_of_frames_is_verified_like_any_other(tmp_path: Path) -> None:
    from contextlib import nullcontext

    data = bytes(range(100))
    path = write(tmp_path / "x.zst", data, 30)
    with whole_file(path) as source:
        for good, right in ((data, True), (data[:-1] + b"x", False)):
            frames = Frames(source, record(good, 30), path)
            with Member(path, record(good, 30), nullcontext(frames)) as member:
                assert member.fill(3, memoryview(bytearray(10))) is right
