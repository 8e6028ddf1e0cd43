"""What `+resume=` names: a run, and the checkpoint in it to go on from.

locate()   the run, or a checkpoint outside of one; nothing in it is read yet, because somebody may be at work on it
look()     the checkpoint that is meant, verified; a run that will be gone on with is locked before that
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import expanded, split_choice
from runner.config.picking import pick, verified
from runner.errors import CheckpointError, ResumeError
from runner.rundir import RunDir, find_runs, latest_run, single_runs, worked_on_last

OUTPUTS = Path("outputs")
AUTO = "auto"
LATEST = "latest"


@dataclass(frozen=True)
class Named:
    """What `+resume=` names, not looked into yet."""

    run: RunDir | None
    """None for a checkpoint outside of a run."""
    checkpoint: Path | None = None
    """None where it is chosen among the run's."""
    which: str | int = "latest"
    notes: tuple[str, ...] = ()


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
    return look(locate(text, outputs=outputs))


def is_auto(text: str) -> bool:
    """Whether `+resume=text` names no run, but asks for that of the launch's own config."""
    path, which = _split(text)
    if path != AUTO or Path(path).exists():
        return False
    if which != "latest":
        raise ResumeError(
            f"+resume={text}: auto goes on where its run has stopped; "
            f"to go on from another checkpoint name the run, as in +resume=outputs/...@{text.partition('@')[2]}"
        )
    return True


def locate(text: str, *, outputs: Path = OUTPUTS) -> Named:
    """The run, or the checkpoint outside of one, that `+resume=text` names. ResumeError if it names neither."""
    path, which = _split(text)
    try:
        return _latest(path, which, outputs) or _at(text, path, which)
    except OSError as error:
        raise _unreadable(text, error) from error


def look(named: Named) -> Found:
    """The checkpoint that is meant, every byte of it verified. ResumeError if there is none to go on from."""
    try:
        if named.checkpoint is not None:
            return Found(named.run, verified(Checkpoint.open(named.checkpoint)), named.notes)
        assert named.run is not None
        return _in_run(named.run, named.which, named.notes)
    except CheckpointError as error:
        raise ResumeError(str(error)) from error


def newest(runs: Sequence[RunDir]) -> Named | None:
    """Of runs, the oldest first, the newest that began training; the newest at all if none did. None of none."""
    began = [run for run in runs if run.attempts()]
    if not runs:
        return None
    run = (began or runs)[-1]
    return _of_copies(run, runs)


def _of_copies(run: RunDir, runs: Sequence[RunDir]) -> Named:
    """The run, or the copy of it in another directory that was worked on last."""
    copies = [one for one in runs if one.id == run.id]
    run = worked_on_last(copies)
    others = [str(one.path) for one in copies if one.path != run.path]
    note = f"{run.path} was worked on last; {', '.join(others)}: a copy of it, which has to be named"
    return Named(run, notes=(note,) if others else ())


def _split(text: str) -> tuple[str, str | int]:
    try:
        return split_choice(text)
    except OSError as error:
        raise _unreadable(text, error) from error


def _unreadable(text: str, error: OSError) -> ResumeError:
    return ResumeError(f"+resume={text}: cannot be looked at ({error.strerror}); name a run that you may read")


def _latest(path: str, which: str | int, outputs: Path) -> Named | None:
    if path != LATEST or Path(path).exists():
        return None
    # Absolute, because the training may go to another directory.
    outputs = outputs.absolute()
    run = latest_run(outputs)
    if run is None:
        raise ResumeError(f"{outputs}: no run that has begun training; type +resume=RUN_DIRECTORY")
    named = _of_copies(run, single_runs(outputs))
    notes = list(named.notes)
    youngest = find_runs(outputs)[-1]
    if youngest.created > run.created:
        notes.append(f"latest is {run.path.name}; the newer {youngest.path}, of a sweep or not begun, has to be named")
    return Named(named.run, which=which, notes=tuple(notes))


def _at(text: str, path: str, which: str | int) -> Named:
    place = expanded(path).absolute()
    if ".." in place.parts:
        place = place.resolve()
    if not place.exists():
        _check_not_there(text, path)
    if (place / "run.json").exists():
        return Named(RunDir.open(place), which=which)
    if place.name == "checkpoints" and (place.parent / "run.json").exists():
        return Named(RunDir.open(place.parent), which=which)
    if place.is_file() or (place / "manifest.json").exists():
        return _at_checkpoint(place, which)
    inside = _runs_not_far_below(place)
    if inside:
        names = ", ".join(inside[:6]) + (", ..." if len(inside) > 6 else "")
        raise ResumeError(f"{place}: no run itself, but there are runs in it ({names}); name one of them")
    return Named(RunDir.open(place), which=which)


def _runs_not_far_below(place: Path) -> list[str]:
    """Runs as deep as in a directory of outputs. Not deeper: somebody may have typed his home, or a disk."""
    found = [file.parent for depth in ("*", "*/*", "*/*/*") for file in place.glob(f"{depth}/run.json")]
    return sorted(str(run.relative_to(place)) for run in found)


def _check_not_there(text: str, path: str) -> None:
    """Raise ResumeError where it can be told what was meant by a name under which nothing is there."""
    number = re.fullmatch(r"(.*)@(\d+)", path, re.DOTALL)
    if number is not None:
        raise ResumeError(f"+resume={text}: not there; a step is chosen by {number[1]}@step={number[2]}")
    names = [name.strip(" '\"") for name in text.strip("[]").split(",")]
    if len(names) > 1:
        commands = "   ".join(shlex.quote(f"+resume={name}") for name in names if name)
        raise ResumeError(
            f"+resume={text}: not there; for several runs, one run is resumed, or forked with -m, by one command: "
            f"{commands}"
        )


def _in_run(run: RunDir, which: str | int, notes: tuple[str, ...]) -> Found:
    checkpoint, told = pick(run, which)
    return Found(run, checkpoint, (*notes, *told))


def _at_checkpoint(place: Path, which: str | int) -> Named:
    if which != "latest":
        raise ResumeError(f"{place}: is one checkpoint already; name the run to choose {which!r} among its checkpoints")
    if place.is_dir():
        # A link to a checkpoint is as good as the checkpoint.
        real = place.resolve() if place.is_symlink() else place
        for parent in real.parents:
            if (parent / "run.json").exists():
                return Named(RunDir.open(parent), real)
    return Named(None, place, notes=(f"{place}: a checkpoint outside of its run; a new run begins from it",))
