"""Processes that die in the middle of what they do to checkpoints: at every call, in two ways.

A shim over `os` leaves the process at once before and after each call; strace sends a real kill -9 as the kernel is
entered, so that nothing that goes past the shim is left out. In both, what the next one finds is whole.
"""

import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faults import FileCalls, dies, in_child, keeping
from tracing import IN_OS, Strace

from runner.checkpoint.handle import Checkpoint, list_checkpoints
from runner.checkpoint.store import CheckpointStore
from runner.errors import CheckpointError
from runner.records import Saved

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]


@dataclass
class Scene:
    """Checkpoints in a directory, what is done to them, and which may be the newest if that was cut short."""

    begin: Callable[[Path], None]
    act: Callable[[Path], None]
    newest: set[int | None]
    calls: int
    """How many file calls it takes, at least."""


@pytest.fixture(params=["first save", "save and retention", "setting aside", "cleaning"])
def scene(request: pytest.FixtureRequest, make_store: MakeStore, save: Save) -> Scene:
    def begin(directory: Path, last: int = 2) -> None:
        store = make_store(directory, keep=keeping(2))
        for step in range(1, last + 1):
            save(store, step)

    def save_next(directory: Path) -> None:
        save(make_store(directory, keep=keeping(2)), 3)

    def set_aside(directory: Path) -> None:
        store = make_store(directory)
        store.set_aside(store.checkpoints[0], 2)

    def leave_leftovers(directory: Path) -> None:
        begin(directory)
        # In the middle of writing one, and in the middle of removing one.
        assert dies(lambda: save_next(directory), 30, True)
        store = make_store(directory.parent / "other")
        save(store, 1)
        hidden = next(directory.glob(".tmp-*"))
        shutil.copytree(store.directory / "step-000000001", f"{hidden}-2")

    return {
        "first save": Scene(lambda directory: None, save_next, {None, 3}, 30),
        "save and retention": Scene(begin, save_next, {2, 3}, 40),
        "setting aside": Scene(lambda directory: begin(directory, 3), set_aside, {2, 3}, 6),
        "cleaning": Scene(leave_leftovers, lambda directory: make_store(directory) and None, {2}, 10),
    }[request.param]


@pytest.fixture
def check(
    make_store: MakeStore,
    make_state: Callable[[int], Any],
    same: Callable[[Any, Any], bool],
    save: Save,
    no_leftovers: Callable[[Path], bool],
) -> Callable[[Scene, Path], int | None]:
    """Checks what is promised about a directory in which somebody died; the newest step."""

    def is_whole(checkpoint: Checkpoint) -> bool:
        return checkpoint.verify() == [] and same(checkpoint.state(), make_state(checkpoint.step))

    def check(scene: Scene, directory: Path) -> int | None:
        # What anybody sees who looks before a new store has cleaned up.
        try:
            newest: int | None = Checkpoint.open(directory).step if directory.exists() else None
        except CheckpointError as error:
            assert "has no checkpoint yet" in str(error)
            newest = None
        assert newest in scene.newest
        for place in (directory, *directory.glob("aside/*")):
            found, damages = list_checkpoints(place)
            assert damages == {}
            assert all(map(is_whole, found))
        store = make_store(directory, keep=keeping(2))
        assert (store.newest.step if store.newest else None) == newest
        assert no_leftovers(directory)
        saved = save(store, 9)
        assert is_whole(Checkpoint.open(directory))
        assert Checkpoint.open(directory).path == saved.path
        assert no_leftovers(directory)
        return newest

    return check


@pytest.fixture
def begun(scene: Scene, tmp_path: Path) -> Callable[[object], Path]:
    """A copy, of that name, of the directory in which the scene begins."""
    original = tmp_path / "begun" / "checkpoints"
    original.parent.mkdir()
    with FileCalls().quick():
        scene.begin(original)

    def begun(name: object) -> Path:
        directory = tmp_path / f"killed-{name}" / "checkpoints"
        directory.parent.mkdir()
        if original.exists():
            shutil.copytree(original, directory)
        return directory

    return begun


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_process_that_leaves_at_any_file_call_leaves_the_old_or_the_new_checkpoint(
    after: bool, scene: Scene, begun: Callable[[object], Path], check: Callable[[Scene, Path], int | None]
) -> None:
    number, died = -1, True
    seen = set()
    while died:
        number += 1
        directory = begun(number)
        died = dies(lambda directory=directory: scene.act(directory), number, after)
        with FileCalls().quick():
            seen.add(check(scene, directory))
    assert number >= scene.calls
    assert seen == scene.newest


@pytest.fixture
def strace(tmp_path: Path) -> Strace:
    if shutil.which("strace") is None:
        pytest.skip("NO REAL KILLS: strace is not installed (apt-get install strace)")
    return Strace(tmp_path / "strace.log")


def test_every_change_to_a_file_goes_through_the_calls_that_these_tests_stand_in_for(
    strace: Strace, scene: Scene, begun: Callable[[object], Path]
) -> None:
    seen = begun("seen by the shim")
    calls = FileCalls()

    def act_and_tell() -> None:
        with calls.going_through(lambda number, name, call, args: call(*args)):
            scene.act(seen)
        told = [name for name in calls.log if name != "open"]
        (seen.parent / "calls").write_text("\n".join(sorted(told)))

    assert in_child(act_and_tell) == 0
    directory = begun("seen by the kernel")
    assert strace.run(lambda: scene.act(directory)) == 0
    made = [
        IN_OS.get(name, name) for name, line in strace.calls() if str(directory.parent) in line and name != "openat"
    ]
    assert sorted(made) == (seen.parent / "calls").read_text().split()
    # What is opened to be changed is opened by the same calls, so all that is written has been counted above.
    assert len(made) >= scene.calls // 2


def test_a_kill_at_any_system_call_leaves_the_old_or_the_new_checkpoint(
    strace: Strace, scene: Scene, begun: Callable[[object], Path], check: Callable[[Scene, Path], int | None]
) -> None:
    directory = begun("not at all")
    assert strace.run(lambda: scene.act(directory)) == 0
    # strace counts each kind of call, in each thread.
    kinds = sorted({name for name, line in strace.calls() if str(directory.parent) in line})
    seen, kills = {check(scene, directory)}, 0
    for kind in kinds:
        number, code = 0, -signal.SIGKILL
        while code != 0:
            number += 1
            directory = begun(f"{kind} {number}")
            code = strace.run(lambda directory=directory: scene.act(directory), f"{kind}:signal=KILL:when={number}")
            assert code in (0, -signal.SIGKILL)
            with FileCalls().quick():
                seen.add(check(scene, directory))
        kills += number - 1
    assert kills >= scene.calls // 2
    assert seen == scene.newest
