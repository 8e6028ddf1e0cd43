"""What a crash, a full disk or a signal in the middle of a save can do: nothing to what was there before."""

import errno
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.errors import SaveError
from runner.records import Progress, Saved

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]
LAST_TWO = KeepPolicy(last=2, best=None, every_steps=None, every_hours=None)


@pytest.fixture
def begun(tmp_path: Path, make_store: MakeStore, save: Save) -> Path:
    """A directory with the checkpoints of steps 1 and 2. Another save under LAST_TWO writes one and removes one."""
    store = make_store(tmp_path / "begun", keep=LAST_TWO)
    save(store, 1)
    save(store, 2)
    return tmp_path / "begun"


def is_whole(checkpoint: Checkpoint, make_state: Callable[[int], Any], same: Callable[[Any, Any], bool]) -> bool:
    return checkpoint.verify() == [] and same(checkpoint.state(), make_state(checkpoint.step))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_file_call_leaves_the_old_or_the_new_checkpoint_whole(
    after: bool,
    begun: Path,
    tmp_path: Path,
    make_store: MakeStore,
    make_state: Callable[[int], Any],
    save: Save,
    dying: Callable[[Callable[[], object], int, bool], bool],
    same: Callable[[Any, Any], bool],
    no_leftovers: Callable[[Path], bool],
) -> None:
    newest_after: list[int] = []
    died, number = True, 0
    while died:
        directory = tmp_path / f"killed-{number}"
        copytree(begun, directory)

        def save_there(directory: Path = directory) -> Saved:
            return save(make_store(directory, keep=LAST_TWO), 3)

        died = dying(save_there, number, after)

        # What anybody sees who looks before a new store has cleaned up: at least two, all of them whole.
        store = make_store(directory, keep=LAST_TWO)
        assert {checkpoint.step for checkpoint in store.checkpoints} in ({1, 2}, {1, 2, 3}, {2, 3})
        assert all(is_whole(checkpoint, make_state, same) for checkpoint in store.checkpoints)
        newest_after.append(Checkpoint.open(directory).step)
        assert no_leftovers(directory)

        save(store, 4)
        assert is_whole(Checkpoint.open(directory), make_state, same)
        assert len(store.checkpoints) == 2
        number += 1
    # The new one is there from one call on and ever after, and both happened.
    assert newest_after == sorted(newest_after)
    assert set(newest_after) == {2, 3}
    assert number > 40


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("ever_after", [False, True], ids=["once", "ever after"])
def test_a_failure_of_any_file_call_costs_no_checkpoint(
    code: int,
    ever_after: bool,
    begun: Path,
    tmp_path: Path,
    make_store: MakeStore,
    make_state: Callable[[int], Any],
    save: Save,
    file_calls: Callable[[], Any],
    same: Callable[[Any, Any], bool],
    no_leftovers: Callable[[Path], bool],
) -> None:
    refused = number = 0
    reached = True
    while reached:
        directory = tmp_path / f"failed-{number}"
        copytree(begun, directory)
        store = make_store(directory, keep=LAST_TWO)
        calls = file_calls()
        try:
            with calls.failing(number, code, ever_after=ever_after):
                save(store, 3)
        except SaveError as error:
            refused += 1
            assert os.strerror(code) in str(error)
            assert {checkpoint.step for checkpoint in store.checkpoints} - {3} == {1, 2}
            if not ever_after:
                assert store.newest is not None
                assert store.newest.step == 2
                assert no_leftovers(directory)
        else:
            assert store.newest is not None
            assert store.newest.step == 3
        assert all(is_whole(checkpoint, make_state, same) for checkpoint in store.checkpoints)
        reached = len(calls.log) > number

        saved = save(store, 4)
        assert is_whole(Checkpoint.open(saved.path), make_state, same)
        assert make_store(directory, keep=LAST_TWO).newest is not None
        assert no_leftovers(directory)
        number += 1
    assert refused > 30


def test_a_signal_at_any_file_call_changes_nothing(
    begun: Path, tmp_path: Path, make_store: MakeStore, save: Save, file_calls: Callable[[], Any]
) -> None:
    for number in range(200):
        directory = tmp_path / f"interrupted-{number}"
        copytree(begun, directory)
        calls = file_calls()
        store = make_store(directory, keep=LAST_TWO)
        with calls.failing(number, errno.EINTR):
            save(store, 3)
        assert [checkpoint.step for checkpoint in store.checkpoints] == [2, 3]
        assert store.checkpoints[1].verify() == []
        if len(calls.log) <= number:
            break
    assert number > 40


def test_short_writes_are_gone_on_with(begun: Path, make_store: MakeStore, save: Save, file_calls: Any) -> None:
    def act(number: int, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return call(args[0], args[1][: max(1, len(args[1]) // 3)]) if name == "write" else call(*args)

    with file_calls().going_through(act):
        saved = save(make_store(begun), 3)
    assert Checkpoint.open(saved.path).verify() == []


def test_a_write_that_writes_nothing_is_an_error(
    begun: Path, make_store: MakeStore, save: Save, file_calls: Any, no_leftovers: Callable[[Path], bool]
) -> None:
    def act(number: int, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return 0 if name == "write" else call(*args)

    with file_calls().going_through(act), pytest.raises(SaveError, match="nothing more was written"):
        save(make_store(begun), 3)
    assert no_leftovers(begun)


def test_a_file_system_that_offers_neither_reserving_nor_links_nor_directory_syncs_will_do(
    begun: Path, make_store: MakeStore, save: Save, file_calls: Any
) -> None:
    def act(number: int, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if name == "posix_fallocate":
            raise OSError(errno.EOPNOTSUPP, "not offered")
        if name == "link":
            raise OSError(errno.EPERM, "not offered")
        if name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode):
            raise OSError(errno.EINVAL, "not offered")
        return call(*args)

    with file_calls().going_through(act):
        saved = save(make_store(begun), 3)
    assert (saved.path / "frozen.safetensors").stat().st_nlink == 1
    assert Checkpoint.open(saved.path).verify() == []


def test_everything_is_synced_before_it_is_named_and_named_before_anything_is_removed(
    begun: Path, make_store: MakeStore, save: Save, file_calls: Any
) -> None:
    events: list[str] = []
    opened: dict[int, str] = {}

    def act(number: int, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        result = call(*args)
        if name == "open":
            opened[result] = Path(args[0]).name
        elif name in ("fsync", "fdatasync"):
            events.append(f"sync {opened[args[0]]}")
        elif name in ("rename", "unlink", "link"):
            events.append(f"{name} {Path(args[0]).name}")
        return result

    with file_calls().going_through(act):
        save(make_store(begun, keep=LAST_TWO), 3)
    hidden = next(event for event in events if event.startswith("rename .tmp-")).removeprefix("rename ")
    files = [
        "config.yaml",
        "config.json",
        "state.json",
        "model.safetensors",
        "optimizer.safetensors",
        "extra.safetensors",
    ]
    before = events[: events.index("sync manifest.json")]
    assert sorted(before) == sorted([*(f"sync {name}" for name in files), "link frozen.safetensors"])
    assert events[len(before) :][:5] == [
        "sync manifest.json",
        f"sync {hidden}",
        f"rename {hidden}",
        f"sync {begun.name}",
        "rename step-000000001",
    ]
    assert events[-1] == "unlink manifest.json"


def test_a_limit_on_file_sizes_is_a_save_error(
    begun: Path, make_store: MakeStore, no_leftovers: Callable[[Path], bool]
) -> None:
    store = make_store(begun)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SaveError, match="File too large"):
            store.save(
                {"model": {"w": torch.ones(1_000_000)}},
                progress=Progress(step=3),
                reasons=("end",),
                metrics={},
                documents={},
                facts={},
            ).wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [checkpoint.verify() for checkpoint in store.checkpoints] == [[], []]
    assert no_leftovers(begun)


def test_the_error_says_where_why_how_much_and_what_to_do(
    begun: Path, make_store: MakeStore, save: Save, file_calls: Any
) -> None:
    store = make_store(begun)
    with file_calls().failing(3, errno.ENOSPC), pytest.raises(SaveError) as caught:
        save(store, 3)
    assert str(caught.value).startswith(f"{begun / 'step-000000003'}: could not be saved (No space left on device); ")
    assert " kB wanted, " in str(caught.value) and " free on its disk" in str(caught.value)
    assert str(caught.value).endswith(
        "free on its disk; make room, with `runs prune RUN --last 1 --yes` for one; what was saved before is whole"
    )
    assert isinstance(caught.value.__cause__, OSError)
    with file_calls().failing(3, errno.EACCES), pytest.raises(SaveError) as caught:
        save(store, 3)
    assert str(caught.value).endswith(
        "(Permission denied); make the directory writable; what was saved before is whole"
    )


def test_a_file_where_the_directory_should_be_is_a_save_error(
    tmp_path: Path, make_store: MakeStore, save: Save
) -> None:
    store = make_store(tmp_path / "run" / "checkpoints")
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(SaveError, match="could not be saved"):
        save(store, 1)
    assert (tmp_path / "run").read_text() == "in the way"


def test_a_directory_that_was_removed_is_made_again(begun: Path, make_store: MakeStore, save: Save) -> None:
    store = make_store(begun)
    begun.rename(begun.parent / "elsewhere")
    save(store, 3)
    assert [checkpoint.step for checkpoint in store.checkpoints] == [3]


def test_an_interrupt_leaves_nothing_behind(
    begun: Path, make_store: MakeStore, save: Save, file_calls: Any, no_leftovers: Callable[[Path], bool]
) -> None:
    def act(number: int, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if number == 12:
            raise KeyboardInterrupt
        return call(*args)

    store = make_store(begun)
    with file_calls().going_through(act), pytest.raises(KeyboardInterrupt):
        save(store, 3)
    assert no_leftovers(begun)
    assert [checkpoint.verify() for checkpoint in store.checkpoints] == [[], []]


@pytest.mark.parametrize(("umask", "file_mode", "directory_mode"), [(0o077, 0o600, 0o700), (0o002, 0o664, 0o775)])
def test_modes_follow_the_umask(
    umask: int, file_mode: int, directory_mode: int, tmp_path: Path, make_store: MakeStore, save: Save
) -> None:
    before = os.umask(umask)
    try:
        saved = save(make_store(tmp_path / "c"), 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE(saved.path.stat().st_mode) == directory_mode
    assert {stat.S_IMODE(path.stat().st_mode) for path in saved.path.iterdir()} == {file_mode}


@pytest.mark.parametrize("when", ["early", "late"])
def test_what_somebody_puts_in_the_place_of_a_save_that_is_under_way_stays_his(
    when: str,
    begun: Path,
    make_store: MakeStore,
    make_state: Callable[[int], Any],
    save: Save,
    same: Callable[[Any, Any], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, other = make_store(begun), begun / "step-000000003"
    call = "rename" if when == "late" else "fdatasync"
    real = getattr(os, call)

    def interfere(*args: Any) -> Any:
        if not other.exists() and (when == "early" or Path(args[1]) == other):
            copytree(begun / "step-000000001", other)
        return real(*args)

    monkeypatch.setattr(os, call, interfere)
    if when == "late":
        with pytest.raises(SaveError, match="Directory not empty"):
            save(store, 3)
    else:
        assert save(store, 3).path.name == "step-000000003-2"
    assert same(Checkpoint.open(other).state(), make_state(1))
