"""Bytes that are not what was written, of every class and in every file: noticed, named, and fallen back from."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import flip

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.header import LENGTH_BYTES
from runner.checkpoint.listing import list_checkpoints, newest_whole
from runner.checkpoint.store import CheckpointStore
from runner.errors import CheckpointError
from runner.records import Saved

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]

TENSOR_FILES = ("model.safetensors", "frozen.safetensors", "optimizer.safetensors", "extra.safetensors")
TEXTS = ("manifest.json", "state.json", "config.yaml", "config.json")


def header_bytes(file: Path) -> int:
    return LENGTH_BYTES + int.from_bytes(file.read_bytes()[:LENGTH_BYTES], "little")


def position_of(kind: str, file: Path) -> int:
    """A byte of that class."""
    raw = file.read_bytes()
    return {
        "header length": 0,
        "header text": raw.find(b'"dtype"'),
        "offsets": raw.find(b"data_offsets") + len(b'data_offsets":['),
        "padding": header_bytes(file) - 1,
        "first of the data": header_bytes(file),
        "last of the data": len(raw) - 1,
    }[kind]


@pytest.fixture
def two(make_store: MakeStore, save: Save) -> CheckpointStore:
    store = make_store()
    save(store, 1, val_loss=2.0)
    save(store, 2, val_loss=1.0)
    return store


@pytest.fixture
def falls_back(
    two: CheckpointStore,
    make_store: MakeStore,
    is_whole: Callable[[Checkpoint], bool],
    caplog: pytest.LogCaptureFixture,
) -> Callable[[Path], str]:
    """Checks that a damage of this file of the newest checkpoint is noticed and passed over; what was said of it."""

    def check(file: Path) -> str:
        whole, said = newest_whole(*list_checkpoints(make_store().directory))
        assert whole is not None and whole.step == 1 and is_whole(whole)
        assert len(said) == 1
        assert said[0].startswith(f"{file}: ")
        with caplog.at_level(logging.WARNING):
            newest = Checkpoint.open(two.directory)
        if file.name == "manifest.json":
            # Without it nothing can be said of the others.
            assert newest.step == 1
            assert f"passed over: {file}: " in caplog.text
        else:
            assert newest.step == 2
            assert said[0] in newest.verify()
            with pytest.raises(CheckpointError) as caught:
                read_all(newest)
            assert str(caught.value).startswith(f"{file}: ")
        return said[0]

    return check


def read_all(checkpoint: Checkpoint) -> None:
    for name in checkpoint.manifest.files:
        if not name.endswith(".safetensors"):
            checkpoint.document(name)
    checkpoint.tensors()
    checkpoint.state()


@pytest.mark.parametrize("file", TENSOR_FILES)
@pytest.mark.parametrize(
    "kind", ["header length", "header text", "offsets", "padding", "first of the data", "last of the data"]
)
@pytest.mark.parametrize("bits", [0x01, 0x80], ids=["low bit", "high bit"])
def test_a_flipped_byte_of_a_tensor_file_is_named_with_what_it_holds(
    file: str, kind: str, bits: int, two: CheckpointStore, falls_back: Callable[[Path], str]
) -> None:
    assert two.newest is not None
    path = two.newest.path / file
    flip(path, position_of(kind, path), bits)
    said = falls_back(path)
    assert "is damaged: bytes 0 to " in said
    if kind.endswith("of the data"):
        assert "which hold the header and the tensors '" in said


@pytest.mark.parametrize("file", [*TEXTS, *TENSOR_FILES])
def test_every_byte_of_every_file_matters(file: str, two: CheckpointStore) -> None:
    assert two.newest is not None
    path = two.newest.path / file
    raw = path.read_bytes()
    path.unlink()
    # All of what is short; of what is long the beginning, the end and some in between.
    places = {*range(0, len(raw), max(1, len(raw) // 150)), *range(min(40, len(raw))), len(raw) - 2, len(raw) - 1}
    for place in places:
        changed = bytearray(raw)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        assert two.newest.verify(), place
    path.write_bytes(raw)
    assert two.newest.verify() == []


@pytest.mark.parametrize("file", [*TEXTS, *TENSOR_FILES])
def test_any_truncation_and_any_bytes_too_many_are_noticed_and_named(
    file: str, two: CheckpointStore, falls_back: Callable[[Path], str]
) -> None:
    assert two.newest is not None
    path = two.newest.path / file
    raw = path.read_bytes()
    lengths = {0, 1, 7, 8, 9, len(raw) // 3, len(raw) // 2, 4095, 4096, 4097, len(raw) - 1} & set(range(len(raw)))
    for length in sorted(lengths):
        path.unlink()
        path.write_bytes(raw[:length])
        said = falls_back(path)
        assert "is cut short" in said or file == "manifest.json"
    for more in (b"\0", b"\n", raw, b"\0" * 4096):
        path.unlink()
        path.write_bytes(raw + more)
        said = falls_back(path)
        assert "has bytes too many" in said or file == "manifest.json"


@pytest.mark.parametrize("file", [*TEXTS, *TENSOR_FILES])
@pytest.mark.parametrize("place", ["nothing", "a directory", "a link", "a pipe"])
def test_what_stands_in_a_files_place_is_named(
    file: str, place: str, two: CheckpointStore, falls_back: Callable[[Path], str], tmp_path: Path
) -> None:
    assert two.newest is not None
    path = two.newest.path / file
    raw = path.read_bytes()
    path.unlink()
    if place == "a directory":
        path.mkdir()
    elif place == "a link":
        (tmp_path / "the same bytes").write_bytes(raw)
        path.symlink_to(tmp_path / "the same bytes")
    elif place == "a pipe":
        os.mkfifo(path)
    said = falls_back(path)
    assert {"nothing": "is missing", "a link": "no link"}.get(place, "") in said


def test_files_that_are_exchanged_between_checkpoints_are_noticed(
    two: CheckpointStore, falls_back: Callable[[Path], str]
) -> None:
    one, newest = two.checkpoints
    file = newest.path / "model.safetensors"
    file.unlink()
    # Whole in itself, and of the same length: but of another step.
    file.write_bytes((one.path / "model.safetensors").read_bytes())
    assert "is damaged" in falls_back(file)


def test_a_manifest_of_another_checkpoint_is_noticed(two: CheckpointStore) -> None:
    one, newest = two.checkpoints
    (newest.path / "manifest.json").write_bytes((one.path / "manifest.json").read_bytes())
    taken = Checkpoint.open(newest.path)
    assert any("state.json" in damage for damage in taken.verify())


def test_files_that_the_manifest_does_not_list_are_not_read(two: CheckpointStore) -> None:
    assert two.newest is not None
    (two.newest.path / "frozen2.safetensors").write_bytes(b"\xff" * 100)
    (two.newest.path / "notes.txt").write_text("mine")
    read_all(two.newest)
    with pytest.raises(CheckpointError, match=r"has no 'notes\.txt'"):
        two.newest.document("notes.txt")


def test_metrics_and_progress_cannot_be_changed_without_notice(two: CheckpointStore) -> None:
    assert two.newest is not None
    path = two.newest.path / "manifest.json"
    text = path.read_text()
    for old, new in (
        ('"val_loss": 1.0', '"val_loss": 0.0'),
        ('"step": 2', '"step": 9'),
        ('"every_steps"', '"every_stepz"'),
    ):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(CheckpointError, match="is damaged: its text is not what was written"):
            Checkpoint.open(two.newest.path)
    values: dict[str, Any] = json.loads(text)
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="is damaged"):
        Checkpoint.open(two.newest.path)
