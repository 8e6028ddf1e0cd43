"""`+resume=auto`: the command that a requeued job repeats, in this process and in two at once."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch

import runner
from runner.cli.launch import launch
from runner.errors import ConfigError, LockedError, ResumeError
from runner.lock import RunLock
from runner.rundir import RunDir, find_runs
from runner.runs.run import Run

SHORT = ("runtime.device=cpu", "data.batch_size=256", "trainer.max_epochs=1", "trainer.log_every=1")
AUTO = ("+resume=auto", *SHORT)
STOPPED, GONE_ON = "trainer.max_steps=2", "trainer.max_steps=null"
Short = Callable[..., Run]


def run_dirs() -> list[RunDir]:
    return find_runs(Path("outputs"))


def attempts(run: RunDir) -> int:
    return len(run.attempts())


def leftovers() -> list[Path]:
    """What the lock around the looking would leave."""
    return list(Path.cwd().rglob(".auto*"))


def test_the_same_command_begins_goes_on_with_and_leaves_alone_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = runner.run([*AUTO, STOPPED])
    assert "there is no run of this config yet; a new one begins" in capsys.readouterr().out
    gone_on = runner.run([*AUTO, GONE_ON])
    assert (gone_on.directory, gone_on.checkpoint().step) == (stopped.directory, 5)
    again = runner.run(AUTO)
    assert (again.directory, again.outcome) == (stopped.directory, "finished")
    assert "finished (max_epochs) at step 5; nothing to do" in capsys.readouterr().out
    (run,) = run_dirs()
    assert attempts(run) == 2 and leftovers() == []


def test_what_only_shows_shows_the_config_of_either_and_makes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--cfg", "job", "--package", "trainer", *AUTO]
    assert launch(words) == 0 and "max_steps: null" in capfd.readouterr().out
    assert list(Path.cwd().iterdir()) == []
    (Path(runner.run([*AUTO, STOPPED]).directory) / "runner.log").unlink()
    before = sorted(Path.cwd().rglob("*"))
    assert launch(words) == 0 and "max_steps: 2" in capfd.readouterr().out
    assert sorted(Path.cwd().rglob("*")) == before


def test_it_ends_as_one_uninterrupted_run(short: Short) -> None:
    runner.run([*AUTO, "scheduler=constant", STOPPED])
    auto = runner.run([*AUTO, "scheduler=constant", GONE_ON])
    whole = short("scheduler=constant")
    for name, tensor in whole.checkpoint().tensors().items():
        assert torch.equal(auto.checkpoint().tensors()[name], tensor)


def test_another_config_is_another_run_and_a_longer_one_is_not() -> None:
    first = runner.run(AUTO)
    other = runner.run([*AUTO, "optimizer.lr=0.5"])
    longer = runner.run([*AUTO, "trainer.max_epochs=2", "runtime.workers=1", "checkpoint.keep.last=9"])
    assert other.directory != first.directory
    assert longer.directory == first.directory and longer.checkpoint().step == 10


def test_a_new_run_says_how_its_config_differs_from_that_of_the_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    first = runner.run(AUTO)
    runner.run([*AUTO, "optimizer.lr=0.5", "+optimizer.maximize=true", "runtime.workers=1"])
    note = f"of {first.directory}, the newest of this name, it differs: optimizer.lr was 0.003 and is 0.5 now, "
    assert note + "optimizer.maximize was not there and is true now" in capsys.readouterr().out


def test_a_run_that_was_launched_by_itself_is_found_and_jobs_of_sweeps_are_not(short: Short) -> None:
    job = short("hydra.run.dir=outputs/sweep/0")
    (job.directory.parent / "multirun.yaml").write_text("{}")
    own = short()
    assert runner.run(AUTO).directory == own.directory


def test_the_newest_run_that_began_training_is_meant(short: Short) -> None:
    older = short("hydra.run.dir=outputs/z", STOPPED)
    newer = short("hydra.run.dir=outputs/a", STOPPED)
    identity = RunDir.open(older.directory).identity
    later = datetime.now().astimezone() + timedelta(hours=1)
    RunDir.create(Path("outputs/never").absolute(), name="x", identity=identity, created=later)
    assert runner.run(AUTO).directory == newer.directory


@pytest.mark.parametrize("left", [["run.json"], ["run.json", "attempts.jsonl"], ["run.json", ".hydra"]])
def test_a_run_that_was_killed_before_it_had_saved_is_begun_in_its_own_directory(left: list[str]) -> None:
    killed = runner.run([*AUTO, "checkpoint.keep.last=7"]).directory
    for path in killed.iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if ".hydra" in left:
        # Torn, by the kill.
        (killed / ".hydra" / "config.json").write_text("{")
    run = runner.run(AUTO)
    assert run.directory == killed and run.checkpoint().step == 5
    assert run.checkpoint().config["checkpoint"]["keep"]["last"] != 7


def test_where_every_checkpoint_is_damaged_nothing_is_begun() -> None:
    run = runner.run(AUTO)
    for file in (run.directory / "checkpoints").glob("*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"\x01\x02")
    with pytest.raises(ResumeError, match="no checkpoint in it is whole"):
        runner.run([*AUTO, "trainer.max_epochs=2"])
    assert len(run_dirs()) == 1 and leftovers() == []


def test_beside_a_run_that_cannot_be_read_none_is_begun_anew_if_that_one_has_saved_something() -> None:
    run = runner.run(AUTO).directory
    (run / "run.json").write_text("")
    with pytest.raises(ResumeError) as caught:
        runner.run(AUTO)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"+resume=auto: {run}/run.json: damaged (")
    assert second == (
        f"{run}: may be the run of this config, which is not begun anew beside it; mend it, or move it elsewhere"
    )
    assert leftovers() == [] and len(list(Path("outputs").glob("*/*"))) == 1
    # Torn when it was claimed, it has nothing that could be lost.
    shutil.rmtree(run / "checkpoints")
    assert runner.run(AUTO).directory != run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=null"], "seed is null, so that every launch is another run.*type seed=NUMBER"),
        (["trainer.epoch=1"], "did you mean 'trainer.max_epochs'"),
        (["optimizer.lr=-1", "trainer.max_epochs=0"], "trainer.max_epochs is 0"),
    ],
)
def test_a_refused_launch_leaves_nothing_behind(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        runner.run([*AUTO, *words])
    assert list(Path.cwd().iterdir()) == []


def test_a_launch_that_is_refused_when_it_is_built_leaves_nothing_behind() -> None:
    with pytest.raises(ConfigError, match="val_acc"):
        runner.run([*AUTO, "monitor.metric=val_acc"])
    assert [path for path in Path.cwd().rglob("*") if path.is_file()] == []


def test_a_checkpoint_cannot_be_chosen_of_a_run_that_is_not_named() -> None:
    with pytest.raises(ResumeError, match=r"auto@best: auto goes on where its run has stopped; .*outputs/\.\.\.@best"):
        runner.run(["+resume=auto@best", *SHORT])


def test_a_run_at_work_is_refused_and_so_is_looking_at_the_same_time() -> None:
    run = runner.run([*AUTO, STOPPED])
    held = RunDir.open(run.directory)
    with RunLock(held.lock), pytest.raises(LockedError, match=f"{run.directory}: another process is working on this"):
        runner.run(AUTO)
    with RunLock(Path("outputs") / f".auto-{held.identity}.lock"), pytest.raises(LockedError, match="just looking for"):
        runner.run(AUTO)
    assert attempts(held) == 1
    assert runner.run(AUTO).directory == run.directory


def test_a_holder_that_has_died_while_looking_does_not_block() -> None:
    run = runner.run([*AUTO, STOPPED])
    lock = Path("outputs") / f".auto-{RunDir.open(run.directory).identity}.lock"
    script = "import os, sys; from pathlib import Path; from runner.lock import RunLock\n"
    script += "RunLock(Path(sys.argv[1])).acquire(); os._exit(0)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", script, str(lock)], check=True, env=environment)
    assert lock.exists()
    assert runner.run([*AUTO, GONE_ON]).checkpoint().step == 5
    assert leftovers() == []


@pytest.mark.parametrize("directory", ["fixed", "results/${name}/${now:%Y}/${now:%f}", "'outputs/a, ${seed}'"])
def test_a_run_is_found_where_this_launch_would_put_its_own(directory: str) -> None:
    words = [*AUTO, f"hydra.run.dir={directory}"]
    first = runner.run([*words, STOPPED])
    again = runner.run([*words, GONE_ON])
    assert again.directory == first.directory and again.checkpoint().step == 5
    assert leftovers() == []


def test_a_directory_from_conf_that_is_taken_gets_a_number_and_its_run_is_found_there() -> None:
    Path("conf").mkdir()
    Path("conf/one_place.yaml").write_text("defaults: [config, _self_]\nhydra: {run: {dir: fixed}}\n")
    words = ["--config-dir=conf", "--config-name=one_place", *AUTO]
    names = [runner.run([*words, f"seed={seed}"]).directory.name for seed in (1, 2, 1, 2)]
    assert names == ["fixed", "fixed-2", "fixed", "fixed-2"]


def test_a_typed_directory_that_holds_another_run_is_refused() -> None:
    runner.run([*AUTO, "hydra.run.dir=here"])
    with pytest.raises(ConfigError, match="here: holds a run already"):
        runner.run([*AUTO, "hydra.run.dir=here", "seed=5"])


def test_a_copy_of_a_run_is_left_alone_and_the_one_that_was_worked_on_last_is_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = runner.run([*AUTO, "trainer.max_steps=2"]).directory
    # By its name it would be the newer one.
    copy = first.with_name(f"{first.name}-copied")
    shutil.copytree(first, copy)
    runner.run([f"+resume={first}", "trainer.max_steps=3"])
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for word in ("auto", "latest"):
        assert runner.run([f"+resume={word}", *SHORT]).directory == first
        assert f"{first} was worked on last; {copy}: a copy of it, which has to be named" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


WAITS = """
import sys

class Waits:
    def observe(self, record):
        if type(record).__name__ == "Started":
            print("waiting", flush=True)
            sys.stdin.readline()

    def close(self):
        pass
"""


@pytest.mark.launch
def test_of_two_started_together_one_trains_and_the_other_is_refused(
    command: Callable[[str], list[str]], tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(WAITS)
    words = [*command("runner"), *AUTO, "+observers.waits._target_=slow.Waits"]
    both = [
        subprocess.Popen(
            words,
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for _ in range(2)
    ]
    # The one that trains waits for its line until the other has ended.
    refused = both[0] if _ends_first(both) == 0 else both[1]
    trains = both[1 - both.index(refused)]
    out, errors = refused.communicate(timeout=60)
    assert refused.returncode == 2, out + errors
    assert f"process {trains.pid} on" in errors and "Traceback" not in errors
    assert trains.stdout is not None
    while "waiting" not in (line := trains.stdout.readline()):
        assert line, "it ended before its training"
    (run,) = run_dirs()
    assert attempts(run) == 1
    os.kill(trains.pid, signal.SIGTERM)
    trains.communicate("\n", timeout=60)
    assert trains.returncode == 128 + signal.SIGTERM
    done = subprocess.run(words, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert "finished (max_epochs) at step 5" in done.stdout
    assert [json.loads(line)["event"] for line in run.attempts_file.read_text().splitlines()] == ["start", "end"] * 2
    assert leftovers() == []


def _ends_first(processes: list["subprocess.Popen[str]"]) -> int:
    pid, status = os.waitpid(-1, 0)
    at = [process.pid for process in processes].index(pid)
    processes[at].returncode = os.waitstatus_to_exitcode(status)
    return at
