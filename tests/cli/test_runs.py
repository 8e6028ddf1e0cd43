"""`runs`, through real processes, on runs that were made with the real run directories and checkpoint stores."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.lock import RunLock
from runner.metrics_file import MetricsFile
from runner.records import Progress
from runner.rundir import RunDir

# Test modules are imported each by itself, so what they share is put within their reach here.
sys.path.append(str(Path(__file__).parents[1]))

from pseudo_terminal import on_terminal

NOW = datetime.now(UTC)
pytestmark = pytest.mark.launch

RUNS = [sys.executable, "-m", "runner.cli.runs"]
Runs = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """`runs("ls", ...)` in the test's directory, piped."""

    def runs(*args: str | Path, cwd: Path = tmp_path, stdin: str | None = None) -> "CompletedProcess[str]":
        return subprocess.run(
            [*RUNS, *map(str, args)], cwd=cwd, capture_output=True, encoding="utf-8", input=stdin, check=False
        )

    return runs


def config(metric: str = "val_loss", mode: str = "min") -> dict[str, Any]:
    return {
        "name": "digits_mlp",
        "seed": None,
        "monitor": {"metric": metric, "mode": mode},
        "model": {"_target_": "torch.nn.Linear", "in_features": 2, "hidden": [3, 4], "bias": True, "more": {}},
    }


def made(
    path: Path,
    scores: Mapping[int, float],
    *,
    name: str = "digits_mlp",
    outcome: str | None = "finished",
    hours: float = 3,
    built: dict[str, Any] | None = None,
) -> RunDir:
    """A run with a checkpoint at each step."""
    run = RunDir.create(path, name=name, identity="0123", created=NOW - timedelta(hours=hours))
    number = run.begin_attempt({"host": "mill"})
    store = CheckpointStore(
        run.checkpoints,
        run=run.id,
        keep=KeepPolicy(last=None, best=None, every_steps=None, every_hours=None),
        monitor=None,
    )
    built = config() if built is None else built
    documents = {
        "config.json": json.dumps({"config": built, "overrides": ["seed=0", "model.bias=true"], "choices": {}}).encode()
    }
    metric = built.get("monitor", {}).get("metric", "val_loss")
    with MetricsFile(run.metrics, number) as metrics:
        metrics.start(Progress(0))
        for epoch, (step, score) in enumerate(scores.items(), start=1):
            metrics.append({"event": "epoch", "step": step, "epoch": epoch, "loss": score / 2, "lr": 0.1})
            metrics.append({"event": "evaluation", "step": step, "epoch": epoch, metric: score, "improved": True})
            store.save(
                {"model": {"weight": torch.full((4, 4), score), "bias": torch.zeros(4)}, "step": step},
                progress=Progress(step=step, epoch=epoch),
                reasons=("every_epochs",),
                metrics={metric: score},
                documents=documents,
                facts={"device": "cpu"},
                seconds=2.0,
            ).wait()
    if outcome is not None:
        run.end_attempt(number, outcome, "max_epochs", Progress(step=max(scores, default=0)))
    return run


def damage(file: Path, at: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def in_terminal(args: list[str], cwd: Path, *, columns: int = 80, answer: str = "") -> tuple[int, str]:
    """Exit code and what a terminal of this width would have shown, without its colours."""
    code, shown = on_terminal([*RUNS, *args], cwd, columns=columns, answer=answer)
    return code, re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "\n")


# ls


def test_ls_shows_a_line_for_each_run_the_newest_last(tmp_path: Path, runs: Runs) -> None:
    made(tmp_path / "outputs/2026-11-22/b", {10: 0.5, 20: 0.25, 30: 0.75}, hours=50)
    made(tmp_path / "outputs/2026-11-22/a", {40: 1.0}, hours=3, outcome="failed", name="text_gpt")
    RunDir.create(tmp_path / "outputs/c", name="x", identity="", created=NOW)
    listed = runs("ls")
    assert listed.returncode == 0
    assert listed.stderr == ""
    header, *lines = [line.split() for line in listed.stdout.splitlines()]
    assert header == ["run", "name", "status", "steps", "val_loss", "age", "size", "overrides"]
    assert lines[0][:7] == ["outputs/2026-11-22/b", "digits_mlp", "finished", "30", "0.25", "2", "d"]
    assert lines[1][:7] == ["outputs/2026-11-22/a", "text_gpt", "failed", "40", "1", "3", "h"]
    assert lines[2][:5] == ["outputs/c", "x", "empty", "0", "-"]


def test_ls_piped_cuts_nothing_however_long_it_is(tmp_path: Path, runs: Runs) -> None:
    path = tmp_path / "outputs" / ("p" * 200) / "run"
    made(path, {1: 0.5})
    listed = runs("ls")
    assert str(path.relative_to(tmp_path)) in listed.stdout
    assert "\x1b" not in listed.stdout
    assert len(listed.stdout.splitlines()) == 2


@pytest.mark.parametrize(("columns", "shown"), [(120, "all"), (80, "all"), (50, "some"), (30, "few")])
def test_ls_in_a_terminal_has_one_line_a_run_and_leaves_out_columns_before_it_cuts(
    tmp_path: Path, columns: int, shown: str
) -> None:
    made(tmp_path / "outputs/2026-11-22/17-05-09-123456", {10: 0.5})
    made(tmp_path / "outputs/2026-11-22/17-05-10-123456", {10: 0.25})
    code, text = in_terminal(["ls"], tmp_path, columns=columns)
    assert code == 0
    assert max(map(len, text.splitlines())) <= columns
    assert ("size" in text) == (shown == "all")
    if shown != "few":
        assert len(text.splitlines()) == 3
        assert "2026-11-22/17-05-09-123456" in text
        assert "finished" in text
    assert ("run in outputs" in text) == (columns < 100 and shown != "few")


def test_ls_of_another_directory_and_of_a_run_itself(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "elsewhere/a", {1: 0.5})
    for where in ("elsewhere", "elsewhere/a"):
        assert runs("ls", where).stdout.splitlines()[1].startswith("elsewhere/a  ")
    assert runs("ls", run.path).stdout.splitlines()[1].startswith(f"{run.path}  ")
    assert "\n.  " in in_terminal(["ls", "elsewhere/a"], tmp_path, columns=60)[1]


def test_ls_without_runs_says_so(tmp_path: Path, runs: Runs) -> None:
    assert (runs("ls").returncode, runs("ls").stdout) == (0, "no runs in outputs\n")
    assert runs("ls", "--json").stdout == "[]\n"


def test_ls_of_what_is_not_there_is_refused(tmp_path: Path, runs: Runs) -> None:
    (tmp_path / "file").write_text("")
    assert (runs("ls", "nowhere").returncode, runs("ls", "nowhere").stderr) == (
        2,
        "runs: nowhere: is not there; name one\n",
    )
    assert (
        runs("ls", "file").stderr
        == "runs: file: is a file, and no directory of runs; runs show file shows what it is\n"
    )


def test_ls_judges_by_each_runs_own_monitor(tmp_path: Path, runs: Runs) -> None:
    made(tmp_path / "outputs/a", {10: 0.5, 20: 0.75}, built=config("val_accuracy", "max"), hours=2)
    made(tmp_path / "outputs/b", {10: 0.5, 20: 0.75}, hours=1)
    made(tmp_path / "outputs/c", {10: float("nan"), 20: float("inf")}, hours=0.5)
    made(tmp_path / "outputs/d", {10: 0.5}, built={"name": "x"}, hours=0.25)
    header, *lines = runs("ls").stdout.splitlines()
    assert "  best  " in header
    assert "val_accuracy 0.75" in lines[0]
    assert "val_loss 0.5" in lines[1]
    assert re.search(r" 20 +- ", lines[2])
    assert re.search(r" 10 +- ", lines[3])


def test_ls_as_json_holds_everything(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {10: 0.5, 20: 0.25, 30: 0.75})
    [found] = json.loads(runs("ls", "--json").stdout)
    size = found.pop("size")
    assert size == sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    assert found == {
        "path": "outputs/a",
        "id": run.id,
        "name": "digits_mlp",
        "identity": "0123",
        "created": run.created.isoformat(),
        "status": "finished",
        "step": 30,
        "epoch": 3,
        "metric": "val_loss",
        "mode": "min",
        "best": 0.25,
        "best_checkpoint": "outputs/a/checkpoints/step-000000020",
        "checkpoints": 3,
        "damaged": [],
    }


def test_ls_of_a_running_run_shows_its_last_recorded_step(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {10: 0.5}, outcome=None)
    with MetricsFile(run.metrics, 1) as metrics:
        metrics.append({"event": "step", "step": 17, "epoch": 1, "loss": 1.0})
    assert json.loads(runs("ls", "--json").stdout)[0]["step"] == 10  # What a crashed run can be gone on with.
    with RunLock(run.lock):
        [found] = json.loads(runs("ls", "--json").stdout)
    assert (found["status"], found["step"], found["epoch"]) == ("running", 17, 1)


def test_ls_names_what_is_damaged_and_lists_the_rest(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {10: 0.5, 20: 0.25})
    made(tmp_path / "outputs/b", {10: 0.5})
    damage(run.checkpoints / "step-000000020" / "manifest.json")
    (tmp_path / "outputs/c").mkdir()
    (tmp_path / "outputs/c/run.json").write_text("{")
    listed = runs("ls")
    assert listed.returncode == 0
    assert len(listed.stdout.splitlines()) == 3
    assert "runs: outputs/c/run.json: damaged" in listed.stderr
    assert "runs: outputs/a/checkpoints/step-000000020/manifest.json: is damaged" in listed.stderr


def test_ls_names_what_cannot_be_read_and_lists_the_rest(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {10: 0.5})
    made(tmp_path / "outputs/b", {10: 0.5})
    run.attempts_file.unlink()
    run.attempts_file.mkdir()
    listed = runs("ls")
    assert listed.returncode == 0
    assert [line.split()[2] for line in listed.stdout.splitlines()[1:]] == ["not", "finished"]
    assert "runs: outputs/a/attempts.jsonl: cannot be read (Is a directory); make it readable" in listed.stderr
    run.metrics.unlink()
    run.metrics.mkdir()
    shown = runs("show", "outputs/a")
    assert shown.returncode == 2
    assert "attempts.jsonl: cannot be read (Is a directory)" in shown.stderr
    run.attempts_file.rmdir()
    assert runs("show", "outputs/a").stderr == (
        "runs: outputs/a/metrics.jsonl: cannot be read or written (Is a directory); "
        "free some space or make it accessible\n"
    )


def test_ls_does_not_mind_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    for number in range(3):
        made(tmp_path / "outputs" / str(number), {1: 0.5})
    reading, writing = os.pipe()
    os.close(reading)
    for unbuffered in ("", "1"):
        ended = subprocess.run(
            [*RUNS, "ls"],
            cwd=tmp_path,
            stdout=writing,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (1, b"")
    os.close(writing)


def test_text_from_a_file_cannot_steer_the_terminal(tmp_path: Path, runs: Runs) -> None:
    made(tmp_path / "outputs/a", {1: 0.5}, name="\x1b[2Jx\r\nevil", built={**config(), "note": "\x1b]0;x\x07"})
    for args in (["ls"], ["show", "outputs/a"]):
        assert "\\x1b[2Jx\\r\\nevil" in runs(*args).stdout
        assert "\x1b" not in runs(*args).stdout
        assert "\x1b[2J" not in in_terminal(args, tmp_path, columns=200)[1]


# show


def test_show_of_a_run_shows_config_metrics_files_and_attempts(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {10: 0.5, 20: 0.25, 30: 0.75}, outcome=None)
    run.end_attempt(run.begin_attempt({"host": "mill"}), "stopped", "SIGTERM", Progress(step=30))
    shown = runs("show", "outputs/a")
    assert shown.returncode == 0
    text = shown.stdout
    assert text.startswith("outputs/a\n")
    for expected in (
        r"^status +stopped$",
        r"^best +val_loss 0\.25 at step 20$",
        r"^overrides +seed=0 model\.bias=true$",
        r"^ +1  20.* +-  crashed +-  mill$",
        r"^ +2  20.*  stopped \(SIGTERM\) +30  mill$",
        r"^val_loss +0\.75 +30 +0\.25 +0\.75$",
        r"^loss +0\.375 +30 +0\.125 +0\.375$",
        r"^step-000000020  best +2  val_loss 0\.25  every_epochs ",
        r"^checkpoints/ +\d",
        r"^run\.json +\d+ B$",
        r"^  _target_: torch\.nn\.Linear$",
        r"^  hidden: \[3, 4\]$",
        r"^  bias: true$",
        r"^  more: \{\}$",
        r"^seed: null$",
    ):
        assert re.search(expected, text, re.MULTILINE), expected


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_show_in_a_terminal_of_any_width(tmp_path: Path, columns: int) -> None:
    made(tmp_path / "outputs/a", {step: 1 / step for step in range(1, 40)})
    code, text = in_terminal(["show", "latest"], tmp_path, columns=columns)
    assert code == 0
    assert ("█" in text) == (columns >= 80)


def test_show_of_a_run_before_its_first_checkpoint_shows_the_config_it_began_with(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {}, outcome=None)
    assert runs("show", "outputs/a").returncode == 0
    run.hydra.mkdir()
    (run.hydra / "config.json").write_text(json.dumps({"config": config(), "overrides": ["seed=1"], "choices": {}}))
    text = runs("show", "outputs/a").stdout
    assert "_target_: torch.nn.Linear" in text
    assert "seed=1" in text


def test_show_as_json_holds_everything(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {10: 0.5, 20: float("nan")})
    found = json.loads(runs("show", "outputs/a", "--json").stdout)
    assert found["kind"] == "run"
    assert found["id"] == run.id
    assert found["config"] == config()
    assert found["overrides"] == ["seed=0", "model.bias=true"]
    assert found["metrics"] == {"loss": None, "lr": 0.1, "val_loss": None}
    assert [(one["attempt"], one["outcome"], one["facts"]) for one in found["attempts"]] == [
        (1, "finished", {"host": "mill"})
    ]
    assert [(one["path"], one["metrics"]) for one in found["checkpoints"]] == [
        ("outputs/a/checkpoints/step-000000010", {"val_loss": 0.5}),
        ("outputs/a/checkpoints/step-000000020", {"val_loss": None}),
    ]
    assert set(found["files"]) == {"attempts.jsonl", "checkpoints/", "metrics.jsonl", "run.json"}


def test_show_of_a_checkpoint(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {10: 0.5, 20: 0.25})
    path = "outputs/a/checkpoints/step-000000010"
    text = runs("show", path).stdout
    assert text.startswith(f"{path}\n")
    for expected in (
        r"^progress +step 10, epoch 1$",
        r"^metrics +val_loss 0\.5$",
        r"^reasons +every_epochs$",
        r"^model\.safetensors +[\d.]+ k?B  [0-9a-f]{32}$",
        r"^device: cpu$",
        r"^  metric: val_loss$",
    ):
        assert re.search(expected, text, re.MULTILINE), expected
    found = json.loads(runs("show", path, "--json").stdout)
    assert (found["kind"], found["run"], found["step"], found["generation"]) == ("checkpoint", run.id, 10, 1)
    assert found["config"] == config()
    assert set(found["files"]) >= {"config.json", "model.safetensors", "state.json"}


def test_latest_is_the_newest_run_that_began(tmp_path: Path, runs: Runs) -> None:
    assert runs("show", "latest").stderr == "runs: latest: no run in outputs has begun training; name a run\n"
    made(tmp_path / "outputs/a", {1: 0.5}, hours=2)
    made(tmp_path / "outputs/b", {1: 0.5}, hours=1)
    RunDir.create(tmp_path / "outputs/c", name="x", identity="", created=NOW)
    assert runs("show", "latest").stdout.startswith("outputs/b\n")
    assert runs("show", "outputs/a/checkpoints").stdout.startswith("outputs/a\n")


def test_show_of_what_is_neither_is_refused(tmp_path: Path, runs: Runs) -> None:
    (tmp_path / "empty").mkdir()
    for path, there in (("nothing", "nothing is there"), ("empty", "an empty directory")):
        shown = runs("show", path)
        assert shown.returncode == 2
        assert shown.stderr == f"runs: {path}: not a run ({there}); name a directory that holds run.json\n"
        assert shown.stdout == ""


# verify


def test_verify_of_whole_checkpoints(tmp_path: Path, runs: Runs) -> None:
    made(tmp_path / "outputs/a", {10: 0.5, 20: 0.25})
    made(tmp_path / "outputs/b", {10: 0.5})
    verified = runs("verify", "outputs/a")
    assert verified.returncode == 0
    assert verified.stdout.splitlines() == [
        "whole    outputs/a/checkpoints/step-000000010",
        "whole    outputs/a/checkpoints/step-000000020",
        "2 checkpoints, none damaged",
    ]
    assert runs("verify", "outputs").stdout.splitlines()[-1] == "3 checkpoints, none damaged"
    assert runs("verify", "latest").returncode == 0
    assert runs("verify", "outputs/a/checkpoints/step-000000010").stdout.endswith("1 checkpoint, none damaged\n")


def test_verify_names_the_damaged_file_and_tensor(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {10: 0.5, 20: 0.25})
    damage(run.checkpoints / "step-000000010" / "model.safetensors")
    verified = runs("verify", "outputs/a")
    assert verified.returncode == 1
    first, what, second, total = verified.stdout.splitlines()
    assert first == "DAMAGED  outputs/a/checkpoints/step-000000010"
    assert what.startswith("         outputs/a/checkpoints/step-000000010/model.safetensors: is damaged")
    assert "'weight'" in what
    assert second == "whole    outputs/a/checkpoints/step-000000020"
    assert total == "2 checkpoints, 1 damaged"
    assert runs("verify", "outputs/a/checkpoints/step-000000010").returncode == 1
    assert runs("verify", "outputs/a/checkpoints/step-000000020").returncode == 0


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_verify_names_a_checkpoint_whose_manifest_is_no_good(tmp_path: Path, runs: Runs, how: str) -> None:
    run = made(tmp_path / "outputs/a", {10: 0.5, 20: 0.25})
    manifest = run.checkpoints / "step-000000010" / "manifest.json"
    if how == "changed":
        damage(manifest, 40)
    else:
        manifest.unlink()
    for path in ("outputs/a", "outputs/a/checkpoints/step-000000010"):
        verified = runs("verify", path)
        assert verified.returncode == 1
        assert "DAMAGED  outputs/a/checkpoints/step-000000010\n" in verified.stdout
        assert "manifest.json" in verified.stdout


def test_verify_looks_at_what_was_set_aside_too(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {10: 0.5, 20: 0.25})
    (run.checkpoints / "aside").mkdir()
    (run.checkpoints / "aside" / "2").mkdir()
    moved = run.checkpoints / "aside" / "2" / "step-000000020"
    (run.checkpoints / "step-000000020").rename(moved)
    damage(moved / "state.json")
    verified = runs("verify", "outputs/a")
    assert verified.returncode == 1
    assert "DAMAGED  outputs/a/checkpoints/aside/2/step-000000020\n" in verified.stdout


def test_verify_of_nothing(tmp_path: Path, runs: Runs) -> None:
    RunDir.create(tmp_path / "outputs/a", name="x", identity="", created=NOW)
    assert (runs("verify", "outputs/a").returncode, runs("verify", "outputs/a").stdout) == (0, "no checkpoints\n")
    refused = runs("verify", "nowhere")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "runs: nowhere: not a run (nothing is there); name a directory that holds run.json\n"


# rm


def test_rm_deletes_the_run_and_the_empty_folders_above_it(tmp_path: Path, runs: Runs) -> None:
    made(tmp_path / "outputs/2026-11-22/a", {1: 0.5})
    made(tmp_path / "outputs/2026-11-23/a", {1: 0.5})
    made(tmp_path / "outputs/2026-11-23/b", {1: 0.5})
    removed = runs("rm", "--yes", "outputs/2026-11-22/a", "outputs/2026-11-23/a")
    assert removed.returncode == 0
    assert re.fullmatch(
        r"deleted outputs/2026-11-22/a  \S+ k?B\ndeleted outputs/2026-11-23/a  \S+ k?B\n", removed.stdout
    )
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["2026-11-23"]
    assert [path.name for path in (tmp_path / "outputs/2026-11-23").iterdir()] == ["b"]
    assert runs("rm", "-y", "outputs/2026-11-23/b").returncode == 0
    assert list((tmp_path / "outputs").iterdir()) == []


def test_rm_leaves_folders_that_hold_something_and_those_outside_outputs(tmp_path: Path, runs: Runs) -> None:
    made(tmp_path / "outputs/sweep/jobs/0", {1: 0.5})
    (tmp_path / "outputs/sweep/multirun.yaml").write_text("")
    made(tmp_path / "elsewhere/deep/a", {1: 0.5})
    assert runs("rm", "-y", "outputs/sweep/jobs/0", "elsewhere/deep/a").returncode == 0
    assert [path.name for path in (tmp_path / "outputs/sweep").iterdir()] == ["multirun.yaml"]
    assert list((tmp_path / "elsewhere/deep").iterdir()) == []


def test_rm_follows_no_link_out_of_the_run(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {1: 0.5})
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("precious")
    (run.path / "directory").symlink_to(kept)
    (run.path / "link").symlink_to(kept / "file")
    (run.checkpoints / "deep").symlink_to(kept)
    assert runs("rm", "-y", "outputs/a").returncode == 0
    assert not run.path.exists()
    assert (kept / "file").read_text() == "precious"


@pytest.mark.parametrize(("answer", "code", "there"), [("y\n", 0, False), ("n\n", 1, True), ("\n", 1, True)])
def test_rm_asks_in_a_terminal(tmp_path: Path, answer: str, code: int, there: bool) -> None:
    run = made(tmp_path / "outputs/a", {7: 0.5})
    ended, text = in_terminal(["rm", "outputs/a"], tmp_path, answer=answer)
    assert ended == code
    assert "outputs/a  digits_mlp  finished  step 7\n" in text
    assert re.search(r"Delete this run with all checkpoints, \d\S* k?B\? \[y/N\]: ", text)
    assert ("nothing was deleted" in text) == there
    assert run.path.exists() == there


def test_rm_without_a_terminal_to_ask_is_refused(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {1: 0.5})
    refused = runs("rm", "outputs/a", stdin="y\n")
    assert refused.returncode == 2
    assert refused.stderr == (
        "runs: there is no terminal to ask for confirmation; nothing was deleted; add --yes if you are sure\n"
    )
    assert run.path.exists()


def test_rm_refuses_what_is_running_and_then_deletes_nothing_at_all(tmp_path: Path, runs: Runs) -> None:
    other = made(tmp_path / "outputs/a", {1: 0.5})
    run = made(tmp_path / "outputs/b", {1: 0.5})
    with RunLock(run.lock):
        refused = runs("rm", "-y", "outputs/a", "outputs/b")
        assert refused.returncode == 2
        assert refused.stderr == "runs: outputs/b: is running; stop it first, nothing was deleted\n"
        assert run.checkpoints.exists()
    assert other.checkpoints.exists()


def test_rm_refuses_what_is_not_a_run_and_then_deletes_nothing_at_all(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {1: 0.5})
    (tmp_path / "outputs/damaged").mkdir()
    (tmp_path / "outputs/damaged/run.json").write_text("{")
    (tmp_path / "link").symlink_to(run.path)
    for path, said in (
        ("outputs", "not a run (a directory with a, damaged)"),
        ("nowhere", "not a run (nothing is there)"),
        (".", "not a run ("),
        ("outputs/a/checkpoints", "not a run ("),
        ("outputs/a/checkpoints/step-000000001", "not a run (a checkpoint is there)"),
        ("outputs/damaged", "damaged ("),
        ("link", f"is a link to {run.path}; name that directory, nothing was deleted"),
    ):
        refused = runs("rm", "-y", "outputs/a", path)
        assert refused.returncode == 2, path
        assert refused.stderr.startswith("runs: ")
        assert said in refused.stderr
        assert refused.stderr.endswith("nothing was deleted\n")
    assert run.checkpoints.exists()
    assert (tmp_path / "outputs/damaged/run.json").exists()


def test_rm_of_one_run_named_twice_deletes_it_once(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {1: 0.5})
    removed = runs("rm", "-y", "outputs/a", "outputs/a/", run.path)
    assert removed.returncode == 0
    assert removed.stdout.count("deleted") == 1


def test_rm_takes_over_the_lock_of_a_killed_process(tmp_path: Path, runs: Runs) -> None:
    run = made(tmp_path / "outputs/a", {1: 0.5}, outcome=None)
    script = "import os, sys; from pathlib import Path; from runner.lock import RunLock; "
    script += "RunLock(Path(sys.argv[1])).acquire(); os._exit(9)"
    subprocess.run([sys.executable, "-c", script, str(run.lock)], check=False)
    assert run.lock.exists()
    assert runs("rm", "-y", "outputs/a").returncode == 0
    assert not run.path.exists()


# The command itself


def test_runs_alone_shows_its_help(tmp_path: Path, runs: Runs) -> None:
    assert runs().returncode == 0
    for text in (runs().stdout, runs("--help").stdout):
        assert text.startswith("Usage: runs [OPTIONS] COMMAND [ARGS]...")
        for name in ("ls", "show", "verify", "rm"):
            assert f"  {name} " in text


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["lst"], "No such command 'lst'"),
        (["ls", "--nope"], "No such option: --nope"),
        (["show"], "Missing argument 'PATH'"),
        (["rm"], "Missing argument 'RUN...'"),
        (["ls", "a", "b"], "unexpected extra argument"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_two_lines_at_most(runs: Runs, args: list[str], said: str) -> None:
    refused = runs(*args)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert said in refused.stderr
    assert refused.stderr.startswith("runs: ")
    assert "see `runs --help`" in refused.stderr
    assert len(refused.stderr.splitlines()) <= 2


@pytest.mark.parametrize("args", [["ls"], ["ls", "--json"], ["show", "outputs/a"], ["verify", "outputs/a"], ["--help"]])
def test_no_command_that_only_looks_imports_torch(tmp_path: Path, args: list[str]) -> None:
    made(tmp_path / "outputs/a", {1: 0.5})
    script = f"""
import atexit, sys
atexit.register(lambda: print("torch" if "torch" in sys.modules else "no torch"))
sys.argv = ["runs", *{args!r}]
from runner.cli.runs import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert ended.stdout.endswith("\nno torch\n")


def test_console_script_does_the_same(tmp_path: Path, launch: Callable[..., Any], runs: Runs) -> None:
    made(tmp_path / "outputs/a", {1: 0.5})
    assert launch(["ls"], tmp_path, script="runs").stdout == runs("ls").stdout
