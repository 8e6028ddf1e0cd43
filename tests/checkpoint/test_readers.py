"""Other processes that list, open, load and verify all the while checkpoints are written and removed."""

import json
import os
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import FileCalls, keeping

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import list_checkpoints
from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.errors import CheckpointError
from runner.records import Monitor, Saved

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]
IsWhole = Callable[[Checkpoint], bool]

READERS = 2


class Reader:
    """A process that reads again and again, and then tells how that went."""

    def __init__(self, read: Callable[[], dict[str, int]], report: Path) -> None:
        self._report = report
        with warnings.catch_warnings():
            # It only reads files; it takes no lock that another thread may hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process = os.fork()
        if self._process == 0:
            try:
                report.write_text(json.dumps(read()))
            except BaseException:
                report.write_text(traceback.format_exc())
                os._exit(1)
            os._exit(0)

    def has_ended(self) -> bool:
        process, status = os.waitpid(self._process, os.WNOHANG)
        if process == 0:
            return False
        assert os.waitstatus_to_exitcode(status) == 0, self._report.read_text()
        return True

    def told(self) -> dict[str, int]:
        return json.loads(self._report.read_text())


@pytest.mark.parametrize("times", [300, pytest.param(5000, marks=pytest.mark.long)])
def test_readers_in_other_processes_never_see_a_torn_checkpoint(
    times: int, tmp_path: Path, make_store: MakeStore, save: Save, is_whole: IsWhole
) -> None:
    keep = KeepPolicy(last=2, best=1, every_steps=None, every_hours=None)
    store = make_store(keep=keep, monitor=Monitor("val_loss", "min"))
    save(store, 1, val_loss=0.5)

    def read() -> dict[str, int]:
        newest = 0
        counts = {"reads": 0, "removed meanwhile": 0}
        for _ in range(times):
            found, damages = list_checkpoints(store.directory)
            assert damages == {}
            assert len(found) >= 1
            # Checkpoints only come at the end, so whoever looks twice never finds an older one the newest.
            assert found[-1].step >= newest
            newest = found[-1].step
            for choice in ("latest", "best"):
                read_one(choice, counts)
        return counts

    def read_one(choice: str, counts: dict[str, int]) -> None:
        # To open one always works; to read it may come too late.
        checkpoint = Checkpoint.open(store.directory.parent, choice)
        try:
            assert is_whole(checkpoint)
            counts["reads"] += 1
        except (CheckpointError, AssertionError):
            # It may have been removed while it was read. What it may not is to stand there and be wrong.
            if checkpoint.path.exists():
                raise
            counts["removed meanwhile"] += 1

    readers = [Reader(read, tmp_path / f"reader-{number}") for number in range(READERS)]
    step, reading = 1, list(readers)
    with FileCalls().quick():
        while reading:
            step += 1
            # The best stays for a while, so that readers meet it often, and then goes.
            save(store, step, val_loss=1 / (step // 7 + 1))
            reading = [reader for reader in reading if not reader.has_ended()]
    assert step > 20
    for reader in readers:
        told = reader.told()
        assert told["reads"] + told["removed meanwhile"] == 2 * times
        assert told["reads"] > times


def test_who_has_opened_a_checkpoint_that_is_then_removed_is_told(make_store: MakeStore, save: Save) -> None:
    store = make_store(keep=keeping(1))
    save(store, 1)
    opened = Checkpoint.open(store.directory)
    save(store, 2)
    assert not opened.path.exists()
    for read in (opened.state, opened.tensors, lambda: opened.document("config.json")):
        with pytest.raises(CheckpointError, match="was removed meanwhile"):
            read()
    assert "was removed meanwhile" in opened.verify()[0]


def test_what_was_read_stays_when_the_checkpoint_is_removed(
    make_store: MakeStore, save: Save, make_state: Callable[[int], Any], same: Callable[[Any, Any], bool]
) -> None:
    store = make_store(keep=keeping(1))
    save(store, 1)
    state = Checkpoint.open(store.directory).state()
    for step in (2, 3):
        save(store, step)
    assert same(state, make_state(1))
