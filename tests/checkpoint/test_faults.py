"""A disk that is full, breaks, or is taken away, at any call: what was saved before stays, and the error is told."""

import errno
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import DISK_FAILURES, Call, FileCalls, in_child, keeping, unsynced
from scenes import SAVING, Scene

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import list_checkpoints
from runner.checkpoint.store import CheckpointStore
from runner.errors import CheckpointError, ResumeError, SaveError
from runner.records import Saved

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]
IsWhole = Callable[[Checkpoint], bool]

TOLD = (SaveError, ResumeError, CheckpointError)
"""What a user is told when something could not be done to checkpoints."""


@pytest.mark.parametrize("turn", [0, *(pytest.param(turn, marks=pytest.mark.long) for turn in (1, 2, 3))])
def test_a_failure_of_any_call_is_told_and_what_was_there_before_stays_whole(
    turn: int, scene: Scene, make_store: MakeStore, save: Save, is_whole: IsWhole, no_leftovers: Callable[[Path], bool]
) -> None:
    told = number = 0
    reached = True
    while reached:
        directory = scene.begun(number)
        calls = FileCalls()
        # One way to fail at each call, another at the next; with every turn each call has failed in every way.
        code = DISK_FAILURES[(number + turn) % len(DISK_FAILURES)]
        try:
            with calls.failing(number, code):
                scene.act(directory)
            has_failed = False
        except TOLD as error:
            has_failed = True
            assert os.strerror(code) in str(error)
            # Not even what the next one would clean.
            assert not list(directory.parent.glob(".*"))
        reached = len(calls.log) > number
        with FileCalls().quick():
            for place in (directory, *directory.glob("aside/*")):
                found, damages = list_checkpoints(place)
                assert damages == {}
                assert all(map(is_whole, found))
            newest = make_store(directory, keep=keeping(2)).newest
            assert (newest.step if newest else None) in scene.newest
            save(make_store(directory, keep=keeping(2)), 9)
            assert no_leftovers(directory)
            assert Checkpoint.open(directory).step == 9
            assert not (scene.made_in(directory) and has_failed)
        told += has_failed
        number += 1
    assert number > scene.calls
    # What cannot be removed is no reason to stop, so it is logged and tried again.
    assert told >= scene.told


def test_a_signal_at_any_call_changes_nothing(scene: Scene, make_store: MakeStore) -> None:
    undisturbed = scene.begun("undisturbed")
    scene.act(undisturbed)
    number, reached = 0, True
    while reached:
        directory = scene.begun(number)
        calls = FileCalls()
        with calls.failing(number, errno.EINTR):
            scene.act(directory)
        assert contents(directory.parent) == contents(undisturbed.parent)
        reached = len(calls.log) > number
        number += 1
    assert number > scene.calls


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_writes_of_one_byte_between_signals_come_to_the_same(scene: Scene) -> None:
    undisturbed, directory = scene.begun("undisturbed"), scene.begun("disturbed")
    scene.act(undisturbed)

    def act(number: int, name: str, call: Call, args: tuple[Any, ...]) -> Any:
        if name == "write":
            if number % 3 == 0:
                raise InterruptedError(errno.EINTR, "a signal")
            return call(args[0], args[1][: max(1, len(args[1]) // 5)])
        return unsynced(name, call, args)

    with FileCalls().going_through(act):
        scene.act(directory)
    assert contents(directory.parent) == contents(undisturbed.parent)


@pytest.mark.parametrize("scene", SAVING, indirect=True)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_takes_only_the_beginning_of_a_write_is_told(
    code: int, scene: Scene, make_store: MakeStore, is_whole: IsWhole, no_leftovers: Callable[[Path], bool]
) -> None:
    refused, full = 0, True
    while full:
        directory = scene.begun(refused)
        disk = Fills(refused, code)
        try:
            with FileCalls().going_through(disk.act):
                scene.act(directory)
        except SaveError as error:
            refused += 1
            assert os.strerror(code) in str(error)
            assert no_leftovers(directory)
        full = disk.descriptor is not None
        store = make_store(directory)
        assert all(map(is_whole, store.checkpoints))
        assert (3 in [checkpoint.step for checkpoint in store.checkpoints]) != full
    # The documents, the state, the tensors, the manifest.
    assert refused >= 7


class Fills:
    """A disk that takes half of write `at`, and nothing more into that file."""

    def __init__(self, at: int, code: int) -> None:
        self.left, self.code = at, code
        self.descriptor: int | None = None

    def act(self, number: int, name: str, call: Call, args: tuple[Any, ...]) -> Any:
        if name == "write":
            if args[0] == self.descriptor:
                raise OSError(self.code, os.strerror(self.code))
            if self.left == 0:
                self.descriptor = args[0]
                args = (args[0], args[1][: len(args[1]) // 2])
            self.left -= 1
        return unsynced(name, call, args)


@pytest.mark.parametrize("scene", SAVING, indirect=True)
@pytest.mark.parametrize("taken", ["moved away", "deleted"])
def test_a_directory_that_is_taken_away_at_any_call_is_made_again_or_told(
    taken: str, scene: Scene, make_store: MakeStore, save: Save, is_whole: IsWhole
) -> None:
    number, reached, told = 0, True, 0
    while reached:
        directory = scene.begun(number)
        thief = Takes(directory, number, taken)
        store = make_store(directory, keep=keeping(2))
        try:
            with FileCalls().going_through(thief.act):
                save(store, 3)
        except SaveError as error:
            told += 1
            assert str(error).startswith(f"{directory}/step-000000003: could not be saved (No such file or directory)")
        reached = thief.has_been
        with FileCalls().quick():
            for place in (directory, thief.elsewhere):
                assert all(map(is_whole, list_checkpoints(place)[0]))
            save(store, 4)
        assert Checkpoint.open(directory).step == 4
        assert store.checkpoints[-1].step == 4
        assert all(map(is_whole, store.checkpoints))
        number += 1
    assert told > 20


class Takes:
    """Moves a directory away at call `at`, or deletes it."""

    def __init__(self, directory: Path, at: int, taken: str) -> None:
        self.directory, self.at, self.taken = directory, at, taken
        self.elsewhere = directory.parent / "elsewhere"
        self.has_been = False

    def act(self, number: int, name: str, call: Call, args: tuple[Any, ...]) -> Any:
        if number == self.at:
            self.has_been = True
            if self.directory.exists():
                self.directory.rename(self.elsewhere)
                if self.taken == "deleted":
                    shutil.rmtree(self.elsewhere)
        return unsynced(name, call, args)


@pytest.fixture
def ours() -> Iterator[Path]:
    """A directory that also somebody who is not root can reach."""
    directory = Path(tempfile.mkdtemp(prefix="runner-tests-"))
    directory.chmod(0o755)
    yield directory
    for path in directory.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(directory)


def test_a_directory_in_which_one_may_not_write_is_told_and_read_all_the_same(
    ours: Path, make_store: MakeStore, save: Save, is_whole: IsWhole
) -> None:
    directory = ours / "checkpoints"
    save(make_store(directory), 1)
    for path in (*directory.rglob("*"), directory):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = contents(directory)

    def become_nobody() -> None:
        # Root may write anywhere.
        if os.geteuid() == 0:
            os.setuid(65534)

    def use() -> None:
        assert is_whole(Checkpoint.open(directory))
        store = make_store(directory)
        with pytest.raises(SaveError, match=r"step-000000002: could not be saved \(Permission denied\)"):
            save(store, 2)
        assert [checkpoint.step for checkpoint in store.checkpoints] == [1]

    assert in_child(use, before=become_nobody) == 0
    assert contents(directory) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where one may be mounted."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("NO SMALL DISK: a tmpfs cannot be mounted here, which root may")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_disk_that_is_really_full_costs_nothing_that_was_saved(
    small_disk: Path, make_store: MakeStore, save: Save, is_whole: IsWhole, no_leftovers: Callable[[Path], bool]
) -> None:
    store = make_store(small_disk / "checkpoints", keep=keeping(1))
    save(store, 1)
    ballast, refused = small_disk / "ballast", 0
    for step, pages in enumerate(range(40), 2):
        ballast.unlink(missing_ok=True)
        space = os.statvfs(small_disk)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, (space.f_bavail - pages) * space.f_frsize))
        try:
            save(store, step)
        except SaveError as error:
            refused += 1
            assert "No space left on device" in str(error)
            assert [checkpoint.step for checkpoint in store.checkpoints] == [1]
        assert no_leftovers(small_disk)
        assert all(map(is_whole, store.checkpoints))
        if store.checkpoints[-1].step == step:
            break
    # It was full at every file, and with a little more room it is not.
    assert refused > 6
    assert store.checkpoints[-1].step == refused + 2


def test_any_limit_on_the_size_of_files_is_told(
    scene: Scene, make_store: MakeStore, save: Save, is_whole: IsWhole, no_leftovers: Callable[[Path], bool]
) -> None:
    directory = scene.begun("limited")
    store = make_store(directory)
    before = [checkpoint.step for checkpoint in store.checkpoints]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused = 0
    for limit in (0, 1, 7, 100, 500, 1000, 2000, 4000, 4096, 4100, 1_000_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            save(store, 3)
        except SaveError as error:
            refused += 1
            told = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if refused:
            assert "File too large" in told
        assert no_leftovers(directory)
        assert all(map(is_whole, store.checkpoints))
    assert refused >= 8
    assert [checkpoint.step for checkpoint in store.checkpoints] == [*before, 3]
