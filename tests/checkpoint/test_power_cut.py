"""Power that fails at any moment of saving, pruning and setting aside: what the disk then holds is read as it is."""

import os
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import scenes
from faults import keeping
from recorded_calls import Mark, Recording
from simulated_disk import LOSSES, Loss, in_order, lay_out, mixed, on_disk

from runner.checkpoint.archive import pack, unpack
from runner.checkpoint.commit import hidden_name
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import list_checkpoints, newest_whole
from runner.checkpoint.store import CheckpointStore
from runner.errors import CheckpointError
from runner.records import Saved
from runner.runs.export import export

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]
LONGEST_WRITE = 1500


class Cuts:
    """Every different content that a disk can have after a cut, with the steps that may then be the newest whole."""

    def __init__(self, recording: Recording, first: set[int | None], losses: Iterable[Loss]) -> None:
        self.recording, self.first, self.losses = recording, first, tuple(losses)

    def __iter__(self):
        seen = set()
        allowed = self.first
        for moment in range(len(self.recording.log) + 1):
            for loss in self.losses:
                tree = on_disk(self.recording, moment, loss)
                key = (repr(tree), tuple(sorted(map(str, allowed))))
                if key not in seen:
                    seen.add(key)
                    yield f"before call {moment}, {loss.name}", tree, allowed
            event = self.recording.log[moment] if moment < len(self.recording.log) else None
            if isinstance(event, Mark):
                allowed = {int(step) for step in event.text.split()}


def losses(mixes: int) -> Iterable[Loss]:
    return chain(LOSSES, map(mixed, range(mixes)), map(in_order, range(mixes)))


@pytest.fixture(params=[4, pytest.param(150, marks=pytest.mark.long)], ids=["few", "many"])
def mixes(request: pytest.FixtureRequest) -> int:
    """How many mixes of lost and kept are tried at each moment, beside the worst cases."""
    return request.param


@pytest.fixture
def claimed(
    tmp_path: Path, make_store: MakeStore, make_state: Callable[[int], Any], same: Callable[[Any, Any], bool]
) -> Callable[[Cuts], int]:
    """Checks what is promised, on each disk; how many disks there were."""

    def check(cuts: Cuts) -> int:
        count = 0
        for count, (cut, tree, allowed) in enumerate(cuts, 1):
            directory = tmp_path / f"cut-{count}" / "checkpoints"
            directory.parent.mkdir()
            lay_out(tree, directory.parent / "run")
            directory = directory.parent / "run" / "checkpoints"
            try:
                opened: int | None = Checkpoint.open(directory.parent).step
            except CheckpointError:
                opened = None
            store = make_store(directory, keep=keeping(2))
            newest, passed_over = newest_whole(*list_checkpoints(store.directory))
            assert (newest.step if newest else None) in allowed, cut
            if newest is None:
                assert passed_over == [], cut
            else:
                # Not one that is read back, and not one that is found by its name, is half there.
                assert opened == newest.step, cut
                assert same(newest.state(), make_state(newest.step)), cut
            for checkpoint in store.checkpoints:
                assert checkpoint.verify() == [], cut
                assert same(checkpoint.state(), make_state(checkpoint.step)), cut
            assert not [path for path in tree_of(directory) if ".tmp-" in path], cut
        return count

    return check


def tree_of(directory: Path) -> list[str]:
    return [name for _, directories, files in os.walk(directory) for name in (*directories, *files)]


def test_power_that_fails_in_the_first_save_leaves_nothing_or_the_checkpoint(
    tmp_path: Path, make_store: MakeStore, save: Save, claimed: Callable[[Cuts], int], mixes: int
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    recording = Recording(run)
    with recording.running(LONGEST_WRITE):
        save(make_store(run / "checkpoints"), 1)
        recording.mark("1")
    assert claimed(Cuts(recording, {None, 1}, losses(mixes))) > 40


def test_power_that_fails_in_a_save_or_in_what_it_removes_leaves_the_old_or_the_new_checkpoint(
    tmp_path: Path, make_store: MakeStore, save: Save, claimed: Callable[[Cuts], int], mixes: int
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    store = make_store(run / "checkpoints", keep=keeping(2))
    save(store, 1)
    save(store, 2)
    recording = Recording(run)
    with recording.running(LONGEST_WRITE):
        recording.mark("2 3")
        save(store, 3)
        # Saved is durable: from here on it is this one or a newer.
        recording.mark("3 4")
        save(store, 4)
        recording.mark("4")
    assert claimed(Cuts(recording, {2}, losses(mixes))) > 200


def test_power_that_fails_while_checkpoints_are_set_aside_leaves_each_of_them_whole(
    tmp_path: Path, make_store: MakeStore, save: Save, claimed: Callable[[Cuts], int], mixes: int
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    store = make_store(run / "checkpoints")
    for step in (1, 2, 3):
        save(store, step)
    recording = Recording(run)
    with recording.running(LONGEST_WRITE):
        recording.mark("1 2 3")
        store.set_aside(store.checkpoints[0], 2)
        recording.mark("1")
    cuts = Cuts(recording, {3}, losses(mixes))
    assert claimed(cuts) > 4
    for cut, tree, _ in cuts:
        kept = tree["checkpoints"]
        aside = kept.get("aside", {}).get("2", {})
        for step in (1, 2, 3):
            places = [place for place in (kept, aside) if f"step-{step:09d}" in place]
            assert [len(place[f"step-{step:09d}"]) for place in places] == [8], cut


def test_power_that_fails_while_leftovers_are_cleaned_brings_nothing_back_in_part(
    tmp_path: Path, make_store: MakeStore, save: Save, claimed: Callable[[Cuts], int], mixes: int
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    store = make_store(run / "checkpoints")
    paths = [save(store, step).path for step in (1, 2)]
    recording = Recording(run)
    with recording.running(LONGEST_WRITE):
        # So far the one came that was killed while he removed a checkpoint.
        os.rename(paths[0], store.directory / hidden_name("run-1", paths[0].name))  # noqa: PTH104
        make_store(store.directory)
    assert claimed(Cuts(recording, {2}, losses(mixes))) > 4


@pytest.mark.parametrize("name", ["x.zip", "x.pt", "unpacked", "x.safetensors"])
def test_power_that_fails_while_a_checkpoint_is_packed_unpacked_or_exported_leaves_all_of_it_or_nothing(
    name: str, tmp_path: Path, make_store: MakeStore, save: Save, mixes: int
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    checkpoint = Checkpoint.open(save(make_store(run / "checkpoints"), 1).path)
    pack(checkpoint, run / "packed.zip")
    recording = Recording(run)
    with recording.running(LONGEST_WRITE):
        if name == "unpacked":
            unpack(run / "packed.zip", run / name)
        elif name == "x.safetensors":
            export(checkpoint, run / name)
        else:
            pack(checkpoint, run / name)
        recording.mark("1")
    made = set()
    for number, (cut, tree, done) in enumerate(Cuts(recording, {None}, losses(mixes))):
        lay_out(tree, tmp_path / f"cut-{number}")
        target = tmp_path / f"cut-{number}" / name
        made.add(target.exists())
        assert target.exists() or done == {None}, cut
        assert not target.exists() or scenes.is_whole(target), cut
    assert made == {False, True}
