import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.checkpoint.commit import hidden_name
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.tags import check_tag, tag, tags_of, untag
from runner.errors import CheckpointError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "step-000000450"
    path.mkdir()
    (path / "manifest.json").write_text("{}")
    return path


def test_a_tag_is_an_empty_file_and_can_be_taken_away(place: Path) -> None:
    assert tags_of(place) == ()
    tag(place, "paper")
    tag(place, "a-b_c.2")
    tag(place, "paper")
    assert tags_of(place) == ("a-b_c.2", "paper")
    assert (place / "tag.paper").read_bytes() == b""
    untag(place, "a-b_c.2")
    assert tags_of(place) == ("paper",)
    assert sorted(path.name for path in place.iterdir()) == ["manifest.json", "tag.paper"]


def test_what_is_no_tag_of_ours_is_not_listed(place: Path) -> None:
    for name in ("tag.", "tag.1", "tag.a b", "tagged", "TAG.x", "tag.-x"):
        (place / name).touch()
    assert tags_of(place) == ()
    assert tags_of(place / "manifest.json") == tags_of(place / "not there") == ()


def test_tags_that_cannot_be_read_are_not_taken_for_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(OSError, match="Input/output error"):
        tags_of(place)


@pytest.mark.parametrize("name", ["", "1", "-x", ".x", "a b", "a/b", "../x", "a\n", "é", "a=1", "a@b", "x" * 101])
def test_what_cannot_be_chosen_by_its_name_is_refused(place: Path, name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        tag(place, name)
    assert str(caught.value) == (
        f"{name!r} cannot be a tag; wanted a letter or _ first, then letters, digits, '_', '.' or '-', 100 at most"
    )
    assert tags_of(place) == ()


@pytest.mark.parametrize("name", ["latest", "best", "step"])
def test_words_that_choose_a_checkpoint_already_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"'{name}' cannot be a tag: it chooses a checkpoint already; take anoth"):
        check_tag(name)


def test_a_tag_that_is_not_there_cannot_be_taken_away(place: Path) -> None:
    with pytest.raises(CheckpointError, match=r"step-000000450: is not tagged 'paper'; its tags are: none$"):
        untag(place, "paper")
    tag(place, "a")
    tag(place, "b")
    with pytest.raises(CheckpointError, match=r"is not tagged 'paper'; its tags are: a, b$"):
        untag(place, "paper")


def test_a_checkpoint_that_is_not_there_is_told(place: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"gone: could not be tagged 'x' \(No such file or directory\); wanted a ch"
    ):
        tag(place.parent / "gone", "x")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_failing_disk_is_told_at_every_file_call(place: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tag(place, "there")
    real = {name: getattr(os, name) for name in ("open", "fsync", "unlink")}
    for action, done in ((lambda: tag(place, "x"), "tagged 'x'"), (lambda: untag(place, "there"), "untagged 'there'")):
        for name in real:
            called = []

            def fail(*args: Any, name: str = name, called: list[str] = called, **_: Any) -> None:
                called.append(name)
                raise OSError(code, os.strerror(code))

            monkeypatch.setattr(os, name, fail)
            if name != "unlink" or done.startswith("untagged"):
                with pytest.raises(CheckpointError, match=rf"could not be {done} \({os.strerror(code)}\)"):
                    action()
                assert called
            monkeypatch.setattr(os, name, real[name])
            tag(place, "there")


def test_a_file_system_that_syncs_no_directories_is_fine(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    tag(place, "x")
    untag(place, "x")


def test_what_was_tagged_while_it_was_being_removed_is_still_there(tmp_path: Path) -> None:
    """Retention renames, looks for tags, and then removes or renames back. Who was told of no error has his tag."""
    for number in range(300):
        path, hidden = tmp_path / f"step-{number}", tmp_path / f".tmp-{number}"
        path.mkdir()
        start = threading.Barrier(2)
        tagged = []

        def set_tag(path: Path = path, start: threading.Barrier = start, tagged: list[bool] = tagged) -> None:
            start.wait()
            try:
                tag(path, "mine")
            except CheckpointError:
                return
            tagged.append(True)

        thread = threading.Thread(target=set_tag)
        thread.start()
        start.wait()
        path.rename(hidden)
        if tags_of(hidden):
            hidden.rename(path)
        else:
            hidden.rmdir()
        thread.join()
        assert tags_of(path) == (("mine",) if tagged else ())


def test_a_checkpoint_is_chosen_by_its_tag(make_store: Callable[..., Any], save: Callable[..., Any]) -> None:
    store = make_store()
    for step in (10, 20, 30):
        save(store, step)
    tag(store.checkpoints[1].path, "paper")
    run = store.directory.parent
    assert Checkpoint.open(run, "paper").step == 20
    assert Checkpoint.open(run, "paper").tags == ("paper",)
    assert Checkpoint.open(run, "paper").verify() == []
    with pytest.raises(CheckpointError, match=r"no checkpoint is called 'papre'; wanted .* or a tag \(paper\)"):
        Checkpoint.open(run, "papre")


def test_what_is_tagged_is_kept_under_every_policy_and_without_a_word(
    make_store: Callable[..., Any], save: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(keep=KeepPolicy(last=1, best=None, every_steps=None, every_hours=None))
    for step in (10, 20, 30, 40):
        save(store, step)
        if step in (10, 30):
            tag(store.newest.path, f"at{step}")
    assert [(checkpoint.step, checkpoint.tags) for checkpoint in store.checkpoints] == [
        (10, ("at10",)),
        (30, ("at30",)),
        (40, ()),
    ]
    assert caplog.messages == []
    untag(store.checkpoints[0].path, "at10")
    save(store, 50)
    assert [checkpoint.step for checkpoint in store.checkpoints] == [30, 50]


def test_what_was_tagged_before_its_remover_died_gets_its_name_back(
    make_store: Callable[..., Any], save: Callable[..., Any]
) -> None:
    store = make_store()
    for step in (10, 20, 30):
        save(store, step)
    whole, other, _ = (checkpoint.path for checkpoint in store.checkpoints)
    tag(whole, "paper")
    tag(other, "x")
    (other / "manifest.json").unlink()
    for path in (whole, other):
        path.rename(path.with_name(hidden_name("run-1", path.name)))
    save(make_store(), 40)
    assert sorted(path.name for path in store.directory.iterdir()) == [f"step-0000000{step}" for step in (10, 30, 40)]
    assert Checkpoint.open(store.directory, "paper").verify() == []
    assert Checkpoint.open(store.directory, "paper").path == whole


def test_tagging_imports_no_torch() -> None:
    program = "import sys, runner.checkpoint.tags; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
