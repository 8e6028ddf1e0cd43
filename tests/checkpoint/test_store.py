import logging
import math
import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import list_checkpoints, newest_whole
from runner.checkpoint.manifest import read_manifest, to_bytes
from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.errors import CheckpointError, ConfigError, ResumeError
from runner.records import Monitor, Progress, Saved

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]
LAST = KeepPolicy(last=1, best=None, every_steps=None, every_hours=None)
FILES = ["config.yaml", "config.json", "state.json", "model.safetensors", "frozen.safetensors", "optimizer.safetensors"]


def steps(checkpoints: Iterable[Checkpoint]) -> list[int]:
    return [checkpoint.step for checkpoint in checkpoints]


def flip(path: Path, position: int = -1) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.unlink()
    path.write_bytes(raw)


def test_a_state_comes_back_as_it_was_saved(
    make_store: MakeStore, save: Save, make_state: Callable[[int], Any], same: Callable[[Any, Any], bool]
) -> None:
    store = make_store()
    saved = save(store, 450, val_loss=0.5, lr=math.nan)
    assert saved.path == store.directory / "step-000000450"
    assert saved.progress == Progress(step=450, evaluated_step=450)
    assert saved.reasons == ("every_steps",)
    assert saved.stats.seconds > 0
    assert {path.name for path in saved.path.iterdir()} == {*FILES, "extra.safetensors", "manifest.json"}
    assert (
        saved.stats.size
        == sum(path.stat().st_size for path in saved.path.iterdir()) - (saved.path / "manifest.json").stat().st_size
    )
    assert store.newest is not None
    assert same(store.newest.state(), make_state(450))
    manifest = store.newest.manifest
    assert (manifest.run, manifest.generation, manifest.parent, manifest.seconds) == ("run-1", 1, None, 450.0)
    assert manifest.created == "2026-01-02T00:00:00.000000+00:00"
    assert manifest.facts == {"torch": "2"}


def test_equal_states_give_equal_files(make_store: MakeStore, save: Save, tmp_path: Path) -> None:
    one = save(make_store(tmp_path / "one"), 3).path
    store = make_store(tmp_path / "other", run="run-2")
    save(store, 1)
    other = save(store, 3).path
    for name in [*FILES, "extra.safetensors"]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_generations_count_on_and_parents_are_the_ones_before(make_store: MakeStore, save: Save) -> None:
    for step in (1, 2, 3):
        save(make_store(), step)
    assert [(c.generation, c.manifest.parent) for c in make_store().checkpoints] == [(1, None), (2, 1), (3, 2)]


def test_a_step_that_has_a_checkpoint_is_not_written_over(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    first, second = save(store, 7), save(store, 7)
    assert [first.path.name, second.path.name] == ["step-000000007", "step-000000007-2"]
    assert Checkpoint.open(store.directory).path == second.path
    assert Checkpoint.open(store.directory, 7).path == second.path


def test_opening_a_store_makes_nothing(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    assert (store.checkpoints, store.newest, newest_whole(*list_checkpoints(store.directory))) == ((), None, (None, []))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_directory_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(
        CheckpointError, match=r"cannot be listed \(Not a directory\); wanted a directory of checkpoints"
    ):
        make_store(tmp_path / "checkpoints")


def test_who_looks_while_checkpoints_are_written_and_removed_always_finds_a_whole_list(
    make_store: MakeStore, save: Save
) -> None:
    store = make_store(keep=LAST)
    save(store, 1)
    writer = threading.Thread(target=lambda: [save(store, step) for step in range(2, 60)])
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(Checkpoint.open(store.directory).step)
    writer.join()
    assert seen == sorted(seen)
    assert Checkpoint.open(store.directory).step == 59


def test_what_is_not_kept_is_removed_after_the_save(make_store: MakeStore, save: Save) -> None:
    keep = KeepPolicy(last=1, best=1, every_steps=100, every_hours=None)
    store = make_store(keep=keep, monitor=Monitor("val_loss", "min"))
    for step, loss in ((50, 3.0), (60, 0.1), (100, 2.0), (150, math.nan), (160, 4.0)):
        save(store, step, val_loss=loss)
    assert steps(store.checkpoints) == [60, 100, 160]
    assert steps(make_store().checkpoints) == [60, 100, 160]


def test_retention_follows_the_policy_of_today(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    for step in (1, 2, 3, 4):
        save(store, step)
    store = make_store(keep=KeepPolicy(last=2, best=None, every_steps=None, every_hours=None))
    save(store, 5)
    assert steps(store.checkpoints) == [4, 5]


def test_what_is_protected_stays(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    save(store, 1)
    save(store, 2)
    store = make_store(keep=LAST)
    store.protect(store.checkpoints[0])
    for step in (3, 4):
        save(store, step)
    assert steps(store.checkpoints) == [1, 4]


def test_what_another_run_wrote_stays(make_store: MakeStore, save: Save) -> None:
    save(make_store(run="other"), 1)
    store = make_store(keep=LAST)
    for step in (2, 3):
        save(store, step)
    assert steps(store.checkpoints) == [1, 3]


def test_what_has_a_damaged_manifest_stays(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    damaged = save(store, 1).path
    flip(damaged / "manifest.json")
    store = make_store(keep=LAST)
    for step in (2, 3):
        save(store, step)
    assert damaged.exists()
    assert steps(store.checkpoints) == [3]


@pytest.mark.parametrize("rest", ["nothing", "the step"])
def test_a_damaged_checkpoint_of_any_name_is_named_and_set_aside(rest: str, make_store: MakeStore, save: Save) -> None:
    store = make_store()
    first = save(store, 1).path
    path = save(store, 2).path
    named = path.rename(path.with_name("epoch02"))
    manifest = named / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-5] if rest == "the step" else b"")
    store = make_store()
    newest, damages = newest_whole(*list_checkpoints(store.directory))
    assert newest is not None and newest.path == first
    assert len(damages) == 1 and damages[0].startswith(f"{manifest}: is damaged")
    assert store.set_aside(newest, 1) == [store.directory / "aside" / "1" / "epoch02"]


@pytest.mark.parametrize("stranger", ["file", "directory", "link"])
def test_what_holds_files_of_others_stays_as_it_is(
    stranger: str, make_store: MakeStore, save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(keep=LAST)
    path = save(store, 1).path
    if stranger == "file":
        (path / "notes.txt").write_text("mine")
    elif stranger == "directory":
        (path / "notes.txt").mkdir()
    else:
        (path / "notes.txt").symlink_to("config.json")
    before = sorted(file.name for file in path.iterdir())
    for step in (2, 3):
        save(store, step)
    assert sorted(file.name for file in path.iterdir()) == before
    assert steps(store.checkpoints) == [1, 3]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        f"{path} is kept: it holds what its manifest does not list (notes.txt); move that away, or delete it yourself"
    ]


def test_a_file_replaced_by_a_link_or_a_directory_by_a_link_stays(
    make_store: MakeStore, save: Save, tmp_path: Path
) -> None:
    store = make_store(keep=KeepPolicy(last=2, best=None, every_steps=None, every_hours=None))
    one, two = save(store, 1).path, save(store, 2).path
    (one / "state.json").rename(tmp_path / "state.json")
    (one / "state.json").symlink_to(tmp_path / "state.json")
    two.rename(tmp_path / "two")
    two.symlink_to(tmp_path / "two")
    for step in (3, 4, 5):
        save(store, step)
    assert steps(store.checkpoints) == [1, 2, 4, 5]
    assert Checkpoint.open(tmp_path / "two").verify() == []
    assert (tmp_path / "state.json").exists()


def test_leftovers_of_others_are_not_touched(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    save(store, 1)
    others = [store.directory / name for name in (".tmp-00000000-step-000000001", ".tmp-mine", "notes")]
    for path in others:
        path.mkdir()
        (path / "file").write_text("x")
    save(make_store(), 2)
    assert all((path / "file").exists() for path in others)


def test_a_leftover_that_is_a_link_is_not_followed(make_store: MakeStore, save: Save, tmp_path: Path) -> None:
    from runner.checkpoint.commit import hidden_name

    store = make_store()
    save(store, 1)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (store.directory / hidden_name("run-1", "step-000000009")).symlink_to(tmp_path / "precious")
    save(make_store(), 9)
    assert (tmp_path / "precious" / "file").exists()


def test_a_checkpoint_deleted_by_hand_is_forgotten(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    shutil.rmtree(save(store, 1).path)
    save(store, 2)
    assert steps(store.checkpoints) == [2]


def test_frozen_tensors_are_linked_while_they_do_not_change(
    make_store: MakeStore, save: Save, make_state: Callable[[int], Any], same: Callable[[Any, Any], bool]
) -> None:
    store = make_store(keep=LAST)
    first = save(store, 1).path / "frozen.safetensors"
    inode = first.stat().st_ino
    second = save(make_store(keep=LAST), 2).path / "frozen.safetensors"
    assert second.stat().st_ino == inode
    assert not first.exists()
    assert same(Checkpoint.open(second.parent).state(), make_state(2))


def test_frozen_tensors_that_changed_are_written(make_store: MakeStore, make_state: Callable[[int], Any]) -> None:
    store = make_store()
    for step in (1, 2):
        state = make_state(step)
        state["model"]["base.weight"] += step
        store.save(
            state,
            progress=Progress(step=step),
            reasons=("end",),
            metrics={},
            documents={},
            facts={},
            frozen=["base.weight"],
        ).wait()
    assert [(c.path / "frozen.safetensors").stat().st_nlink for c in store.checkpoints] == [1, 1]


def test_a_damaged_frozen_file_is_not_linked_but_written_again(
    make_store: MakeStore, save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store()
    flip(save(store, 1).path / "frozen.safetensors")
    saved = save(store, 2)
    assert Checkpoint.open(saved.path).verify() == []
    assert (saved.path / "frozen.safetensors").stat().st_nlink == 1
    assert "written again instead of linked" in caplog.text


@pytest.mark.parametrize("name", [*FILES, "extra.safetensors"])
@pytest.mark.parametrize("harm", ["first byte", "middle byte", "last byte", "cut", "emptied", "longer", "missing"])
def test_damage_of_any_file_is_noticed_named_and_fallen_back_from(
    name: str, harm: str, make_store: MakeStore, save: Save
) -> None:
    store = make_store()
    save(store, 1)
    path = save(store, 2).path / name
    raw = path.read_bytes()
    path.unlink()
    if harm.endswith("byte"):
        position = {"first byte": 0, "middle byte": len(raw) // 2, "last byte": -1}[harm]
        changed = bytearray(raw)
        changed[position] ^= 0x10
        path.write_bytes(changed)
    elif harm != "missing":
        path.write_bytes({"cut": raw[:-1], "emptied": b"", "longer": raw + b"\0"}[harm])

    newest = Checkpoint.open(store.directory)
    assert newest.step == 2
    damages = newest.verify()
    assert len(damages) == 1
    assert damages[0].startswith(f"{path}: ")
    assert damages[0].endswith(("use another checkpoint", "put the file back"))
    with pytest.raises(CheckpointError) as caught:
        newest.document(name)
    assert str(caught.value).startswith(f"{path}: ")
    if name.startswith("config"):
        newest.state()
    else:
        with pytest.raises(CheckpointError) as caught:
            newest.state()
        assert str(caught.value).startswith(f"{path}: ")

    whole, passed_over = newest_whole(*list_checkpoints(make_store().directory))
    assert whole is not None
    assert whole.step == 1
    assert passed_over == damages


@pytest.mark.parametrize("harm", ["flipped", "missing", "newer"])
def test_a_manifest_that_cannot_be_read_is_named_and_fallen_back_from(
    harm: str, make_store: MakeStore, save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store()
    save(store, 1)
    path = save(store, 2).path / "manifest.json"
    if harm == "flipped":
        flip(path, 40)
    elif harm == "missing":
        path.unlink()
    else:
        from dataclasses import replace

        path.write_bytes(to_bytes(replace(read_manifest(path.parent), format=99, reader=99)))
    store = make_store()
    assert steps(store.checkpoints) == [1]
    whole, passed_over = newest_whole(*list_checkpoints(store.directory))
    assert whole is not None
    assert whole.step == 1
    assert len(passed_over) == 1
    assert passed_over[0].startswith(f"{path}: ")
    assert Checkpoint.open(store.directory).step == 1
    assert f"passed over: {path}: " in caplog.text


def test_all_that_was_passed_over_is_told(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    paths = [save(store, step).path for step in (1, 2, 3)]
    flip(paths[0] / "state.json")
    flip(paths[1] / "model.safetensors")
    flip(paths[1] / "state.json")
    flip(paths[2] / "manifest.json")
    whole, passed_over = newest_whole(*list_checkpoints(make_store().directory))
    assert whole is None
    assert [line.split(":")[0] for line in passed_over] == [
        str(paths[2] / "manifest.json"),
        str(paths[1] / "state.json"),
        str(paths[0] / "state.json"),
    ]
    assert passed_over[1].endswith("(and 1 more)")


def test_newer_checkpoints_are_set_aside_and_found_no_more(make_store: MakeStore, save: Save) -> None:
    store = make_store(keep=KeepPolicy(last=3, best=None, every_steps=None, every_hours=None))
    paths = {step: save(store, step).path for step in (1, 2, 3)}
    flip(paths[3] / "manifest.json")
    store = make_store(keep=LAST)
    after = store.checkpoints[0]
    store.protect(after)
    aside = store.directory / "aside" / "2"
    assert store.set_aside(after, 2) == [aside / "step-000000003", aside / "step-000000002"]
    assert steps(store.checkpoints) == [1]
    whole, passed_over = newest_whole(*list_checkpoints(store.directory))
    assert whole is not None and (whole.generation, passed_over) == (after.generation, [])
    assert store.set_aside(after, 2) == []

    saved = save(store, 2)
    assert saved.path.name == "step-000000002"
    # A generation is never given twice, so that the newest stays the newest wherever the others are.
    assert read_manifest(saved.path).generation == 3
    assert read_manifest(saved.path).parent == 1
    assert store.set_aside(after, 2) == [aside / "step-000000002-2"]
    save(make_store(keep=LAST), 5)
    assert steps(list_checkpoints(aside)[0]) == [2, 2]


def test_setting_aside_that_fails_says_so(
    make_store: MakeStore, save: Save, file_calls: Any, same: Callable[[Any, Any], bool]
) -> None:
    store = make_store()
    for step in (1, 2, 3):
        save(store, step)
    after = store.checkpoints[0]
    calls = file_calls()

    def act(number: int, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if calls.log.count("rename") == 2:
            raise OSError(30, "Read-only file system")
        return call(*args)

    with calls.going_through(act), pytest.raises(ResumeError, match="1 of 2 were; make the directory writable"):
        store.set_aside(after, 2)
    assert steps(store.checkpoints) == [1, 2]
    assert steps(make_store().checkpoints) == [1, 2]


def test_too_little_space_is_warned_of_once(
    make_store: MakeStore, save: Save, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 0, 1000))
    store = make_store()
    save(store, 1)
    save(store, 2)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{store.directory}: a checkpoint needs about ")
    assert warnings[0].endswith("kB and 1 kB are free, so saving may fail; make room, or keep fewer")


def test_best_without_a_monitor_is_refused_when_the_store_is_made(make_store: MakeStore) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.keep\.best is 1 and there is no monitor"):
        make_store(keep=KeepPolicy(last=None, best=1, every_steps=None, every_hours=None))


@pytest.mark.parametrize("name", ["../x", "manifest.json", "state.json", "model.safetensors", "/x"])
def test_document_names_that_would_do_harm_are_refused(name: str, make_store: MakeStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names a file|cannot be called"):
        make_store().save({}, progress=Progress(), reasons=(), metrics={}, documents={name: b""}, facts={}).wait()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_saved_is_refused_before_anything_is_written(make_store: MakeStore, tmp_path: Path) -> None:
    for state, facts in (({"x": object()}, {}), ({}, {"x": object()})):
        with pytest.raises(TypeError):
            make_store().save(state, progress=Progress(), reasons=(), metrics={}, documents={}, facts=facts).wait()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_state_is_a_checkpoint(make_store: MakeStore) -> None:
    store = make_store()
    store.save({}, progress=Progress(), reasons=(), metrics={}, documents={}, facts={}).wait()
    assert store.newest is not None
    assert (store.newest.state(), store.newest.tensors(), store.newest.verify()) == ({}, {}, [])


def test_unicode_and_spaces_in_paths_are_fine(make_store: MakeStore, save: Save, tmp_path: Path) -> None:
    saved = save(make_store(tmp_path / "größe ö 😀" / "check points"), 1)
    assert Checkpoint.open(saved.path).verify() == []


def test_two_hundred_checkpoints_are_listed_by_their_manifests_alone(make_store: MakeStore, save: Save) -> None:
    from dataclasses import replace

    store = make_store()
    first = save(store, 1).path
    manifest = read_manifest(first)
    for step in range(2, 201):
        path = store.directory / f"step-{step:09d}"
        path.mkdir()
        # The files of the others are not even there.
        (path / "manifest.json").write_bytes(to_bytes(replace(manifest, generation=step, progress=Progress(step=step))))
    began = time.perf_counter()
    assert steps(make_store().checkpoints) == list(range(1, 201))
    # Generous by a factor of a hundred: a listing that reads more than manifests takes longer than this.
    assert time.perf_counter() - began < 5
    assert Checkpoint.open(store.directory, 137).step == 137
