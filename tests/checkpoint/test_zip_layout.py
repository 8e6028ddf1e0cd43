"""The bytes around the members of a zip file, also where 32 bits do not suffice."""

import zipfile
import zlib
from pathlib import Path

import pytest

from runner.checkpoint.files import whole_file
from runner.checkpoint.zip_layout import Entry, data_begin, directory, local_header, member_names, read_entries
from runner.errors import DamagedError, FormatError


def written(path: Path, sizes: dict[str, int]) -> list[Entry]:
    """A file with members of these sizes, all zeros: sparse, so that it takes no room."""
    entries, position = [], 0
    with path.open("wb") as file:
        for name, size in sizes.items():
            begin = data_begin(name, position)
            file.seek(position)
            # Of great ones nobody reads all.
            crc = zlib.crc32(bytes(size)) if size < 10_000 else 0
            file.write(local_header(name, crc, size, position))
            assert file.tell() == begin
            entries.append(Entry(name, crc, size, begin, position))
            position = begin + size
        file.seek(position)
        file.write(directory(entries, position))
    return entries


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"empty": 0},
        {"a": 1, "b" * 104: 4096, "c": 4095, "archive/data/x.safetensors": 3},
        {"just below": 2**32 - 2, "after": 1},
        {"at": 2**32 - 1, "after": 1},
        {"large": 5 * 2**30, "after it": 10, "large again": 2**33},
        {f"n{number}": 0 for number in range(300)},
    ],
    ids=lambda sizes: f"{len(sizes)} of {sum(sizes.values())}",
)
def test_what_is_written_is_read_here_and_by_other_programs(sizes: dict[str, int], tmp_path: Path) -> None:
    sizes = {name.replace(" ", "_"): size for name, size in sizes.items()}
    path = tmp_path / "x.zip"
    entries = written(path, sizes)
    with whole_file(path) as source:
        assert member_names(source, path) == list(sizes)
        assert read_entries(source, path) == entries
    assert all(entry.begin % 4096 == 0 for entry in entries)
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        assert [(info.filename, info.file_size, info.header_offset) for info in infos] == [
            (entry.name, entry.size, entry.header) for entry in entries
        ]
        for info in infos:
            with archive.open(info) as member:
                assert member.read(10) == bytes(min(10, info.file_size))


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    written(path, {f"n{number}": 0 for number in range(10_001)})
    with whole_file(path) as source, pytest.raises(DamagedError, match="the end of the zip directory"):
        read_entries(source, path)


def test_sizes_of_64_bits_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    entries = written(path, {"a": 10})
    end = entries[0].begin + 10
    for size, header in ((2**63, 0), (10, 2**40), (2**64 - 1, 2**64 - 1)):
        lying = [Entry("a", 0, size, 0, header)]
        path.write_bytes(path.read_bytes()[:end] + directory(lying, end))
        with (
            whole_file(path) as source,
            pytest.raises(FormatError, match=f"holds 'a' with {size} bytes from {header} on"),
        ):
            read_entries(source, path)
