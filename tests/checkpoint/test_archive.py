"""Checkpoints packed and unpacked, with one that a real run has made and with those of a real store."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.checkpoint.archive import pack, unpack
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.header import TORCH_NAMES
from runner.checkpoint.store import CheckpointStore
from runner.checkpoint.tensors import TensorFile
from runner.errors import CheckpointError, ConfigError, DamagedError, SaveError
from runner.records import Progress, Saved

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]
Same = Callable[[Any, Any], bool]

FIXTURE = Path(__file__).parents[1] / "fixtures" / "format-1" / "run" / "checkpoints" / "step-000000004"
FORMS = [("x.zip", False), ("x.zip", True), ("x.pt", False), ("x.PTH", False)]


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A checkpoint with tags and with files of several chunks."""
    path = tmp_path / "step one, größe"
    shutil.copytree(FIXTURE, path)
    for tag in ("paper", "best.of-2"):
        (path / f"tag.{tag}").touch()
    return path


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def take_away(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(("name", "compress"), FORMS)
def test_every_byte_comes_back(name: str, compress: bool, original: Path, tmp_path: Path) -> None:
    size = pack(Checkpoint.open(original), tmp_path / name, compress=compress)
    assert (tmp_path / name).stat().st_size == size
    unpacked = unpack(tmp_path / name, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(original)
    assert unpacked.verify() == []
    assert {path.name for path in tmp_path.iterdir()} == {original.name, name, "out"}


@pytest.mark.parametrize(("name", "compress"), FORMS)
def test_a_packed_checkpoint_is_read_like_a_directory(
    name: str, compress: bool, original: Path, tmp_path: Path, same: Same
) -> None:
    whole = Checkpoint.open(original)
    pack(whole, tmp_path / name, compress=compress)
    packed = Checkpoint.open(tmp_path / name)
    assert packed.path == tmp_path / name
    assert packed.manifest == whole.manifest
    assert packed.verify() == []
    assert same(packed.state(), whole.state())
    assert same(packed.tensors(), whole.tensors())
    assert packed.tags == ("best.of-2", "paper")
    assert packed.config == whole.config
    assert packed.document("config.yaml") == whole.document("config.yaml")
    assert Checkpoint.open(tmp_path / name, "paper").step == Checkpoint.open(tmp_path / name, 4).step == 4
    with pytest.raises(CheckpointError, match="is not tagged 'other'; give the run"):
        Checkpoint.open(tmp_path / name, "other")


def test_what_a_file_is_is_seen_from_what_is_in_it(original: Path, tmp_path: Path) -> None:
    pack(Checkpoint.open(original), tmp_path / "a.zip")
    pack(Checkpoint.open(original), tmp_path / "b.pt")
    (tmp_path / "a.zip").rename(tmp_path / "c.pt")
    (tmp_path / "b.pt").rename(tmp_path / "d")
    (tmp_path / "link").symlink_to("d")
    for name in ("c.pt", "d", "link"):
        assert Checkpoint.open(tmp_path / name).verify() == []


def test_a_packed_checkpoint_can_be_packed_again_in_another_form(original: Path, tmp_path: Path) -> None:
    pack(Checkpoint.open(original), tmp_path / "a.zip", compress=True)
    pack(Checkpoint.open(tmp_path / "a.zip"), tmp_path / "b.pt")
    pack(Checkpoint.open(tmp_path / "b.pt"), tmp_path / "c.zip", compress=True)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "c.zip").read_bytes()


def test_members_are_stored_and_begin_at_multiples_of_4_kib(original: Path, tmp_path: Path) -> None:
    import zipfile

    for name, prefix in (("a.zip", ""), ("a.pt", "archive/data/")):
        pack(Checkpoint.open(original), tmp_path / name)
        raw = (tmp_path / name).read_bytes()
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert archive.testzip() is None
            for file, data in contents(original).items():
                info = archive.getinfo(prefix + file)
                assert archive.read(info) == data
                assert info.compress_type == zipfile.ZIP_STORED
                if data:
                    assert raw.index(data) % 4096 == 0


def test_torch_opens_a_torch_file_by_itself(original: Path, tmp_path: Path, same: Same) -> None:
    whole = Checkpoint.open(original)
    pack(whole, tmp_path / "x.pt")
    for mapped in (False, True):
        loaded = torch.load(tmp_path / "x.pt", weights_only=True, mmap=mapped)
        ours = loaded.pop("runner")
        tensors = whole.tensors()
        # complex128 is stored as pairs of float64.
        for name in list(tensors):
            if tensors[name].dtype == torch.complex128:
                tensors[name] = torch.view_as_real(tensors[name])
        assert same(dict(loaded), tensors)
        assert all(not tensor.requires_grad for tensor in loaded.values())
        assert ours["format"] == whole.manifest.format
        read = {name: tensor.numpy().tobytes() for name, tensor in ours["files"].items()}
        assert read == {name: data for name, data in contents(original).items() if not name.startswith("tag.")}
        momentum = ours["tensors"]["optimizer.safetensors"]["state.head.weight.exp_avg"]
        assert torch.equal(momentum, whole.state()["optimizer"]["state"]["head.weight"]["exp_avg"])


def test_torch_sees_every_dtype_and_shape(make_store: MakeStore, tmp_path: Path, same: Same) -> None:
    tensors = {name: torch.zeros(3, 2, dtype=torch.uint8).to(getattr(torch, name)) for name in TORCH_NAMES.values()} | {
        "empty": torch.empty(2, 0, 3),
        "scalar": torch.tensor(7),
        "runner": torch.ones(2),
        "long": torch.ones(1, 2, 3),
    }
    assert {entry.dtype for entry in TensorFile(tensors).header.entries.values()} == set(TORCH_NAMES)
    store = make_store()
    store.save(
        {"model": tensors}, progress=Progress(step=1), reasons=(), metrics={}, documents={"empty": b""}, facts={}
    ).wait()
    pack(Checkpoint.open(store.directory), tmp_path / "x.pt")
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    ours = loaded.pop("runner")
    assert same(ours["tensors"]["model.safetensors"].pop("runner"), tensors.pop("runner"))
    assert loaded.keys() == tensors.keys()
    assert all(same(loaded[name], tensor) for name, tensor in tensors.items())


def test_packing_names_what_is_damaged_and_leaves_nothing(original: Path, tmp_path: Path) -> None:
    file = original / "optimizer.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    for name, compress in FORMS:
        with pytest.raises(
            DamagedError, match=r"optimizer\.safetensors: is damaged: bytes 4096 to .* the tensors 'state\."
        ):
            pack(Checkpoint.open(original), tmp_path / name, compress=compress)
    assert [path.name for path in tmp_path.iterdir()] == [original.name]


def test_nothing_is_overwritten(original: Path, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(ConfigError, match=r"x\.zip: stands there already, and nothing is overwritten"):
        pack(Checkpoint.open(original), tmp_path / "x.zip")
    pack(Checkpoint.open(original), tmp_path / "y.zip")
    for target in (tmp_path / "full", tmp_path / "x.zip"):
        with pytest.raises(ConfigError, match=re.escape(f"{target}: stands there already")):
            unpack(tmp_path / "y.zip", target)
    assert (tmp_path / "x.zip").read_bytes() == b"mine"
    assert contents(tmp_path / "full") == {"mine": b""}
    (tmp_path / "empty").mkdir()
    assert unpack(tmp_path / "y.zip", tmp_path / "empty").verify() == []


def test_another_name_is_refused_saying_which_are_written(original: Path, tmp_path: Path) -> None:
    for name in ("x.tar", "x", "x.zip.gz"):
        with pytest.raises(ConfigError, match=r"packed files end in \.zip, \.pt, \.pth; choose one of these"):
            pack(Checkpoint.open(original), tmp_path / name)
    with pytest.raises(ConfigError, match="torch reads no compressed files; give a name that ends"):
        pack(Checkpoint.open(original), tmp_path / "x.pt", compress=True)


def test_compressing_is_refused_where_the_library_is_not_installed(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(
        ConfigError,
        match=re.escape(
            "zstandard is not installed, and compressed checkpoints need it; pip install 'runner[compress]'"
        ),
    ):
        pack(Checkpoint.open(original), tmp_path / "x.zip", compress=True)
    assert not (tmp_path / "x.zip").exists()


def test_what_is_no_packed_checkpoint_is_not_unpacked(original: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for place, message in (
        (original, "is a directory; give a file that `runs pack` wrote"),
        (tmp_path / "gone", "is not there; give a file"),
        (tmp_path / "text", "is a file, and no packed checkpoint (it begins with b'hell'); give a run's directory"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(f"{place}: {message}")):
            unpack(place, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_cannot_be_written_is_named(original: Path, tmp_path: Path) -> None:
    why = re.escape("could not be written (No such file or directory); make its directory first")
    with pytest.raises(SaveError, match=f"x.zip: {why}"):
        pack(Checkpoint.open(original), tmp_path / "gone" / "x.zip")
    pack(Checkpoint.open(original), tmp_path / "x.zip")
    with pytest.raises(SaveError, match=f"out: {why}"):
        unpack(tmp_path / "x.zip", tmp_path / "gone" / "out")


@pytest.mark.parametrize("name", ["x.zip", "x.pt"])
def test_any_failing_call_leaves_nothing_but_what_was_there(
    name: str, original: Path, tmp_path: Path, file_calls: Callable[[], Any]
) -> None:
    checkpoint = Checkpoint.open(original)
    pack(checkpoint, tmp_path / f"good-{name}")
    before = sorted(tmp_path.iterdir())
    for action in (
        lambda: pack(checkpoint, tmp_path / name),
        lambda: unpack(tmp_path / f"good-{name}", tmp_path / "out"),
    ):
        number = 0
        while True:
            calls = file_calls()
            try:
                with calls.failing(number, 28):
                    action()
                break
            except (SaveError, CheckpointError):
                pass
            assert sorted(tmp_path.iterdir()) == before, calls.log[-3:]
            number += 1
        assert number > 10
        take_away(tmp_path / name)
        take_away(tmp_path / "out")


@pytest.mark.parametrize("after", [False, True])
def test_a_process_that_dies_leaves_all_or_nothing_and_the_next_removes_what_it_left(
    after: bool, original: Path, tmp_path: Path, dying: Callable[[Callable[[], object], int, bool], bool]
) -> None:
    checkpoint = Checkpoint.open(original)
    pack(checkpoint, tmp_path / "good.zip")
    for action, target in (
        (lambda: pack(checkpoint, tmp_path / "x.zip"), tmp_path / "x.zip"),
        (lambda: unpack(tmp_path / "good.zip", tmp_path / "out"), tmp_path / "out"),
    ):
        number = 0
        while dying(action, number, after):
            if target.exists():
                assert Checkpoint.open(target).verify() == []
                take_away(target)
            number += 3
        take_away(target)
        action()
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        assert Checkpoint.open(target).verify() == []


def test_a_writer_that_lives_is_left_alone(original: Path, tmp_path: Path) -> None:
    import fcntl

    pack(Checkpoint.open(original), tmp_path / "x.zip")
    from runner.checkpoint.files import digest_of

    hidden = tmp_path / f".tmp-pack-{digest_of(b'y.zip')[:8]}-01234567"
    with hidden.open("wb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        pack(Checkpoint.open(original), tmp_path / "y.zip")
        assert hidden.exists()
    (tmp_path / "y.zip").unlink()
    pack(Checkpoint.open(original), tmp_path / "y.zip")
    assert not hidden.exists()


def test_a_checkpoint_that_was_replaced_since_it_was_opened_is_not_packed(
    make_store: MakeStore, save: Save, tmp_path: Path
) -> None:
    one, other = make_store(tmp_path / "a"), make_store(tmp_path / "b")
    opened = Checkpoint.open(save(one, 1).path)
    path = save(other, 2).path
    shutil.rmtree(opened.path)
    path.rename(opened.path)
    with pytest.raises(DamagedError, match="is another one than when it was opened; open it again"):
        pack(opened, tmp_path / "x.zip")
