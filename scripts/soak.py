"""Kill a run again and again, go on with it, and see whether it ends in the bytes of one that was never killed.

One command is repeated, as a requeued job would: `runner +resume=auto ...`. Each attempt is a child that is forked
from this process, which has imported everything, or (--launches of them) a new process of the console script. It is
ended by SIGKILL or SIGTERM: after a random time, while a checkpoint is being written, or while the model is evaluated.
A run that reaches its end is compared with the uninterrupted one, and another is begun, until there were enough kills.

    python scripts/soak.py [--kills N] [--launches N] [--seed N]

Exit code 0: every run ended in the same bytes and the same records. 1: one did not, or an attempt failed by itself.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Results depend on the number of threads; and a process with threads of torch's cannot be forked.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

REQUEST = "end-while-evaluating"
"""A file with the number of a signal: the next evaluation ends its own process by it."""

WATCHER = f'''
import os, pathlib
from runner.records import Evaluating

class Watcher:
    """Ends this process in the middle of an evaluation, when a file asks for it."""

    def observe(self, record):
        request = pathlib.Path({REQUEST!r})
        if isinstance(record, Evaluating) and record.batches and request.exists():
            number = int(request.read_text())
            request.unlink()
            os.kill(os.getpid(), number)

    def close(self):
        pass
'''

# Dropout, batch norm, random augmentation, accumulation with a shorter last window, averaged weights, clipping; saves
# in the background, some of them while the one before is written, and retention after each.
COMMAND = [
    "+resume=auto",
    "experiment=digits_cnn",
    "hydra.run.dir=run",
    "model.channels=[8,8]",
    "data.batch_size=128",
    "data.evaluation_batch_size=64",
    "trainer.max_epochs=12",
    "trainer.accumulate=3",
    "trainer.ema_decay=0.9",
    "trainer.evaluate.weights=averaged",
    "trainer.clip_norm=1.0",
    "trainer.log_every=1",
    "checkpoint.save.every_steps=3",
    "runtime.device=cpu",
    "runtime.progress=false",
    "+observers.watcher._target_=watcher.Watcher",
]
COMPARED = ("model.safetensors", "optimizer.safetensors", "extra.safetensors", "state.json")
UNEQUAL = frozenset({"attempt", "seconds"})
"""What a record holds that is no part of what was computed."""
MOMENTS = ("at random", "while saving", "while evaluating")
GOES_ON = {128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL}
"""How an attempt ends that was killed; before its handlers are there SIGTERM kills it like SIGKILL."""
LONGEST = 120.0
"""Seconds after which an attempt counts as hanging."""


@dataclass(frozen=True)
class Kill:
    """How one attempt is to be ended."""

    number: signal.Signals
    moment: str
    seconds: float
    """For `at random`: after the start."""


class Attempt:
    """A child process that carries out the command in a directory."""

    def __init__(self, directory: Path, *, launched: bool) -> None:
        self.log = directory / "output.txt"
        self.process = (
            subprocess.Popen(
                [*_runner(), *COMMAND], cwd=directory, stdout=self.log.open("ab"), stderr=subprocess.STDOUT
            )
            if launched
            else None
        )
        self.pid = self.process.pid if self.process is not None else _forked(directory, self.log)
        self.code: int | None = None

    def poll(self) -> int | None:
        """The exit code, once there is one: negative for the signal that has killed it."""
        if self.code is None:
            if self.process is not None:
                self.code = self.process.poll()
            else:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def kill(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code. Raises RuntimeError if it hangs."""
        end = time.monotonic() + LONGEST
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.kill(signal.SIGKILL)
                raise RuntimeError(f"an attempt did not end within {LONGEST:.0f} s; see {self.log}")
            time.sleep(0.002)
        return code


def _runner() -> list[str]:
    script = Path(sys.executable).with_name("runner")
    return [str(script)] if script.exists() else [sys.executable, "-m", "runner.cli.launch"]


def _forked(directory: Path, log: Path) -> int:
    """The process number of a child that is a launch of the command but for the imports."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        from runner.cli.launch import launch

        os.chdir(directory)
        sys.path.append(str(directory))
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["runner", *COMMAND]
        code = launch(COMMAND)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not the parent's own business at its exit.
        os._exit(code)


def _import_everything() -> None:
    """What every attempt needs. Making an optimizer imports what torch has put off."""
    import torch

    import runner.runs.run  # noqa: F401
    from runner.cli import launch  # noqa: F401

    torch.optim.AdamW([torch.zeros(1)], lr=0.1, fused=True)


def _ended(attempt: Attempt, kill: Kill, directory: Path) -> bool:
    """End the attempt as `kill` says; whether it was ended, and had not come to its own end before."""
    if kill.moment == "while evaluating":
        (directory / REQUEST).write_text(str(int(kill.number)))
    else:
        due = _when(kill, directory, time.monotonic())
        while attempt.poll() is None and not due():
            time.sleep(0.0005)
        attempt.kill(kill.number)
    code = attempt.wait()
    (directory / REQUEST).unlink(missing_ok=True)
    if code != 0 and code not in GOES_ON:
        raise RuntimeError(f"an attempt ended with {code}; the end of {attempt.log}:\n{_tail(attempt.log)}")
    return code != 0


def _when(kill: Kill, directory: Path, began: float) -> Callable[[], bool]:
    """Whether the moment has come. A save is seen by the hidden directory that it is written into."""
    if kill.moment == "at random":
        return lambda: time.monotonic() - began >= kill.seconds
    checkpoints = directory / "run" / "checkpoints"
    # Not always the first save of an attempt, or nothing would ever be saved.
    skipped = set(_hidden(checkpoints)) if kill.seconds < 0.3 else set()
    wanted = 1 + int(kill.seconds * 4)
    seen: set[str] = set()

    def due() -> bool:
        seen.update(set(_hidden(checkpoints)) - skipped)
        return len(seen) >= wanted

    return due


def _hidden(checkpoints: Path) -> list[str]:
    try:
        return [path.name for path in checkpoints.iterdir() if path.name.startswith(".")]
    except FileNotFoundError:
        return []


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def _directory(path: Path) -> Path:
    path.mkdir()
    (path / "watcher.py").write_text(WATCHER)
    return path


def _checkpoints(directory: Path) -> dict[str, dict[str, bytes]]:
    """The files that say what was computed, of every checkpoint."""
    paths = sorted((directory / "run" / "checkpoints").glob("step-*"))
    return {path.name: {name: (path / name).read_bytes() for name in COMPARED} for path in paths}


def _records(directory: Path) -> list[dict[str, Any]]:
    from runner.metrics_file import read_metrics

    records = read_metrics(directory / "run" / "metrics.jsonl")
    computed = [record for record in records if record["event"] in ("step", "epoch", "evaluation")]
    return [{key: value for key, value in record.items() if key not in UNEQUAL} for record in computed]


def _differences(whole: Path, killed: Path) -> list[str]:
    """What the killed run has not as the uninterrupted one has it.

    It may have other checkpoints: one that was saved when a signal came is one of the last that are kept, what it was
    resumed from last is never removed, and a step that was saved then, not evaluated yet, is saved once more under a
    second name when its evaluation is the best. The last step must be there, and what both have must be the same.
    """
    expected, found = _checkpoints(whole), _checkpoints(killed)
    wrong = []
    for name, files in expected.items():
        same_step = [there for other, there in found.items() if other == name or other.startswith(f"{name}-")]
        if not same_step:
            wrong += [f"{name}: is not there"] if name == max(expected) else []
        elif files not in same_step:
            unequal = [file for file in COMPARED if all(files[file] != there[file] for there in same_step)]
            wrong.append(f"{name}: {', '.join(unequal) or 'no checkpoint has all of its files'} differ")
    if _records(whole) != _records(killed):
        wrong.append("metrics.jsonl differs")
    return wrong


def soak(place: Path, *, kills: int, launches: int, seed: int) -> list[str]:
    """Kill so often, in `place`. Returns what was not as in the uninterrupted run, a line each."""
    draw = random.Random(seed)
    whole = _directory(place / "uninterrupted")
    began = time.monotonic()
    code = Attempt(whole, launched=False).wait()
    if code:
        raise RuntimeError(f"the uninterrupted run ended with {code}:\n{_tail(whole / 'output.txt')}")
    longest = time.monotonic() - began
    print(f"uninterrupted  {longest:.1f} s, {len(_records(whole))} records", flush=True)
    launched = frozenset(draw.sample(range(kills), min(launches, kills)))
    counts: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    number, finished = 0, 0
    while number < kills or finished == 0:
        directory = _directory(place / f"killed-{finished + 1}")
        attempts = 0
        while True:
            attempts += 1
            by_launch = number in launched
            attempt = Attempt(directory, launched=by_launch)
            if number >= kills:
                code = attempt.wait()
                if code:
                    raise RuntimeError(f"an attempt ended with {code}:\n{_tail(attempt.log)}")
                break
            # A launch has its imports before it.
            seconds = draw.uniform(0.0, longest) + (draw.uniform(0.0, 4.0) if by_launch else 0.0)
            kill = Kill(draw.choice((signal.SIGKILL, signal.SIGTERM)), draw.choice(MOMENTS), seconds)
            if not _ended(attempt, kill, directory):
                break
            number += 1
            counts[kill.moment, kill.number.name] += 1
        finished += 1
        differences = _differences(whole, directory)
        wrong += [f"{directory.name}: {difference}" for difference in differences]
        print(f"{directory.name:14} {attempts} attempts: {'DIFFERS' if differences else 'the same bytes'}", flush=True)
        if not differences:
            shutil.rmtree(directory)
    print(f"\n{number} kills, {len(launched)} of them of new processes; {finished} runs came to their end")
    for moment in MOMENTS:
        print(f"  {moment:17} " + "  ".join(f"{name} {counts[moment, name]:4}" for name in ("SIGKILL", "SIGTERM")))
    sys.stdout.flush()
    return wrong


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--launches", type=int, default=20, help="how many of the killed attempts are new processes")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    place = Path(tempfile.mkdtemp(prefix="runner-soak-"))
    os.environ["XDG_STATE_HOME"] = str(place / "state")
    _import_everything()
    try:
        wrong = soak(place, kills=asked.kills, launches=asked.launches, seed=asked.seed)
    except RuntimeError as error:
        print(f"{error}\nleft in {place}", file=sys.stderr)
        return 1
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        print(f"left in {place}", file=sys.stderr)
        return 1
    shutil.rmtree(place)
    print("every run ended in the bytes of the uninterrupted one")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
