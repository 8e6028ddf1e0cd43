"""What `+resume=` names: a run, and the checkpoint in it to go on from."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import list_checkpoints, newest_whole, split_choice
from runner.errors import CheckpointError, ResumeError
from runner.rundir import RunDir, find_runs, latest_run

OUTPUTS = Path("outputs")


@dataclass(frozen=True)
class Found:
    """What to go on with: a run, or a checkpoint alone."""

    run: RunDir | None
    """None for a checkpoint outside of a run, such as a packed one: a new run begins from it."""
    checkpoint: Checkpoint | None
    """Verified. None if the run was stopped before it had saved any: then it begins anew."""
    notes: tuple[str, ...] = ()


def find(text: str, *, outputs: Path = OUTPUTS) -> Found:
    """The run and the checkpoint that `+resume=text` names. ResumeError, saying what is there instead, if none is."""
    try:
        return _find(text, outputs)
    except CheckpointError as error:
        raise ResumeError(str(error)) from error


def _find(text: str, outputs: Path) -> Found:
    path, which = split_choice(text)
    if path in ("latest", "auto") and not Path(path).exists():
        if path == "auto":
            raise ResumeError("+resume=auto: not known yet; type +resume=latest, or name a run directory")
        run = latest_run(outputs)
        if run is None:
            raise ResumeError(f"{outputs.absolute()}: no run that has begun training; type +resume=RUN_DIRECTORY")
        found = _in_run(run, which)
        newest = find_runs(outputs)[-1]
        if newest.created <= run.created:
            return found
        note = f"latest is {run.path.name}; the newer {newest.path}, of a sweep or not begun, has to be named"
        return replace(found, notes=(note, *found.notes))
    place = Path(path).expanduser().absolute()
    number = re.fullmatch(r"(.*)@(\d+)", path, re.DOTALL)
    if number is not None and not place.exists():
        raise ResumeError(f"+resume={text}: not there; a step is chosen by {number[1]}@step={number[2]}")
    if not place.exists() and "," in path:
        raise ResumeError(f"+resume={text}: one run can be resumed at a time")
    if (place / "run.json").exists():
        return _in_run(RunDir.open(place), which)
    if place.name == "checkpoints" and (place.parent / "run.json").exists():
        return _in_run(RunDir.open(place.parent), which)
    if place.is_file() or (place / "manifest.json").exists():
        return _at_checkpoint(place, which)
    jobs = find_runs(place) if place.is_dir() else []
    if jobs:
        names = ", ".join(str(run.path.relative_to(place)) for run in jobs[:6]) + (", ..." if len(jobs) > 6 else "")
        raise ResumeError(f"{place}: no run itself, but there are runs in it ({names}); name one of them")
    return _in_run(RunDir.open(place), which)


def _in_run(run: RunDir, which: str | int) -> Found:
    if which != "latest":
        return Found(run, _verified(Checkpoint.open(run.path, which)))
    checkpoint, passed_over = newest_whole(*list_checkpoints(run.checkpoints))
    if checkpoint is not None:
        return Found(run, checkpoint, tuple(f"passed over: {damage}" for damage in passed_over))
    if passed_over:
        raise ResumeError("\n".join([*passed_over, f"{run.path}: no checkpoint in it is whole; start anew"]))
    return Found(run, None, (f"{run.path}: stopped before it had saved a checkpoint; it begins anew",))


def _at_checkpoint(place: Path, which: str | int) -> Found:
    if which != "latest":
        raise ResumeError(f"{place}: is one checkpoint already; name the run to choose {which!r} among its checkpoints")
    checkpoint = _verified(Checkpoint.open(place))
    if place.is_dir():
        for parent in place.parents:
            if (parent / "run.json").exists():
                return Found(RunDir.open(parent), checkpoint)
    return Found(None, checkpoint, (f"{place}: a checkpoint outside of its run; a new run begins from it",))


def _verified(checkpoint: Checkpoint) -> Checkpoint:
    damages = checkpoint.verify()
    if damages:
        raise ResumeError("\n".join([*damages[:3], f"{checkpoint.path}: damaged; choose another one"]))
    return checkpoint
