"""Seconds to look at checkpoints: opening one, showing a run, listing ten thousand. Each in a new process, in turn."""

import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench_names import LISTING, OPEN, SHOW
from bench_report import environment, runner_command

MANY = 10_000
CHUNK_DIGEST = "0123456789abcdef0123456789abcdef"

# Prints how long it takes to open what is given, everything imported for it included; the import of `runner` is not.
_OPENING = """
import sys, time
import runner
began = time.perf_counter()
runner.Checkpoint.open(sys.argv[1])
print(time.perf_counter() - began)
"""


def look(rounds: int, directory: Path) -> dict[str, list[float]]:
    """The seconds of every round, by what was done."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=directory) as name:
        place = Path(name)
        run, many = _run_in(place), place / "many"
        _multiply(next((run / "checkpoints").glob("step-*")), many / "checkpoints")
        runs = [*_runs_command(), "show", str(run)]
        work = {
            OPEN: lambda: _told([sys.executable, "-c", _OPENING, str(run)], place),
            SHOW: lambda: _taken(runs, place),
            LISTING: lambda: _told([sys.executable, "-c", _OPENING, str(many)], place),
        }
        seconds: dict[str, list[float]] = {what: [] for what in work}
        order = list(work)
        for number in range(rounds + 1):
            random.Random(number).shuffle(order)
            for what in order:
                took = work[what]()
                if number > 0:  # The first round brings the files into memory.
                    seconds[what].append(took)
        return seconds


def _runs_command() -> list[str]:
    [first, *rest] = runner_command()
    if not rest:
        return [str(Path(first).with_name("runs"))]
    return [first, "-c", "from runner.cli.runs import main; main()"]


def _run_in(place: Path) -> Path:
    """A small run, as the runner makes it."""
    _taken([*runner_command(), "trainer.max_epochs=2", "hydra.run.dir=run"], place)
    return place / "run"


def _multiply(checkpoint: Path, directory: Path) -> None:
    """Ten thousand of a checkpoint of 1 GB, as a listing sees them: their manifests."""
    from runner.checkpoint.files import CHUNK_BYTES, FileRecord
    from runner.checkpoint.manifest import MANIFEST_NAME, read_manifest, to_bytes

    def grown(size: int) -> FileRecord:
        return FileRecord.of(size, [CHUNK_DIGEST] * (size // CHUNK_BYTES))

    small = read_manifest(checkpoint)
    big = {"model.safetensors": grown(86 * CHUNK_BYTES), "optimizer.safetensors": grown(170 * CHUNK_BYTES)}
    for number in range(1, MANY + 1):
        path = directory / f"step-{number:09d}"
        path.mkdir(parents=True)
        manifest = replace(
            small, generation=number, progress=replace(small.progress, step=number), files={**small.files, **big}
        )
        (path / MANIFEST_NAME).write_bytes(to_bytes(manifest))


def _told(command: list[str], directory: Path) -> float:
    return float(_output(command, directory))


def _taken(command: list[str], directory: Path) -> float:
    began = time.perf_counter()
    _output(command, directory)
    return time.perf_counter() - began


def _output(command: list[str], directory: Path) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment(directory, PYTHONPATH=os.environ.get("PYTHONPATH", "")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout
