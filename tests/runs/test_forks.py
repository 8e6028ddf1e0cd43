"""`-m +resume=RUN`: new runs, each from a copy of one checkpoint of another run, which stays as it is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import runner
from runner.checkpoint.archive import pack
from runner.checkpoint.handle import Checkpoint
from runner.cli.launch import launch
from runner.config.places import conf_directory
from runner.lock import RunLock
from runner.rundir import RunDir
from runner.runs.run import Run

Short = Callable[..., Run]
Capture = pytest.CaptureFixture[str]


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def fork(*words: str, sweep: str = "forks") -> list[Path]:
    """The directories of the jobs, in their order."""
    assert launch(["-m", *words, f"hydra.sweep.dir={sweep}"]) == 0
    return sorted(path.parent.absolute() for path in Path(sweep).glob("*/run.json"))


def refusal(capsys: Capture, *words: str) -> str:
    before = contents(Path.cwd())
    capsys.readouterr()
    assert launch(["-m", *words]) == 2
    assert contents(Path.cwd()) == before
    return capsys.readouterr().err


def same_tensors(one: Checkpoint, other: Checkpoint) -> bool:
    mine, others = one.tensors(), other.tensors()
    return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)


def test_every_job_is_a_new_run_from_a_copy_and_the_old_run_stays_as_it_was(short: Short) -> None:
    old = short("hydra.run.dir=old", "scheduler=constant", "optimizer=sgd", "optimizer.lr=0.5")
    before = contents(old.directory)
    # A key that only the saved config has, and one that neither has.
    forks = fork("+resume=old", "optimizer.momentum=0.1,0.2", "+optimizer.maximize=false", "trainer.max_epochs=2")
    assert contents(old.directory) == before
    assert [path.name for path in forks] == ["0", "1"]
    for path, momentum in zip(forks, (0.1, 0.2), strict=True):
        run = RunDir.open(path)
        assert run.id != RunDir.open(old.directory).id
        begun, newest = Checkpoint.open(path, 5), Checkpoint.open(path)
        assert begun.manifest == old.checkpoint().manifest and newest.step == 10
        optimizer = newest.config["optimizer"]
        assert (optimizer["lr"], optimizer["momentum"], optimizer["maximize"]) == (0.5, momentum, False)
        earlier = set(old.checkpoint().overrides) - {"trainer.max_epochs=1"}
        typed = {f"optimizer.momentum={momentum}", "+optimizer.maximize=false", "trainer.max_epochs=2"}
        assert set(newest.overrides) == earlier | typed
        (attempt,) = run.attempts()
        changed = {one["key"]: one["kind"] for one in attempt.facts["differences"]}
        assert changed == {
            "optimizer.momentum": "course",
            "optimizer.maximize": "course",
            "trainer.max_epochs": "harmless",
        }


def test_a_fork_computes_what_the_run_itself_would_have(short: Short) -> None:
    short("hydra.run.dir=old", "scheduler=constant")
    (path,) = fork("+resume=old", "trainer.max_epochs=2", "optimizer.lr=0.25")
    itself = runner.run(["+resume=old", "trainer.max_epochs=2", "optimizer.lr=0.25"])
    assert same_tensors(Checkpoint.open(path), itself.checkpoint())
    assert RunDir.open(path).identity != RunDir.open(itself.directory).identity
    # A fork is a run like any other: it is gone on with in its own directory.
    again = runner.run([f"+resume={path}", "trainer.max_epochs=3"])
    assert again.directory == path and again.checkpoint().step == 15


@pytest.mark.parametrize("named", ["latest", "old@step=2", "old@best", "p, q=1.zip", "old/checkpoints/step-000000002"])
def test_whatever_can_be_resumed_can_be_forked(short: Short, named: str) -> None:
    old = short(
        "hydra.run.dir=outputs/old" if named == "latest" else "hydra.run.dir=old",
        "checkpoint.save.every_steps=2",
        "checkpoint.keep.last=9",
    )
    if named.endswith(".zip"):
        pack(old.checkpoint("best"), Path(named))
    before = contents(old.directory)
    (path,) = fork(f"+resume={named}", "trainer.max_epochs=2")
    first = min((Checkpoint.open(one) for one in (path / "checkpoints").glob("step*")), key=lambda one: one.step)
    assert first.step == (2 if "2" in named else 5)
    assert Checkpoint.open(path).step == 10
    assert contents(old.directory) == before


def test_a_group_is_swept_over(short: Short) -> None:
    short("hydra.run.dir=old", "optimizer.betas=[0.5,0.6]")
    adamw, sgd = fork("+resume=old", "optimizer=adamw,sgd", "trainer.max_epochs=2")
    assert Checkpoint.open(adamw).config["optimizer"]["betas"] == [0.5, 0.6]
    assert Checkpoint.open(sgd).config["optimizer"]["_target_"] == "torch.optim.SGD"
    assert not any("betas" in one for one in Checkpoint.open(sgd).overrides)


def test_where_conf_has_changed_since_the_forks_are_as_it_was_saved(short: Short, tmp_path: Path) -> None:
    conf = tmp_path / "configs"
    shutil.copytree(conf_directory(), conf)
    flag = f"--config-path={conf}"
    short(flag, "hydra.run.dir=old")
    file = conf / "optimizer" / "adamw.yaml"
    file.write_text(file.read_text().replace("weight_decay: 0.01", "weight_decay: 0.5"))
    (path,) = fork(flag, "+resume=old", "trainer.max_epochs=2")
    newest = Checkpoint.open(path)
    assert newest.config["optimizer"]["weight_decay"] == 0.01
    assert not any("weight_decay" in one for one in newest.overrides)


def test_jobs_that_go_into_their_own_directories_are_composed_as_where_they_were_launched(short: Short) -> None:
    Path("conf/optimizer").mkdir(parents=True)
    text = (conf_directory() / "optimizer" / "sgd.yaml").read_text()
    Path("conf/optimizer/own.yaml").write_text(text.replace("momentum: 0.9", "momentum: 0.3"))
    short("hydra.run.dir=old", "optimizer=own")
    (path,) = fork("+resume=old", "trainer.max_epochs=2", "hydra.job.chdir=true")
    newest = Checkpoint.open(path)
    assert newest.step == 10 and newest.config["optimizer"]["momentum"] == 0.3
    assert "the saved config itself is used" not in (path / "runner.log").read_text()


def test_a_run_at_work_can_be_forked(short: Short) -> None:
    old = short("hydra.run.dir=old")
    with RunLock(RunDir.open(old.directory).lock):
        (path,) = fork("+resume=old", "trainer.max_epochs=2")
    assert Checkpoint.open(path).step == 10


def test_what_a_job_would_be_refused_for_is_told_before_any_starts(short: Short, capsys: Capture) -> None:
    short("hydra.run.dir=old")
    longer = "trainer.max_epochs=2"
    message = refusal(capsys, "+resume=old", "model.hidden=[128,128],[3]", longer)
    assert "model.hidden was" in message and "and is [3] now" in message and "+allow=[model]" in message
    assert "old/checkpoints/step-000000005: its run has finished (max_epochs)" in refusal(
        capsys, "+resume=old", "trainer.max_epochs=1,2"
    )
    assert "optimizer.mom=0.1: no key" in refusal(capsys, "+resume=old", "optimizer.mom=0.1,0.2", longer)
    assert "did you mean 'adamw'" in refusal(capsys, "+resume=old", "optimizer=adamw,adamv", longer)
    assert "seed is 'x'" in refusal(capsys, "+resume=old", "seed=1,x", longer)
    assert len(fork("+resume=old", "+allow=[model]", "model.dropout=0.1,0.2", longer)) == 2


def test_what_cannot_be_forked_is_refused(short: Short, capsys: Capture) -> None:
    short("hydra.run.dir=a", "trainer.max_steps=1")
    short("hydra.run.dir='b c'", "trainer.max_steps=1")
    assert "+resume=auto goes on with one run, and -m begins several" in refusal(capsys, "+resume=auto", "seed=1,2")
    for word in ("+resume=a,b c", "+resume=[a,b c]"):
        message = refusal(capsys, word, "seed=1,2")
        assert "not there; for several runs" in message and "+resume=a   '+resume=b c'" in message
    assert "nope: not a run (nothing is there)" in refusal(capsys, "+resume=nope", "seed=1,2")
    shutil.rmtree("a/checkpoints")
    Path("a/metrics.jsonl").unlink()
    assert "+resume=a: has no checkpoint yet to begin other runs from" in refusal(capsys, "+resume=a", "seed=1,2")


def test_a_list_of_runs_is_refused_without_a_sweep_too(short: Short) -> None:
    short("hydra.run.dir=a", "trainer.max_steps=1")
    with pytest.raises(
        runner.RunnerError, match=r"for several runs, one run is resumed, .* \+resume=a   '\+resume=b c'"
    ):
        runner.run(["+resume=a,b c"])
    short("hydra.run.dir='a,b c'", "trainer.max_steps=1")
    assert runner.run(["+resume=a,b c", "trainer.max_steps=2"]).checkpoint().step == 2
