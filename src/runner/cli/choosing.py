"""What PATH means to a command: a run, a checkpoint, `RUN@WHICH`, or a file of weights that is no checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import looks_like_checkpoint, split_choice
from runner.checkpoint.manifest import MANIFEST_NAME
from runner.config.finding import OUTPUTS
from runner.errors import CheckpointError, ResumeError
from runner.rundir import RunDir, latest_run


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file or folder of another program, or of an echo state network: not looked at yet."""

    path: Path


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


def found_model(text: str) -> Checkpoint | WeightsFile:
    """The same where any model will do, of this program or not."""
    place = found_anything(text)
    return _in(place, "latest") if isinstance(place, RunDir) else place


def found_anything(text: str) -> RunDir | Checkpoint | WeightsFile:
    """The same where anything with weights in it will do."""
    try:
        return found(text)
    except (CheckpointError, ResumeError):
        path = Path(text)
        if not path.exists() or not _is_weights(path):
            raise
        return WeightsFile(path)


def _is_weights(path: Path) -> bool:
    """Whether something that is no run and no checkpoint looks like weights."""
    # Here, because it imports torch.
    from runner.checkpoint.interop import is_ours, look

    try:
        if is_ours(path) or looks_like_checkpoint(path):
            return False
        look(path)
    except CheckpointError:
        return False
    return True


def _in(run: RunDir, which: str | int) -> Checkpoint:
    if not run.checkpoints.is_dir():
        raise CheckpointError(f"{run.path}: has no checkpoint yet; train until one is saved")
    return Checkpoint.open(run.path, which)
