"""`runs prune`: what goes is what no rule keeps and nobody protects, and nothing goes without --yes."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from runner.checkpoint.commit import hidden_name
from runner.lock import RunLock
from runner.rundir import RunDir

pytestmark = pytest.mark.launch

Call = Callable[..., "CompletedProcess[str]"]
MakeRun = Callable[..., RunDir]

KEEP = {"last": 2, "best": 1, "every_steps": None, "every_hours": None}


def config(**keep: object) -> dict[str, object]:
    return {"monitor": {"metric": "val_loss", "mode": "min"}, "checkpoint": {"keep": KEEP | keep}}


def steps(run: RunDir) -> list[int]:
    return sorted(int(path.name[5:14]) for path in run.checkpoints.glob("step-*"))


def told(printed: str) -> dict[str, list[str]]:
    """Of every checkpoint: what becomes of it, and why."""
    rows = [line.split(maxsplit=4) for line in printed.splitlines() if line.startswith("step-")]
    return {name: [verdict, why] for name, verdict, _, _, why in rows}


def content(directory: Path) -> dict[str, str]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_without_yes_it_is_told_what_would_go_and_nothing_is_changed(call: Call, make_run: MakeRun) -> None:
    run = make_run("a", {10: 0.5, 20: 0.25, 30: 0.75, 40: 0.8}, config=config())
    before = content(run.path)
    shown = call("prune", "a")
    assert told(shown.stdout) == {
        "step-000000010": ["goes", "no rule keeps it"],
        "step-000000020": ["stays", "best by val_loss"],
        "step-000000030": ["stays", "last 2"],
        "step-000000040": ["stays", "newest, last 2"],
    }
    assert shown.stdout.splitlines()[-1].startswith("1 of 4 checkpoints would go, ")
    assert shown.stdout.endswith("; add --yes to delete\n")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert content(run.path) == before


def test_with_yes_what_no_rule_keeps_is_deleted(call: Call, make_run: MakeRun) -> None:
    run = make_run("a", {10: 0.5, 20: 0.25, 30: 0.75, 40: 0.8}, config=config())
    shown = call("prune", "a", "--yes")
    assert told(shown.stdout)["step-000000010"] == ["deleted", "no rule keeps it"]
    assert shown.stdout.splitlines()[-1].startswith("deleted 1 of 4 checkpoints, ")
    assert steps(run) == [20, 30, 40]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [f"step-0000000{n}" for n in (20, 30, 40)]
    assert not run.lock.exists()
    again = call("prune", "a", "--yes").stdout
    assert again.splitlines()[-1] == "deleted 0 of 3 checkpoints, 0 B"
    assert call("prune", "a").stdout.splitlines()[-1] == "nothing to delete among 3 checkpoints"


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (["--last", "1"], [50]),
        (["--last", "2"], [40, 50]),
        (["--best", "2"], [10, 30, 50]),
        (["--every-steps", "20"], [20, 40, 50]),
        # The first of each hour; they were saved after 0.5, 1, 1.5, 2 and 2.5 hours.
        (["--every-hours", "1"], [20, 40, 50]),
        (["--best", "1", "--every-hours", "2"], [10, 40, 50]),
    ],
)
def test_rules_that_are_given_replace_those_of_the_config(
    call: Call, make_run: MakeRun, flags: list[str], left: list[int]
) -> None:
    scores = {10: 0.1, 20: 0.5, 30: 0.2, 40: 0.5, 50: float("nan")}
    run = make_run("a", scores, config=config(last=5), seconds=[1800.0 * number for number in range(1, 6)])
    assert call("prune", "a").stdout.splitlines()[-1] == "nothing to delete among 5 checkpoints"
    assert call("prune", "a", "--yes", *flags).returncode == 0
    assert steps(run) == left


def test_the_newest_config_says_what_is_kept(call: Call, make_run: MakeRun, more: Callable[..., None]) -> None:
    run = make_run("a", {10: 0.5, 20: 0.25, 30: 0.75}, config=config(last=9))
    more(run, {40: 0.9}, config={"monitor": None, "checkpoint": {"keep": {"last": 1, "best": None}}})
    assert told(call("prune", "a").stdout)["step-000000040"] == ["stays", "newest, last 1"]
    call("prune", "a", "--yes")
    assert steps(run) == [40]


def test_what_is_tagged_or_was_resumed_from_stays(call: Call, make_run: MakeRun) -> None:
    run = make_run("a", dict.fromkeys((10, 20, 30, 40), 0.5), config=config())
    call("tag", "a@step=10", "paper")
    run.begin_attempt({"resumed_from": "step-000000040"})
    run.begin_attempt({"resumed_from": "step-000000020"})
    shown = call("prune", "a", "--last", "1", "--yes")
    assert told(shown.stdout) == {
        "step-000000010": ["stays", "tagged paper"],
        "step-000000020": ["stays", "resumed from by attempt 3"],
        "step-000000030": ["deleted", "no rule keeps it"],
        "step-000000040": ["stays", "newest, last 1"],
    }
    assert steps(run) == [10, 20, 40]


def test_the_newest_that_is_whole_stays(call: Call, make_run: MakeRun) -> None:
    run = make_run("a", dict.fromkeys((10, 20, 30, 40), 0.5), config=config())
    for step in (30, 40):
        file = run.checkpoints / f"step-0000000{step}/model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert told(call("prune", "a", "--last", "1", "--yes").stdout) == {
        "step-000000010": ["deleted", "no rule keeps it"],
        "step-000000020": ["stays", "newest that is whole"],
        "step-000000030": ["deleted", "no rule keeps it"],
        "step-000000040": ["stays", "newest, last 1"],
    }


def test_only_what_this_run_wrote_and_lists_is_deleted(
    call: Call, make_run: MakeRun, more: Callable[..., None], tmp_path: Path
) -> None:
    run = make_run("a", dict.fromkeys((10, 20, 30), 0.5), config=config())
    more(run, {15: 0.1}, owner="another run")
    (run.checkpoints / "step-000000010/notes.txt").write_text("mine")
    (run.checkpoints / "step-000000012").mkdir()
    (run.checkpoints / "step-000000012/model.safetensors").write_text("left over")
    (run.checkpoints / "README").write_text("mine")
    aside = run.checkpoints / "aside/2"
    aside.mkdir(parents=True)
    (run.checkpoints / "step-000000020").rename(aside / "step-000000020")
    elsewhere = tmp_path / "elsewhere"
    (run.checkpoints / "step-000000015").rename(elsewhere)
    (run.checkpoints / "linked").symlink_to(elsewhere)
    before = content(tmp_path)
    more(run, {40: 0.5, 50: 0.6}, config=config())
    shown = call("prune", "a", "--last", "1", "--yes")
    assert shown.stderr == ""
    lines = shown.stdout.splitlines()
    assert any(line.split()[:2] == ["step-000000010", "stays"] and "notes.txt" in line for line in lines)
    assert any(line.split()[:2] == ["linked", "stays"] and "of another run" in line for line in lines)
    assert any(
        line.split()[:2] == ["step-000000012", "stays"] and "its manifest cannot be read" in line for line in lines
    )
    after = content(tmp_path)
    gone = {path.split("/checkpoints/")[1].split("/")[0] for path in before.keys() - after.keys()}
    assert gone == {"step-000000030"}
    assert {path: after[path] for path in after.keys() & before.keys()} == {
        path: digest for path, digest in before.items() if path in after
    }


def test_a_running_run_is_not_pruned(call: Call, make_run: MakeRun) -> None:
    run = make_run("a", {10: 0.5, 20: 0.25, 30: 0.75}, config=config())
    with RunLock(run.lock):
        refused = call("prune", "a", "--last", "1", "--yes")
        assert refused.returncode == 2
        assert f"process {os.getpid()}" in refused.stderr
        assert steps(run) == [10, 20, 30]
        assert call("prune", "a", "--last", "1").returncode == 0
    assert steps(run) == [10, 20, 30]


def test_what_a_killed_process_left_of_a_save_goes_with_it(call: Call, make_run: MakeRun) -> None:
    run = make_run("a", {10: 0.5}, config=config())
    left = run.checkpoints / hidden_name(run.id, "step-000000020")
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert call("prune", "a").returncode == 0 and left.exists()
    assert call("prune", "a", "--yes").returncode == 0 and not left.exists()
    assert steps(run) == [10]


def test_what_cannot_be_deleted_is_told(call: Call, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("a", {10: 0.5, 20: 0.25, 30: 0.75}, config=config())
    # A directory cannot be renamed to a name that is too long.
    long = run.checkpoints / ("x" * 250)
    (run.checkpoints / "step-000000010").rename(long)
    failed = call("prune", "a", "--last", "1", "--yes")
    assert failed.returncode == 1
    assert "could not be deleted (File name too long)" in failed.stdout
    assert failed.stdout.splitlines()[-1] == "deleted 1 of 3 checkpoints; 1 could not be"
    assert long.is_dir() and steps(run) == [30]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["a@step=10"], "a/checkpoints/step-000000010: is a checkpoint; name its run"),
        (["b"], "b: not a run (nothing is there); name a directory that holds run.json"),
        (["a", "--every-hours", "0"], "--every-hours is 0.0; wanted a number above 0"),
        (["a", "--every-hours", "nan"], "--every-hours is nan; wanted a number above 0"),
        (["c"], "c: its config has no checkpoint.keep; say what to keep, such as --last 2"),
        (["c", "--best", "1"], "c: its config names no monitor to judge the best by; use --last"),
        (
            ["d"],
            "d: checkpoint.keep.last is 0; wanted a whole number from 1, or null; "
            "or say what to keep, such as --last 2",
        ),
    ],
)
def test_what_cannot_be_pruned_is_told(call: Call, make_run: MakeRun, args: list[str], message: str) -> None:
    make_run("a", {10: 0.5}, config=config())
    make_run("c", {10: 0.5}, config={"seed": 1})
    make_run("d", {10: 0.5}, config=config(last=0))
    refused = call("prune", *args)
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", f"runs: {message}\n")


def test_a_run_without_checkpoints_has_nothing_to_delete(call: Call, make_run: MakeRun) -> None:
    make_run("a", {})
    assert call("prune", "a", "--last", "1").stdout == "nothing to delete among 0 checkpoints\n"


def test_a_shared_file_counts_when_its_last_name_goes(call: Call, make_run: MakeRun) -> None:
    run = make_run("a", {10: 0.5, 20: 0.25, 30: 0.75}, config=config())
    places = [run.checkpoints / f"step-0000000{step}" for step in (10, 20, 30)]
    sizes = [sum(file.stat().st_size for file in place.iterdir()) for place in places]
    file = places[0] / "config.json"
    for other in places[1:]:
        (other / "config.json").unlink()
        os.link(file, other / "config.json")
    shared = file.stat().st_size
    assert json.loads(file.read_bytes())
    freed = sizes[0] + sizes[1] - 2 * shared
    line = call("prune", "a", "--last", "1").stdout.splitlines()[-1]
    assert line == f"2 of 3 checkpoints would go, {freed / 1000:.2g} kB; add --yes to delete"
