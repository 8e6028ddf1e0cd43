"""What `+resume=` names, with checkpoints that a real store has written."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from runner.checkpoint.archive import pack
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.config.finding import find
from runner.errors import ResumeError
from runner.records import Monitor, Progress
from runner.rundir import RunDir

LOSS = Monitor("val_loss", "min")
CONFIG = b'{"config": {"monitor": {"metric": "val_loss", "mode": "min"}}, "overrides": [], "choices": {}}'

MakeRun = Callable[..., RunDir]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(name: str, losses: dict[int, float], *, age: int = 0, attempts: int = 1) -> RunDir:
        created = datetime.now(UTC) - timedelta(minutes=age)
        run = RunDir.create(tmp_path / name, name="x", identity="i", created=created)
        for _ in range(attempts):
            run.begin_attempt({})
        store = CheckpointStore(
            run.checkpoints,
            run=run.id,
            keep=KeepPolicy(last=None, best=None, every_steps=None, every_hours=None),
            monitor=LOSS,
        )
        for step, loss in losses.items():
            store.save(
                {"model": {"w": torch.full((4,), float(step))}},
                progress=Progress(step=step, evaluated_step=step),
                reasons=("end",),
                metrics={"val_loss": loss},
                documents={"config.json": CONFIG},
                facts={},
            ).wait()
        return run

    return make


def damage(run: RunDir, step: int) -> None:
    file = run.checkpoints / f"step-{step:09d}" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_a_run_is_found_by_its_directory_and_gone_on_with_from_its_newest_checkpoint(make_run: MakeRun) -> None:
    run = make_run("a=b, c", {1: 0.5, 2: 0.9})
    for text in (str(run.path), str(run.checkpoints), f"{run.path}@latest"):
        found = find(text)
        assert found.run == run and found.checkpoint is not None and found.checkpoint.step == 2 and found.notes == ()


def test_the_best_and_any_step_can_be_chosen(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", {1: 0.5, 2: 0.9, 3: 0.7})
    steps = {text: find(f"{run.path}@{text}").checkpoint for text in ("best", "step=3", "step=1")}
    assert [one.step for one in steps.values() if one is not None] == [1, 3, 1]
    at = find(str(run.checkpoints / "step-000000002")).checkpoint
    assert at is not None and at.step == 2


def test_latest_is_the_newest_run_that_began_training(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("outputs/old", {1: 0.5}, age=9)
    newest = make_run("outputs/new", {1: 0.5, 2: 0.1}, age=5)
    make_run("outputs/never", {}, attempts=0)
    sweep = tmp_path / "outputs" / "sweep"
    make_run("outputs/sweep/0", {1: 0.5})
    (sweep / "multirun.yaml").write_text("{}")
    found = find("latest", outputs=tmp_path / "outputs")
    assert found.run == newest
    newer = tmp_path / "outputs" / "sweep" / "0"
    assert found.notes == (f"latest is new; the newer {newer}, of a sweep or not begun, has to be named",)
    best = find("latest@step=1", outputs=tmp_path / "outputs").checkpoint
    assert best is not None and best.step == 1


def test_a_step_without_its_word_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match=r"@80: not there; a step is chosen by .*run@step=80$"):
        find(f"{tmp_path}/run@80")


def test_a_damaged_checkpoint_is_passed_over_and_named(make_run: MakeRun) -> None:
    run = make_run("run", {1: 0.5, 2: 0.9})
    damage(run, 2)
    found = find(str(run.path))
    assert found.checkpoint is not None and found.checkpoint.step == 1
    assert len(found.notes) == 1 and "step-000000002" in found.notes[0] and found.notes[0].startswith("passed over: ")


def test_a_path_that_really_ends_in_a_choice_is_a_path(make_run: MakeRun) -> None:
    run = make_run("run@best", {1: 0.5})
    assert find(str(run.path)).run == run


def refusal(text: str, outputs: Path) -> str:
    with pytest.raises(ResumeError) as caught:
        find(text, outputs=outputs)
    return str(caught.value)


def test_what_is_no_run_is_refused_with_what_is_there(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert refusal(f"{tmp_path}/nope", tmp_path).startswith(f"{tmp_path}/nope: not a run (nothing is there)")
    assert refusal(f"{tmp_path}/empty", tmp_path).startswith(f"{tmp_path}/empty: not a run (an empty directory)")
    assert refusal(f"{tmp_path}/file", tmp_path).startswith(f"{tmp_path}/file: is a file, and no packed checkpoint")
    assert refusal("latest", tmp_path) == f"{tmp_path}: no run that has begun training; type +resume=RUN_DIRECTORY"
    assert refusal("a,b", tmp_path) == (
        "+resume=a,b: not there; for several runs, one run is resumed, or forked with -m, by one command: "
        "+resume=a   +resume=b"
    )
    make_run("sweep/0", {1: 0.5})
    make_run("sweep/1", {1: 0.5})
    assert refusal(f"{tmp_path}/sweep", tmp_path) == (
        f"{tmp_path}/sweep: no run itself, but there are runs in it (0, 1); name one of them"
    )


def test_a_checkpoint_that_cannot_be_had_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", {1: 0.5, 2: 0.9})
    assert "has no checkpoint of step 7" in refusal(f"{run.path}@step=7", tmp_path)
    newest = run.checkpoints / "step-000000002"
    assert refusal(f"{newest}@best", tmp_path).startswith(f"{newest}: is one checkpoint already")
    lonely = tmp_path / "elsewhere" / "step-000000002"
    lonely.parent.mkdir()
    newest.rename(lonely)
    assert refusal(f"{lonely}@good", tmp_path).startswith(
        f"{lonely}: is one checkpoint already; name the run to choose"
    )
    damage(run, 1)
    assert refusal(f"{run.path}@step=1", tmp_path).endswith("step-000000001: damaged; choose another one")
    assert refusal(str(run.path), tmp_path).endswith(
        f"{run.path}: no checkpoint in it is whole, and it is not begun anew by itself; put one back from a copy, or "
        "launch a new run"
    )


def test_a_checkpoint_outside_of_its_run_is_found_without_one(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", {1: 0.5, 2: 0.9})
    packed = tmp_path / "run" / "x.zip"
    pack(Checkpoint.open(run.path), packed)
    lonely = tmp_path / "elsewhere"
    (run.checkpoints / "step-000000002").rename(lonely)
    for place in (packed, lonely):
        found = find(str(place))
        assert found.run is None and found.checkpoint is not None and found.checkpoint.step == 2
        assert found.notes == (f"{place}: a checkpoint outside of its run; a new run begins from it",)
    data = bytearray(packed.read_bytes())
    data[data.index((lonely / "model.safetensors").read_bytes()) + 4096] ^= 1
    packed.write_bytes(data)
    assert refusal(str(packed), tmp_path).endswith("x.zip: damaged; choose another one")


def test_a_checkpoint_is_chosen_by_its_tag(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", {1: 0.5, 2: 0.9})
    (run.checkpoints / "step-000000001" / "tag.paper").touch()
    found = find(f"{run.path}@paper")
    assert found.run == run and found.checkpoint is not None and found.checkpoint.step == 1
    assert "no checkpoint is called 'papre'; wanted 'latest', " in refusal(f"{run.path}@papre", tmp_path)


def test_a_run_that_never_saved_begins_anew(make_run: MakeRun) -> None:
    run = make_run("run", {})
    found = find(str(run.path))
    assert found.checkpoint is None
    assert found.notes == (f"{run.path}: stopped before it had saved a checkpoint; it begins anew, at step 0",)
