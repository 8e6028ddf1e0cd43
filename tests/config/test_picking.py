"""Which checkpoint a resume goes on from where there is something wrong with the newest."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from runner.checkpoint.manifest import MANIFEST_NAME, read_manifest, to_bytes
from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.config.picking import pick
from runner.errors import ResumeError
from runner.metrics_file import MetricsFile
from runner.records import Progress
from runner.rundir import RunDir

MakeRun = Callable[..., RunDir]
KEEP_ALL = KeepPolicy(last=None, best=None, every_steps=None, every_hours=None)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run that has checkpoints of these steps."""

    def make(name: str, *steps: int) -> RunDir:
        run = RunDir.create(tmp_path / name, name="x", identity="i", created=datetime.now(UTC))
        store = CheckpointStore(run.checkpoints, run=run.id, keep=KEEP_ALL, monitor=None)
        for step in steps:
            store.save(
                {"model": {"w": torch.full((4,), float(step))}},
                progress=Progress(step=step),
                reasons=("end",),
                metrics={},
                documents={"config.json": b'{"config": {}, "overrides": [], "choices": {}}'},
                facts={},
            ).wait()
        return run

    return make


def at(run: RunDir, step: int) -> Path:
    return run.checkpoints / f"step-{step:09d}"


def written_by_a_newer_version(checkpoint: Path) -> None:
    manifest = replace(read_manifest(checkpoint), format=99, reader=99)
    (checkpoint / MANIFEST_NAME).write_bytes(to_bytes(manifest))


def refusal(run: RunDir, which: str | int = "latest") -> str:
    with pytest.raises(ResumeError) as caught:
        pick(run, which)
    return str(caught.value)


def test_a_newer_checkpoint_that_a_newer_version_has_written_is_not_passed_over(make_run: MakeRun) -> None:
    run = make_run("run", 1, 2)
    written_by_a_newer_version(at(run, 2))
    said = refusal(run).splitlines()
    assert said == [
        f"{at(run, 2)}/manifest.json: format 99, which needs a reader of format 99; this runner reads formats up to 2; "
        "update runner to load it",
        f"{run.path}: what cannot be read is not passed over, for it may be whole and newer than the rest; mend that, "
        f"or name the older one: +resume={run.path}@step=1",
    ]
    older, told = pick(run, 1)
    assert older is not None and older.step == 1 and told == ()


def test_where_a_newer_version_has_written_all_of_them_nobody_is_told_to_start_anew(make_run: MakeRun) -> None:
    run = make_run("run", 1, 2)
    for step in (1, 2):
        written_by_a_newer_version(at(run, step))
    said = refusal(run)
    assert said.count("update runner to load it") == 2
    assert said.endswith("newer than the rest; mend that")


def test_an_older_checkpoint_that_cannot_be_read_is_no_matter(make_run: MakeRun) -> None:
    run = make_run("run", 1, 2)
    written_by_a_newer_version(at(run, 1))
    newest, told = pick(run, "latest")
    assert newest is not None and newest.step == 2 and told == ()


@pytest.mark.parametrize("file", ["manifest.json", "model.safetensors"])
def test_a_newest_checkpoint_behind_a_link_that_leads_nowhere_is_not_passed_over(make_run: MakeRun, file: str) -> None:
    run = make_run("run", 1, 2)
    (at(run, 2) / file).unlink()
    (at(run, 2) / file).symlink_to("/on/a/disk/that/is/not/mounted")
    assert refusal(run).startswith(f"{at(run, 2)}/{file}: cannot be opened (")


def test_a_checkpoint_of_another_run_is_not_taken_for_the_newest(make_run: MakeRun) -> None:
    run, other = make_run("run", 1), make_run("other", 7, 8, 9)
    at(other, 9).rename(at(run, 9))
    assert refusal(run) == (
        f"{at(run, 9)}: was written by another run, and step-000000001 is the newest that this one wrote; "
        f"name the one that is meant, {run.path}@step=9 or {run.path}@step=1, or move the other run's out of the way"
    )
    meant, told = pick(run, 9)
    assert meant is not None and meant.step == 9
    assert told == (f"step-000000009: was written by another run, {other.id}",)
    own, told = pick(run, 1)
    assert own is not None and own.step == 1 and told == ()


def test_a_run_that_began_from_another_ones_checkpoint_goes_on_from_it_and_then_from_its_own(make_run: MakeRun) -> None:
    run, other = make_run("run"), make_run("other", 7)
    run.checkpoints.mkdir(exist_ok=True)
    at(other, 7).rename(at(run, 7))
    first, told = pick(run, "latest")
    assert first is not None and first.step == 7
    assert told == (f"step-000000007: was written by another run, {other.id}",)


@pytest.mark.parametrize("gone", ["all", "link"])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(make_run: MakeRun, gone: str) -> None:
    run = make_run("run", 1, 2)
    with MetricsFile(run.metrics, 1) as metrics:
        for step in (1, 2):
            metrics.append({"event": "saved", "step": step, "path": at(run, step).name})
    run.checkpoints.rename(run.path / "elsewhere")
    if gone == "link":
        run.checkpoints.symlink_to("/on/a/disk/that/is/not/mounted")
    assert refusal(run) == (
        f"{run.checkpoints}: nothing is there, and 2 checkpoints were saved, the last of them step-000000002; put them "
        "back (is a disk not mounted?), or launch a new run: this one is not begun anew by itself"
    )


def test_of_a_run_that_never_saved_none_can_be_chosen(make_run: MakeRun) -> None:
    run = make_run("run")
    assert pick(run, "latest") == (
        None,
        (f"{run.path}: stopped before it had saved a checkpoint; it begins anew, at step 0",),
    )
    assert refusal(run, "best") == (
        f"{run.path}: has no checkpoint yet, so none is 'best'; leave @ and what follows out, and the run begins anew"
    )
