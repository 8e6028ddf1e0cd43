"""What PATH means to a command: a run, a checkpoint, or `RUN@WHICH`, one of a run's checkpoints."""

from pathlib import Path

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import split_choice
from runner.checkpoint.manifest import MANIFEST_NAME
from runner.config.finding import OUTPUTS
from runner.errors import CheckpointError, ResumeError
from runner.rundir import RunDir, latest_run


def found(text: str) -> RunDir | Checkpoint:
    """The run or the checkpoint that is meant. Raises ResumeError or CheckpointError, saying what is there instead.

    `latest` is the newest run in ./outputs, unless something is called so; `@best`, `@step=N`, `@TAG` and `@latest`
    behind a run choose a checkpoint.
    """
    place, which = split_choice(text)
    path = Path(place)
    if place == "latest" and not path.exists():
        newest = latest_run(OUTPUTS)
        if newest is None:
            raise ResumeError(f"latest: no run in {OUTPUTS} has begun training; name a run")
        path = newest.path
    elif path.is_file() or (path / MANIFEST_NAME).exists():
        return Checkpoint.open(path, which)
    elif path.name == "checkpoints" and (path.parent / "run.json").exists():
        path = path.parent
    run = RunDir.open(path)
    return run if place == text else _in(run, which)


def found_checkpoint(text: str) -> Checkpoint:
    """The same where a checkpoint is wanted: of a run the newest."""
    place = found(text)
    return place if isinstance(place, Checkpoint) else _in(place, "latest")


def _in(run: RunDir, which: str | int) -> Checkpoint:
    if not run.checkpoints.is_dir():
        raise CheckpointError(f"{run.path}: has no checkpoint yet; train until one is saved")
    return Checkpoint.open(run.path, which)
