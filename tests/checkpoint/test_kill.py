"""Processes that die in the middle of what they do to checkpoints: at every call, in two ways.

A shim over `os` leaves the process at once before and after each call; strace sends a real kill -9 as the kernel is
entered, so that nothing that goes past the shim is left out. In both, what the next one finds is whole.
"""

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faults import KILLED, Call, FileCalls, dies, in_child, keeping, unsynced
from scenes import Scene
from tracing import IN_OS, Strace

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import list_checkpoints
from runner.checkpoint.store import CheckpointStore
from runner.checkpoint.tags import tag
from runner.errors import CheckpointError
from runner.records import Saved

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]
Check = Callable[[Scene, Path], int | None]


@pytest.fixture
def check(
    make_store: MakeStore,
    save: Save,
    is_whole: Callable[[Checkpoint], bool],
    no_leftovers: Callable[[Path], bool],
) -> Check:
    """Checks what is promised about a directory in which somebody died; the newest step."""

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


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_process_that_leaves_at_any_file_call_leaves_the_old_or_the_new_checkpoint(
    after: bool, scene: Scene, check: Check
) -> None:
    number, died = -1, True
    seen, made = set(), set()
    while died:
        number += 1
        directory = scene.begun(number)
        died = dies(lambda directory=directory: scene.act(directory), number, after)
        with FileCalls().quick():
            seen.add(check(scene, directory))
            made.add(scene.made_in(directory) is not None)
    assert number >= scene.calls
    assert seen == scene.newest
    assert made == ({False, True} if scene.made else {False})


@pytest.fixture
def strace(tmp_path: Path) -> Strace:
    if shutil.which("strace") is None:
        pytest.skip("NO REAL KILLS: strace is not installed (apt-get install strace)")
    return Strace(tmp_path / "strace.log")


def test_every_change_to_a_file_goes_through_the_calls_that_these_tests_stand_in_for(
    strace: Strace, scene: Scene
) -> None:
    seen = scene.begun("seen by the shim")
    calls = FileCalls()

    def act_and_tell() -> None:
        with calls.going_through(lambda number, name, call, args: call(*args)):
            scene.act(seen)
        told = [name for name in calls.log if name != "open"]
        (seen.parent / "calls").write_text("\n".join(sorted(told)))

    assert in_child(act_and_tell) == 0
    directory = scene.begun("seen by the kernel")
    assert strace.run(lambda: scene.act(directory)) == 0
    made = [
        IN_OS.get(name, name) for name, line in strace.calls() if str(directory.parent) in line and name != "openat"
    ]
    assert sorted(made) == (seen.parent / "calls").read_text().split()
    # What is opened to be changed is opened by the same calls, so all that is written has been counted above.
    assert len(made) >= scene.calls // 2


def test_a_kill_at_any_system_call_leaves_the_old_or_the_new_checkpoint(
    strace: Strace, scene: Scene, check: Check
) -> None:
    directory = scene.begun("not at all")
    assert strace.run(lambda: scene.act(directory)) == 0
    # strace counts each kind of call, in each thread.
    kinds = sorted({name for name, line in strace.calls() if str(directory.parent) in line})
    seen, made, kills = {check(scene, directory)}, {scene.made_in(directory) is not None}, 0
    for kind in kinds:
        number, code = 0, -signal.SIGKILL
        while code != 0:
            number += 1
            directory = scene.begun(f"{kind} {number}")
            code = strace.run(lambda directory=directory: scene.act(directory), f"{kind}:signal=KILL:when={number}")
            assert code in (0, -signal.SIGKILL)
            with FileCalls().quick():
                seen.add(check(scene, directory))
                made.add(scene.made_in(directory) is not None)
        kills += number - 1
    assert kills >= scene.calls // 2
    assert seen == scene.newest
    assert made == ({False, True} if scene.made else {False})


class Tagger:
    """Tags a checkpoint at call `at` and says so in a file, if it could; `lives` calls later its process dies."""

    def __init__(self, checkpoint: Path, said: Path, *, at: int, lives: int) -> None:
        self.checkpoint, self.said, self.left, self.lives = checkpoint, said, at, lives

    def act(self, number: int, name: str, call: Call, args: tuple[Any, ...]) -> Any:
        if self.left == 0:
            # From now on its own calls come here, too.
            self.left = -1
            with suppress(CheckpointError):
                tag(self.checkpoint, "mine")
                self.said.touch()
            self.left = -2
        elif self.left == -2:
            self.lives -= 1
            if self.lives == 0:
                os._exit(KILLED)
        elif self.left > 0:
            self.left -= 1
        return unsynced(name, call, args)


@pytest.mark.parametrize("scene", ["save and retention"], indirect=True)
@pytest.mark.parametrize("lives", [1, 1000, *(pytest.param(calls, marks=pytest.mark.long) for calls in (2, 3, 4))])
def test_a_tag_that_was_set_at_any_call_keeps_its_checkpoint_though_its_remover_dies(
    lives: int, scene: Scene, make_store: MakeStore, is_whole: Callable[[Checkpoint], bool]
) -> None:
    undisturbed = FileCalls()
    with undisturbed.quick():
        scene.act(scene.begun("undisturbed"))
    kept = set()
    # Before the new one has its name nothing is removed.
    for number in range(undisturbed.log.index("rename"), len(undisturbed.log)):
        directory = scene.begun(number)
        said = directory.parent / "said"
        tagger = Tagger(directory / "step-000000001", said, at=number, lives=lives)

        def save_meanwhile(tagger: Tagger = tagger, directory: Path = directory) -> None:
            with FileCalls().going_through(tagger.act):
                scene.act(directory)

        assert in_child(save_meanwhile) in (0, KILLED)
        with FileCalls().quick():
            store = make_store(directory, keep=keeping(2))
        assert all(map(is_whole, store.checkpoints))
        if said.exists():
            assert Checkpoint.open(directory, "mine").step == 1
        kept.add(said.exists())
    # Early enough to be kept, and too late to be set.
    assert kept == {False, True}
