"""What is done to checkpoints, so that it can be disturbed at every call: where it begins and what may come of it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import FileCalls, dies, keeping

from runner.checkpoint.store import CheckpointStore
from runner.records import Saved

MakeStore = Callable[..., CheckpointStore]
Save = Callable[..., Saved]

NAMES = ("first save", "save and retention", "setting aside", "cleaning")


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
    directory: Path
    """Copies of the directory are made beside this one."""

    def begun(self, name: object) -> Path:
        """A copy, of that name, of the directory in which the scene begins."""
        original = self.directory / "begun" / "checkpoints"
        if not original.parent.exists():
            original.parent.mkdir()
            with FileCalls().quick():
                self.begin(original)
        copy = self.directory / f"copy {name}" / "checkpoints"
        copy.parent.mkdir()
        if original.exists():
            shutil.copytree(original, copy)
        return copy


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

    begins, act, newest, calls, told = {
        "first save": (lambda place: None, save_next, {None, 3}, 30, 25),
        "save and retention": (begin, save_next, {2, 3}, 40, 25),
        "setting aside": (begin_with_three, set_aside, {2, 3}, 6, 5),
        "cleaning": (leave_leftovers, make_store, {2}, 10, 0),
    }[name]
    return Scene(begins, act, newest, calls, told, directory)
