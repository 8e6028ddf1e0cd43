"""`runs tag`, and how tags are shown and chosen."""

import json
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from runner.cli.tagging import tag_checkpoint
from runner.errors import CheckpointError
from runner.rundir import RunDir

pytestmark = pytest.mark.launch

Call = Callable[..., "CompletedProcess[str]"]
MakeRun = Callable[..., RunDir]


def test_a_tag_is_set_shown_chosen_and_taken_away(call: Call, make_run: MakeRun) -> None:
    run = make_run("a", {10: 0.5, 20: 0.25, 30: 0.75})
    newest = "a/checkpoints/step-000000030"
    assert call("tag", "a", "newest").stdout == f"tagged newest: {newest}\n"
    assert call("tag", "a@best", "paper").stdout == "tagged paper: a/checkpoints/step-000000020\n"
    assert call("tag", newest, "also").stdout == f"tagged also: {newest}\n"
    shown = call("show", "a").stdout.splitlines()
    assert [line.split() for line in shown if "step-0" in line][1][:3] == ["step-000000020", "best", "paper"]
    assert any(line.startswith("step-000000030        also, newest  ") for line in shown)
    assert "tags       paper" in call("show", "a@paper").stdout.splitlines()
    assert json.loads(call("show", "a@newest", "--json").stdout)["tags"] == ["also", "newest"]
    assert call("tag", "a", "paper", "--remove").stdout == ("no longer tagged paper: a/checkpoints/step-000000020\n")
    assert call("tag", newest, "also", "--remove").returncode == 0
    assert [file.name for file in run.checkpoints.glob("*/tag.*")] == ["tag.newest"]


def test_every_command_takes_run_and_which(call: Call, make_run: MakeRun) -> None:
    make_run("a", {10: 0.5, 20: 0.25})
    for which, step in (("latest", 20), ("best", 20), ("step=10", 10)):
        assert json.loads(call("show", f"a@{which}", "--json").stdout)["step"] == step
    assert call("verify", "a@step=10").stdout == ("whole    a/checkpoints/step-000000010\n1 checkpoint, none damaged\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("a", "best"), "'best' cannot be a tag: it chooses a checkpoint already; take another name"),
        (
            ("a", "1st"),
            "'1st' cannot be a tag; wanted a letter or _ first, then letters, digits, '_', '.' or '-', 100 at most",
        ),
        (("b", "x"), "b: not a run (nothing is there); name a directory that holds run.json"),
        (("a@step=20", "x"), "a: has no checkpoint of step 20; the newest are of steps 10, 30"),
        (
            ("a", "first"),
            "a/checkpoints/step-000000010: is tagged 'first' already; take it away by "
            "`runs tag a/checkpoints/step-000000010 first --remove` to tag step-000000030 instead",
        ),
        (
            ("a", "x", "--remove"),
            "a: no checkpoint is called 'x'; wanted 'latest', 'best', a step number or a tag (first)",
        ),
        (
            ("a/checkpoints/step-000000010", "x", "--remove"),
            "a/checkpoints/step-000000010: is not tagged 'x'; its tags are: first",
        ),
    ],
)
def test_what_cannot_be_tagged_is_told(call: Call, make_run: MakeRun, args: tuple[str, ...], message: str) -> None:
    make_run("a", {10: 0.5, 30: 0.25})
    assert call("tag", "a@step=10", "first").returncode == 0
    refused = call("tag", *args)
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", f"runs: {message}\n")


def test_a_run_without_a_checkpoint_cannot_be_tagged(call: Call, make_run: MakeRun) -> None:
    make_run("a", {})
    assert call("tag", "a", "x").stderr == "runs: a: has no checkpoint yet; train until one is saved\n"


def test_a_tag_is_taken_for_the_directory_that_one_is_in_too(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("a", {10: 0.5, 20: 0.25})
    tag_checkpoint(str(run.checkpoints / "step-000000010"), "first")
    monkeypatch.chdir(run.checkpoints / "step-000000020")
    with pytest.raises(CheckpointError, match="to tag step-000000020 instead"):
        tag_checkpoint(".", "first")
    assert not list(run.checkpoints.glob("step-000000020/tag.*"))
