"""Packed files that somebody has damaged or made to do harm: refused with a reason, nothing run, nothing written."""

import io
import os
import pickle
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard

from runner.checkpoint.archive import pack, unpack
from runner.checkpoint.files import record_of
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.manifest import parse_manifest, to_bytes
from runner.checkpoint.zip_layout import Entry, data_begin, directory, local_header
from runner.errors import CheckpointError, DamagedError, FormatError

FIXTURE = Path(__file__).parents[1] / "fixtures" / "format-1" / "run" / "checkpoints" / "step-000000004"
FORMS = [("x.zip", False), ("x.zip", True), ("x.pt", False)]


@pytest.fixture
def packed(tmp_path: Path) -> Callable[[str, bool], Path]:
    def make(name: str, compress: bool = False) -> Path:
        original = tmp_path / "original"
        shutil.copytree(FIXTURE, original)
        (original / "tag.paper").touch()
        pack(Checkpoint.open(original), tmp_path / name, compress=compress)
        return tmp_path / name

    return make


def complaints(path: Path) -> list[str]:
    """What is said about a packed file; none if it is taken as whole."""
    try:
        return Checkpoint.open(path).verify()
    except CheckpointError as error:
        return [str(error)]


def files() -> dict[str, bytes]:
    order = parse_manifest((FIXTURE / "manifest.json").read_bytes(), FIXTURE).files
    return {name: (FIXTURE / name).read_bytes() for name in ("manifest.json", *order)}


def write(path: Path, members: Iterable[tuple[str, bytes]], **crcs: int) -> Path:
    """A zip file exactly as this program lays it out, whatever is in it."""
    raw, entries = bytearray(), []
    for name, data in members:
        crc = crcs.get(name.replace(".", "_"), zlib.crc32(data))
        header = len(raw)
        raw += local_header(name, crc, len(data), header) + data
        entries.append(Entry(name, crc, len(data), data_begin(name, header), header))
    path.write_bytes(raw + directory(entries, len(raw)))
    return path


@pytest.mark.parametrize(("name", "compress"), FORMS)
def test_every_flipped_byte_is_noticed_and_its_file_named(
    name: str, compress: bool, packed: Callable[[str, bool], Path]
) -> None:
    path = packed(name, compress)
    assert complaints(path) == []
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        headers = [info.header_offset for info in archive.infolist()]
        end = archive.start_dir
    # Every byte of a header and of the directory, and of what lies between a sample.
    positions = {begin + byte for begin in headers for byte in range(50)} | set(range(end, len(raw)))
    positions |= set(range(0, len(raw), 211))
    for position in sorted(position for position in positions if position < len(raw)):
        raw[position] ^= 1 << position % 8
        path.write_bytes(raw)
        found = complaints(path)
        assert found and all(str(path) in line for line in found), f"byte {position}"
        raw[position] ^= 1 << position % 8


@pytest.mark.parametrize(("name", "compress"), FORMS)
def test_what_is_cut_short_or_has_bytes_too_many_is_refused(
    name: str, compress: bool, packed: Callable[[str, bool], Path]
) -> None:
    path = packed(name, compress)
    raw = path.read_bytes()
    lengths = [*range(40), *range(40, len(raw), 977), *range(len(raw) - 80, len(raw))]
    for changed in [*(raw[:length] for length in lengths), raw + b"\0", raw + raw[-22:], b"\0" + raw, raw[:100] + raw]:
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            Checkpoint.open(path)


def test_the_helper_writes_what_the_program_writes(packed: Callable[[str], Path], tmp_path: Path) -> None:
    ours = packed("x.zip").read_bytes()
    assert write(tmp_path / "y.zip", [*files().items(), ("tag.paper", b"")]).read_bytes() == ours


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../escaped", "holds a member '../../escaped'; wanted plain names inside the checkpoint"),
        ("/tmp/escaped", "holds a member '/tmp/escaped'; wanted plain names"),
        ("a/../../escaped", "wanted plain names"),
        ("C:\\escaped", "wanted plain names"),
        ("sub/escaped", "wanted plain names"),
        ("escaped\n", "wanted plain names"),
        ("ünicode", "wanted plain names"),
        (".hidden", "wanted plain names"),
        ("escaped.py", "holds 'escaped.py', which its manifest does not list"),
        ("tag.full", "holds 'tag.full', which its manifest does not list"),
        ("state.json.zst", "is not laid out"),
        ("archive/data/escaped", "holds 'archive/data/escaped', which its manifest does not list"),
    ],
)
def test_names_that_do_not_belong_there_are_refused(name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for member, data in {**files(), name: b"evil"}.items():
            archive.writestr(member, data)
    if re.fullmatch(r"[\w./]+", name, re.ASCII) and ".." not in name and name[0] not in "/.":
        write(path, {**files(), name: b"evil"}.items())
    if name == "state.json.zst":
        # A second form of a listed file has no use, and no harm: the stored one is read.
        assert complaints(path) == []
        return
    for act in (Checkpoint.open, lambda place: unpack(place, tmp_path / "out")):
        with pytest.raises(FormatError, match=re.escape(message)):
            act(path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.zip"}


def other_zip(path: Path, change: Callable[[zipfile.ZipFile], None]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files().items():
            archive.writestr(name, data)
        change(archive)
    return path


def test_links_in_an_archive_are_refused(tmp_path: Path) -> None:
    def add_link(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("tag.link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")

    with pytest.raises(FormatError, match=r"holds 'tag\.link' as a link; wanted regular files"):
        Checkpoint.open(other_zip(tmp_path / "x.zip", add_link))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_stand_there_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"holds 'state\.json' twice; wanted each name once"):
        Checkpoint.open(other_zip(tmp_path / "x.zip", lambda archive: archive.writestr("state.json", b"{}")))


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = other_zip(tmp_path / "x.zip", lambda archive: None)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=r"holds 'manifest\.json' encrypted; wanted members that are stored"):
        Checkpoint.open(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_bombs_are_refused_unopened(method: int, tmp_path: Path) -> None:
    def add_bomb(archive: zipfile.ZipFile) -> None:
        archive.writestr("bomb.safetensors", bytes(50_000_000), compress_type=method)

    path = other_zip(tmp_path / "x.zip", add_bomb)
    assert path.stat().st_size < 200_000
    with pytest.raises(FormatError, match=r"holds 'bomb\.safetensors' compressed in the way of zip files \(\d+\)"):
        Checkpoint.open(path)


def test_an_archive_in_an_archive_is_no_checkpoint(packed: Callable[[str], Path], tmp_path: Path) -> None:
    outer = write(tmp_path / "outer.zip", [("inner.zip", packed("x.zip").read_bytes())])
    with pytest.raises(FormatError, match=r"is a zip file, and no checkpoint of this program; it holds 'inner\.zip'"):
        Checkpoint.open(outer)


def test_a_bomb_of_zstd_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    members = files()
    state = members.pop("state.json")
    chunks = -(-len(state) // 4096)
    for content in (bytes(500_000_000), bytes(4096)):
        frame = zstandard.ZstdCompressor().compress(content)
        index = struct.pack(f"<4sI{chunks}I", b"\x5e\x2a\x4d\x18", 4 * chunks, len(frame), *[0] * (chunks - 1))
        path = write(tmp_path / "x.zip", [*members.items(), ("state.json.zst", frame + index)])
        with pytest.raises(DamagedError, match=r"x\.zip/state\.json: is damaged"):
            Checkpoint.open(path).state()
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(500_000_000))
    index = struct.pack(f"<4sI{chunks}I", b"\x5e\x2a\x4d\x18", 4 * chunks, len(unknown), *[0] * (chunks - 1))
    write(path, [*members.items(), ("state.json.zst", unknown + index)])
    with pytest.raises(DamagedError, match="its compressed form holds in frame 0 something else than 4096 bytes"):
        Checkpoint.open(path).state()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda frames: frames[:10], "is too short for its index"),
        (lambda frames: frames[:-1], "does not end with an index of 3 frames"),
        (lambda frames: b"x" + frames, "bytes of frames, its index says"),
        (lambda frames: bytes(8) + frames[8:], r"something else than 4096 bytes|cannot be unpacked in frame 0"),
    ],
)
def test_compressed_members_that_make_no_sense_are_refused(
    make: Callable[[bytes], bytes], message: str, packed: Callable[[str, bool], Path], tmp_path: Path
) -> None:
    with zipfile.ZipFile(packed("x.zip", True)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["state.json.zst"] = make(members["state.json.zst"])
    path = write(tmp_path / "y.zip", members.items())
    with pytest.raises(DamagedError, match=f"y.zip/state.json: is damaged: its compressed form .*({message})"):
        Checkpoint.open(path).state()


def test_a_wrong_crc_is_noticed_though_the_bytes_are_right(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip", files().items(), state_json=1)
    assert complaints(path) == [
        f"{path}: is damaged: the zip CRC of 'state.json' is 00000001, its bytes have "
        f"{zlib.crc32(files()['state.json']):08x}; use another checkpoint"
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [(20, 2**31), (24, 2**31), (24, 2**32 - 1), (42, 2**31), (42, 0), (42, 7), (28, 65535), (30, 65535), (32, 65535)],
)
def test_a_directory_that_lies_about_sizes_and_places_is_refused(
    field: int, value: int, packed: Callable[[str], Path]
) -> None:
    path = packed("x.zip")
    raw = bytearray(path.read_bytes())
    record = [match.start() for match in re.finditer(b"PK\x01\x02", raw)][2]
    struct.pack_into("<H" if value == 65535 else "<I", raw, record + field, value)
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        Checkpoint.open(path)


@pytest.mark.parametrize(
    ("field", "value"), [(8, 3), (10, 65535), (12, 2**31), (12, 1), (16, 0), (16, 2**32 - 1), (20, 1)]
)
def test_an_end_of_the_directory_that_lies_is_refused(field: int, value: int, packed: Callable[[str], Path]) -> None:
    path = packed("x.zip")
    raw = bytearray(path.read_bytes())
    struct.pack_into("<H" if field in (8, 10, 20) else "<I", raw, len(raw) - 22 + field, value)
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        Checkpoint.open(path)


def test_members_that_overlap_or_leave_holes_are_refused(packed: Callable[[str], Path], tmp_path: Path) -> None:
    path = packed("x.zip")
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        end = archive.start_dir
    entries = [Entry(info.filename, info.CRC, info.file_size, 0, info.header_offset) for info in infos]
    shared = [*entries[:-1], Entry("tag.paper", entries[0].crc, entries[0].size, 0, entries[0].header)]
    path.write_bytes(raw[:end] + directory(shared, end))
    with pytest.raises(CheckpointError, match=r"is damaged|twice|other members"):
        Checkpoint.open(path)
    path.write_bytes(raw[:end] + bytes(4096) + directory(entries, end + 4096))
    with pytest.raises(DamagedError, match="the zip directory, are not those that this program writes"):
        Checkpoint.open(path)


def test_a_listed_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    members = files()
    del members["optimizer.safetensors"]
    assert complaints(write(tmp_path / "x.zip", members.items())) == [
        f"{tmp_path / 'x.zip' / 'optimizer.safetensors'}: is missing; use another checkpoint"
    ]


def test_a_manifest_that_lists_names_outside_is_refused(tmp_path: Path) -> None:
    manifest = parse_manifest((FIXTURE / "manifest.json").read_bytes(), FIXTURE)
    bad = to_bytes(
        type(manifest)(**{**vars_of(manifest), "format": 2, "reader": 2, "files": {"../escaped": record_of([b"x"])}})
    )
    path = write(tmp_path / "x.zip", [("manifest.json", bad)])
    with pytest.raises(FormatError, match=r"names a file '\.\./escaped'; wanted a plain name"):
        unpack(path, tmp_path / "out")
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.zip"}


def vars_of(manifest: Any) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in type(manifest).__dataclass_fields__}


class Evil:
    """What makes a pickle run a program."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def pickles(mark: Path) -> dict[str, bytes]:
    word = str(mark).encode()
    by_protocol = {f"reduce, protocol {n}": pickle.dumps({"runner": Evil(mark)}, protocol=n) for n in range(6)}
    return by_protocol | {
        "global": b"cos\nmkdir\n(X" + struct.pack("<I", len(word)) + word + b"tR.",
        "instance": b"(X" + struct.pack("<I", len(word)) + word + b"ios\nmkdir\n.",
        "object": b"(cos\nmkdir\nX" + struct.pack("<I", len(word)) + word + b"o.",
        "stack global": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93(\x8c" + bytes([len(word)]) + word + b"tR.",
        "persistent": b"\x80\x02}(X\x06\x00\x00\x00runnercos\nmkdir\nQu.",
        "nothing": b"",
        "deep": b"\x80\x02" + b"(" * 100_000 + b".",
    }


@pytest.mark.parametrize("kind", list(pickles(Path("x"))))
@pytest.mark.parametrize("forced", [False, True])
def test_another_pickle_in_a_torch_file_is_refused_and_never_run(
    kind: str, forced: bool, packed: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = tmp_path / "was run"
    with zipfile.ZipFile(packed("x.pt")) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["archive/data.pkl"] = pickles(mark)[kind]
    path = write(tmp_path / "y.pt", members.items())
    for act in (Checkpoint.open, lambda place: unpack(place, tmp_path / "out")):
        with pytest.raises(
            FormatError, match=r"its 'archive/data\.pkl' is not the one that belongs to .* nothing in it"
        ):
            act(path)
    assert not mark.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("forced", [False, True])
def test_torch_files_of_others_are_no_checkpoints_and_nothing_in_them_is_run(
    forced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = tmp_path / "was run"
    torch.save({"runner": Evil(mark)}, tmp_path / "zip.pt")
    torch.save({"runner": Evil(mark)}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil(mark)))
    with tarfile.open(tmp_path / "tar.pt", "w") as archive:
        info = tarfile.TarInfo("pickle")
        data = pickle.dumps(Evil(mark))
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    for name, message in (
        ("zip.pt", "is a torch file, and no checkpoint of this program; it holds"),
        ("legacy.pt", "is a file, and no packed checkpoint"),
        ("raw.pt", "is a file, and no packed checkpoint"),
        ("tar.pt", "is a file, and no packed checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.open(tmp_path / name)
    assert not mark.exists()


def test_a_torch_file_that_lacks_what_torch_needs_is_refused(packed: Callable[[str], Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(packed("x.pt")) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name in ("archive/data.pkl", "archive/version", "archive/byteorder"):
        rest = {other: data for other, data in members.items() if other != name}
        with pytest.raises(FormatError, match=f"its '{re.escape(name)}' is not the one that belongs to"):
            Checkpoint.open(write(tmp_path / "y.pt", rest.items()))
