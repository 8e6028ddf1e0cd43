"""What is done to checkpoints, so that it can be disturbed at every call: where it begins and what may come of it."""

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import FileCalls, dies, keeping

from runner.checkpoint.archive import pack, unpack
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.interop import read_weights
from runner.checkpoint.store import CheckpointStore
from runner.records import Saved
from runner.runs.export import export

MakeStore = Callable[..., CheckpointStore]
Save = Callable[..., Saved]

SAVING = ("first save", "save and retention")
NAMES = (*SAVING, "setting aside", "cleaning", "packing as zip", "packing as pt", "unpacking", "exporting")


@dataclass(frozen=True)
class Scene:
    """Checkpoints in a directory, what is done to them, and which may be the newest if that was cut short."""

    begin: Callable[[Path], None]
    act: Callable[[Path], Any]
    newest: set[int | None]
    calls: int
    """How many file calls it takes, at least."""
    told: int
    """Of how many of them a failure is an error, at least."""
    made: str | None
    """What is made beside the directory, if anything is: whole, or not at all."""
    directory: Path
    """Copies of the directory are made beside this one."""

    def made_in(self, directory: Path) -> Path | None:
        """Where what was made is, if it is there. Nothing else is, once somebody has made it again."""
        if self.made is None:
            return None
        made = directory.parent / self.made
        there = made.exists()
        if there:
            assert is_whole(made)
            made.rename(f"{made}-was")
        self.act(directory)
        assert not list(directory.parent.glob(".*"))
        return made if there else None

    def begun(self, name: object) -> Path:
        """A copy, of that name, of the directory in which the scene begins."""
        original = self.directory / "begun" / "checkpoints"
        if not original.parent.exists():
            original.parent.mkdir()
            with FileCalls().quick():
                self.begin(original)
        copy = self.directory / f"copy {name}" / "checkpoints"
        shutil.copytree(original.parent, copy.parent)
        return copy


def is_whole(made: Path) -> bool:
    """Whether a packed or unpacked checkpoint, or an export, is all there."""
    if made.suffix == ".safetensors":
        return sorted(read_weights(made).tensors) == ["base.weight", "head.bias", "head.weight"]
    has_all = len(list(made.iterdir())) == 8 if made.is_dir() else zipfile.ZipFile(made).testzip() is None
    return has_all and Checkpoint.open(made).verify() == []


def scene_of(name: str, directory: Path, make_store: MakeStore, save: Save) -> Scene:
    """One of NAMES."""

    def begin(place: Path, last: int = 2) -> None:
        store = make_store(place, keep=keeping(2))
        for step in range(1, last + 1):
            save(store, step)

    def begin_with_three(place: Path) -> None:
        begin(place, 3)

    def save_next(place: Path) -> Saved:
        return save(make_store(place, keep=keeping(2)), 3)

    def set_aside(place: Path) -> object:
        store = make_store(place)
        return store.set_aside(store.checkpoints[0], 2)

    def leave_leftovers(place: Path) -> None:
        begin(place)
        # In the middle of writing one, and in the middle of removing one.
        assert dies(lambda: save_next(place), 30, True)
        other = make_store(place.parent / "other")
        save(other, 1)
        hidden = next(place.glob(".tmp-*"))
        shutil.copytree(other.directory / "step-000000001", f"{hidden}-2")

    def pack_as(name: str) -> Callable[[Path], int]:
        return lambda place: pack(Checkpoint.open(place), place.parent / name)

    def begin_packed(place: Path) -> None:
        begin(place)
        pack_as("packed.zip")(place)

    def unpack_it(place: Path) -> object:
        return unpack(place.parent / "packed.zip", place.parent / "unpacked")

    def export_it(place: Path) -> object:
        return export(Checkpoint.open(place), place.parent / "x.safetensors")

    begins, act, newest, calls, told, made = {
        "first save": (lambda place: None, save_next, {None, 3}, 30, 25, None),
        "save and retention": (begin, save_next, {2, 3}, 40, 25, None),
        "setting aside": (begin_with_three, set_aside, {2, 3}, 6, 5, None),
        "cleaning": (leave_leftovers, make_store, {2}, 10, 0, None),
        "packing as zip": (begin, pack_as("x.zip"), {2}, 25, 20, "x.zip"),
        "packing as pt": (begin, pack_as("x.pt"), {2}, 25, 20, "x.pt"),
        "unpacking": (begin_packed, unpack_it, {2}, 25, 20, "unpacked"),
        "exporting": (begin, export_it, {2}, 10, 7, "x.safetensors"),
    }[name]
    return Scene(begins, act, newest, calls, told, made, directory)
