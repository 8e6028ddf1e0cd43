"""A run that is asked to end: real processes, real signals, and the scripts of docs/resuming.md as they stand there."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.checkpoint.handle import Checkpoint
from runner.config.prepare import prepare
from runner.metrics_file import read_metrics
from runner.training.plan import seconds_of

pytestmark = pytest.mark.launch

DOCUMENT = Path(__file__).parents[1] / "docs" / "resuming.md"
SHORT = ("runtime.device=cpu", "data.batch_size=256", "hydra.run.dir=here", "trainer.log_every=1")
"""Five steps an epoch."""

WATCHER = '''
import os, signal, sys, time
from runner.records import Ended, Evaluating, Saved, Started, Step

KINDS = {"started": Started, "step": Step, "evaluating": Evaluating, "saved": Saved, "ended": Ended}

class Signals:
    """Sends this process `number` at the first record of `kind` at `step`; only once, a file marks that it has."""

    def __init__(self, kind, step, number, split=None):
        self.kind, self.step, self.number, self.split = KINDS[kind], step, number, split

    def observe(self, record):
        wanted = isinstance(record, self.kind) and record.progress.step >= self.step
        if wanted and (self.split is None or record.split == self.split) and not os.path.exists("signalled"):
            open("signalled", "w").close()
            os.kill(os.getpid(), self.number)

    def close(self): pass

class Stuck:
    """Makes the write of a checkpoint wait for ever, half way, once the file `stick` is there."""

    def __init__(self):
        self.fdatasync = os.fdatasync
        os.fdatasync = self.wait

    def wait(self, fd):
        self.fdatasync(fd)
        while os.path.exists("stick"):
            open("writing", "w").close()
            time.sleep(0.01)

    def observe(self, record): pass
    def close(self): pass
'''


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "watcher.py").write_text(WATCHER)
    return tmp_path


def signals(kind: str, step: int, number: signal.Signals, split: str | None = None) -> list[str]:
    values = {"_target_": "watcher.Signals", "kind": kind, "step": step, "number": int(number)}
    values |= {} if split is None else {"split": split}
    return [f"+observers.signals.{key}={value}" for key, value in values.items()]


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def ends(run: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
    return [(line["outcome"], line["reason"]) for line in lines if line["event"] == "end"]


@pytest.mark.parametrize(
    ("kind", "step", "number", "split", "saved"),
    [
        ("started", 0, signal.SIGUSR1, None, 1),  # While it starts: the first step is still made, and saved.
        ("step", 7, signal.SIGUSR1, None, 7),
        ("evaluating", 10, signal.SIGTERM, "test", 10),
    ],
)
def test_a_signal_saves_and_leaves_with_its_code_also_with_workers(
    launch, here: Path, kind: str, step: int, number: signal.Signals, split: str | None, saved: int
) -> None:
    more = ["trainer.max_epochs=2", "runtime.workers=2", *signals(kind, step, number, split)]
    done = launch([*SHORT, *more], here)
    assert done.returncode == 128 + number, done.stdout + done.stderr
    assert done.stderr.strip() == f"{number.name}: stopping after this step; once more leaves at once"
    assert f"stopped ({number.name})" in done.stdout
    checkpoint = Checkpoint.open(here / "here")
    assert checkpoint.step == saved and "signal" in checkpoint.reasons and checkpoint.verify() == []
    again = launch(["+resume=here"], here)
    assert again.returncode == 0, again.stdout + again.stderr
    assert ends(here / "here") == [("stopped", number.name), ("finished", "max_epochs")]
    tests = [r for r in read_metrics(here / "here" / "metrics.jsonl") if r.get("split") == "test"]
    assert len(tests) == 1


def test_a_signal_at_the_very_end_does_not_make_a_finished_run_a_stopped_one(launch, here: Path) -> None:
    # The last save is durable; only the end is still to be told.
    done = launch([*SHORT, "trainer.max_epochs=1", *signals("ended", 5, signal.SIGTERM)], here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ends(here / "here") == [("finished", "max_epochs")]
    assert "end" in Checkpoint.open(here / "here").reasons


def test_a_second_signal_leaves_at_once_and_what_is_half_written_is_no_checkpoint(command, launch, here: Path) -> None:
    arguments = [*SHORT, "trainer.max_epochs=4", "+observers.stuck._target_=watcher.Stuck"]
    # Step 5 is saved before: the third file of step 10 stays in the middle of being written.
    arguments += signals("step", 9, signal.SIGUSR1)
    with subprocess.Popen(
        [*command("runner"), *arguments, "checkpoint.save.every_steps=5"],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for((here / "here/checkpoints/step-000000005").exists, process)
        process.communicate(timeout=120)
    assert process.returncode == 138
    (here / "stick").touch()
    with subprocess.Popen(
        [*command("runner"), "+resume=here"], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for((here / "writing").exists, process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "SIGINT" not in process.stderr.readline():
            assert process.poll() is None
        assert process.poll() is None  # It waits for what it writes.
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    (here / "stick").unlink()
    checkpoints = here / "here" / "checkpoints"
    assert any(path.name.startswith(".") for path in checkpoints.iterdir())
    newest = Checkpoint.open(here / "here")
    assert newest.step == 9 and newest.verify() == []
    done = launch(["+resume=here"], here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed from here/checkpoints/step-000000009" in done.stdout
    assert not any(path.name.startswith(".") for path in checkpoints.iterdir())


def test_before_the_training_a_signal_ends_the_process_and_nothing_is_there(command, here: Path) -> None:
    (here / "slow.py").write_text("import time\nopen('importing', 'w').close()\ntime.sleep(60)\n")
    for number in (signal.SIGTERM, signal.SIGUSR1):
        (here / "importing").unlink(missing_ok=True)
        words = [*command("runner"), "model._target_=slow.Net", "runtime.device=cpu"]
        with subprocess.Popen(words, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            wait_for((here / "importing").exists, process)
            process.send_signal(number)
            out, errors = process.communicate(timeout=30)
        assert process.returncode == -number and (out, errors) == ("", "")
        assert not (here / "outputs").exists()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("23:50:00", 85800), ('"23:50:00"', 85800), ("0:30:00", 1800), ("1:30", 90), ("'1:30'", 90), ("90", 90)],
)
def test_a_time_limit_means_the_same_in_a_file_and_typed_with_or_without_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, seconds: int
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "conf" / "experiment"
    own.mkdir(parents=True)
    (own / "limited.yaml").write_text(f"# @package _global_\ntrainer:\n  max_time: {text}\n")
    for typed in ("experiment=limited", f"trainer.max_time={text}"):
        assert seconds_of(prepare([typed]).settings.trainer.max_time) == seconds


def test_a_run_out_of_time_says_so_by_its_code_and_how_to_go_on(launch, here: Path) -> None:
    done = launch([*SHORT, "trainer.max_time=0:01", "trainer.max_epochs=100000"], here)
    assert done.returncode == 75, done.stdout + done.stderr
    assert "stopped (max_time)" in done.stdout and "runner +resume=here" in done.stdout
    assert ends(here / "here") == [("stopped", "max_time")]
    assert "time" in Checkpoint.open(here / "here").reasons


def script(first_line: str) -> str:
    blocks = re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if block.startswith(first_line))
    return found


def environment(here: Path, command: list[str], **more: str) -> dict[str, str]:
    """Where `runner` is found as a newcomer has it, and Slurm's commands do what they do on one machine."""
    programs = {
        "runner": "exec " + " ".join(f"'{word}'" for word in command) + ' "$@"',
        "srun": 'exec "$@"',
        "scontrol": 'echo "$@" >> scontrol.txt',
    }
    (here / "bin").mkdir()
    for name, line in programs.items():
        file = here / "bin" / name
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)
    return {**os.environ, "PATH": f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}", **more}


def test_the_loop_in_the_shell_goes_on_after_kills_until_the_run_has_finished(command, launch, tmp_path: Path) -> None:
    (tmp_path / "keep-going.sh").write_text(script("#!/bin/sh"))
    (tmp_path / "killing.py").write_text(
        "import os, signal\n"
        "class Kills:\n"
        "    '''Ends the attempt so many steps after it began, in another way each time.'''\n"
        "    def observe(self, record):\n"
        "        if type(record).__name__ == 'Started':\n"
        "            self.way = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, None][record.attempt - 1]\n"
        "            self.step = record.progress.step + 3\n"
        "        if type(record).__name__ == 'Step' and self.way and record.progress.step == self.step:\n"
        "            os.kill(os.getpid(), self.way)\n"
        "    def close(self): pass\n"
    )
    words = [
        "runtime.device=cpu",
        "data.batch_size=256",
        "trainer.max_epochs=3",
        "trainer.log_every=1",
        "checkpoint.save.every_steps=2",
        "checkpoint.asynchronous=false",
    ]
    done = subprocess.run(
        ["sh", "keep-going.sh", *words, "+observers.kills._target_=killing.Kills"],
        cwd=tmp_path,
        env=environment(tmp_path, command("runner")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stderr.splitlines() if "going on" in line] == [
        f"ended with {code}; going on" for code in (137, 143, 138)
    ]
    (run,) = (path.parent for path in tmp_path.glob("outputs/*/*/run.json"))
    assert ends(run) == [("stopped", "SIGTERM"), ("stopped", "SIGUSR1"), ("finished", "max_epochs")]
    whole = tmp_path / "whole"
    whole.mkdir()
    assert launch([*words, "hydra.run.dir=here"], whole).returncode == 0
    for name in ("model.safetensors", "optimizer.safetensors", "extra.safetensors", "state.json"):
        files = [one / "checkpoints" / "step-000000015" / name for one in (run, whole / "here")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("code", [0, 1, 2, 127, 130, 139])
def test_the_loop_in_the_shell_ends_with_what_is_not_to_be_repeated(tmp_path: Path, code: int) -> None:
    (tmp_path / "keep-going.sh").write_text(script("#!/bin/sh"))
    environ = environment(tmp_path, ["sh", "-c", f"exit {code}"])
    done = subprocess.run(["sh", "keep-going.sh"], cwd=tmp_path, env=environ, timeout=60, check=False)
    assert done.returncode == code


def test_the_slurm_script_requeues_what_is_out_of_time_and_ends_with_what_has_finished(command, tmp_path: Path) -> None:
    job = tmp_path / "job.sh"
    text = script("#!/bin/bash")
    job.write_text(text)
    subprocess.run(["bash", "-n", str(job)], check=True)
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert options["signal"] == "USR1@300" and "requeue" in options and options["open-mode"] == "append"
    environ = environment(tmp_path, command("runner"), SLURM_JOB_ID="42", SLURM_CPUS_PER_TASK="1")
    # Its command line, made short; the scheduler's notice comes while the run starts.
    job.write_text(text.replace("runtime.threads=", "data.batch_size=512 trainer.max_epochs=1 runtime.threads="))
    with subprocess.Popen(
        ["bash", str(job)], cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: bool(list(tmp_path.glob("outputs/*/*/attempts.jsonl"))), process)
        holder = json.loads(next(tmp_path.glob("outputs/*/*/run.lock")).read_text())
        os.kill(holder["pid"], signal.SIGUSR1)
        out, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "stopped (SIGUSR1)" in out, out + errors
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 42\n"
    again = subprocess.run(
        ["bash", str(job)], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "finished (max_epochs)" in again.stdout
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 42\n"
