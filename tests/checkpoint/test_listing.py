"""Which checkpoints there are, and which is meant, with checkpoints that a real store has written."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import list_checkpoints, looks_like_checkpoint, split_choice, step_of_damaged
from runner.checkpoint.store import CheckpointStore
from runner.errors import CheckpointError
from runner.records import Saved

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]


def test_a_checkpoint_may_have_any_name_but_a_hidden_one(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    for step, name in ((1, "epoch=01, loss 0.5"), (2, "größe"), (3, ".hidden"), (4, "step-7")):
        path = save(store, step).path
        path.rename(path.with_name(name))
    found, damages = list_checkpoints(store.directory)
    assert [(checkpoint.path.name, checkpoint.step) for checkpoint in found] == [
        ("epoch=01, loss 0.5", 1),
        ("größe", 2),
        ("step-7", 4),
    ]
    assert damages == {}
    assert Checkpoint.open(store.directory.parent, 2).path.name == "größe"


def test_what_was_set_aside_is_not_listed(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    first = save(store, 1)
    save(store, 2)
    store.set_aside(Checkpoint.open(first.path), 1)
    found, damages = list_checkpoints(store.directory)
    assert [checkpoint.step for checkpoint in found] == [1]
    assert damages == {}


@pytest.mark.parametrize(
    ("name", "files", "damaged"),
    [
        ("best so far", ("state.json",), True),
        ("best so far", ("optimizer.safetensors",), True),
        ("best so far", ("manifest.json",), True),
        ("step-000000007", (), True),
        ("step-000000007-2", (), True),
        ("notes", ("a.txt",), False),
        ("notes", (), False),
        ("step-x", (), False),
    ],
)
def test_a_directory_without_a_readable_manifest_is_damaged_if_it_looks_like_a_checkpoint(
    name: str, files: tuple[str, ...], damaged: bool, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoints" / name
    path.mkdir(parents=True)
    for file in files:
        (path / file).write_bytes(b"")
    assert looks_like_checkpoint(path) is damaged
    found, damages = list_checkpoints(path.parent)
    assert (found, list(damages)) == ([], [path] if damaged else [])


def test_the_step_of_a_damaged_checkpoint_is_what_is_left_of_it_says(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    path = save(store, 12).path
    assert step_of_damaged(path) == 12
    named = path.rename(path.with_name("epoch01"))
    manifest = named / "manifest.json"
    raw = manifest.read_bytes()
    manifest.write_bytes(raw[:-3])
    assert step_of_damaged(named) == 12
    manifest.write_bytes(raw[:20])
    assert step_of_damaged(named) == math.inf
    manifest.unlink()
    assert step_of_damaged(named) == math.inf


def test_checkpoints_that_were_copied_out_of_their_run_are_found_under_any_name(
    make_store: MakeStore, save: Save, tmp_path: Path
) -> None:
    store = make_store()
    saved = save(store, 3).path
    saved.rename(saved.with_name("good one"))
    store.directory.rename(tmp_path / "copied")
    assert Checkpoint.open(tmp_path / "copied").step == 3


def test_a_checkpoint_is_chosen_by_its_tag_and_the_newest_of_several(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    for step, tags in ((1, ["good", "paper"]), (2, ["good"]), (3, [])):
        path = save(store, step).path
        for tag in tags:
            (path / f"tag.{tag}").touch()
    run = store.directory.parent
    assert Checkpoint.open(run, "good").step == 2
    assert Checkpoint.open(run, "paper").tags == ("good", "paper")
    assert Checkpoint.open(Checkpoint.open(run, "paper").path, "paper").step == 1
    with pytest.raises(
        CheckpointError, match=re.escape("'gold'; wanted 'latest', 'best', a step number or a tag (good, paper)")
    ):
        Checkpoint.open(run, "gold")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/a", ("runs/a", "latest")),
        ("runs/a@best", ("runs/a", "best")),
        ("runs/a@step=12", ("runs/a", 12)),
        ("runs/a@paper-2", ("runs/a", "paper-2")),
        ("runs/a@12", ("runs/a@12", "latest")),
        ("me@home/a", ("me@home/a", "latest")),
        ("me@home/a@latest", ("me@home/a", "latest")),
    ],
)
def test_a_choice_stands_behind_the_path(text: str, expected: tuple[str, str | int]) -> None:
    assert split_choice(text) == expected


def test_a_path_that_ends_like_a_choice_wins(tmp_path: Path) -> None:
    path = tmp_path / "run@best"
    path.mkdir()
    assert split_choice(str(path)) == (str(path), "latest")
