"""`runs verify`: whether every byte is as it was written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import list_checkpoints, looks_like_checkpoint
from runner.cli.choosing import WeightsFile, found_anything
from runner.errors import CheckpointError, DamagedError
from runner.rundir import RunDir, find_runs

WHOLE, DAMAGED, READABLE, UNKNOWN = "whole  ", "DAMAGED", "readable", "UNKNOWN"


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """A checkpoint that cannot even be listed."""

    path: Path
    error: CheckpointError


def verify(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A run, RUN@WHICH, a checkpoint, a model's file, a directory of runs, or `latest`."
        ),
    ],
) -> None:
    """Check every byte of every checkpoint, or of a model's file.

    Names what is damaged: the file and the tensors in it. Exit code 1 if anything is, or is of no format that is known.
    """
    count, damaged, unknown, noun = 0, 0, 0, "checkpoint"
    for one in _to_verify(path):
        state, lines = _verdict(one)
        if isinstance(one, WeightsFile) or state == UNKNOWN:
            noun = "file"
        print(f"{state}  {one.path}", flush=True)
        for line in lines:
            print(f"         {line}", flush=True)
        count, damaged, unknown = count + 1, damaged + (state == DAMAGED), unknown + (state == UNKNOWN)
    nouns = noun if count == 1 else f"{noun}s"
    bad = f"{damaged} damaged" if damaged else f"{unknown} of no known format" if unknown else "none damaged"
    print(f"{count} {nouns}, {bad}" if count else "no checkpoints")
    if damaged or unknown:
        raise typer.Exit(1)


def _verdict(one: Checkpoint | WeightsFile | _Unreadable) -> tuple[str, list[str]]:
    if isinstance(one, _Unreadable):
        return _unreadable(one.path, one.error)
    if isinstance(one, Checkpoint):
        lines = one.verify()
        return DAMAGED if lines else WHOLE, lines
    # Here, because it imports torch.
    from runner.checkpoint.interop import has_checksums, read_weights

    try:
        found = read_weights(one.path)
    except CheckpointError as error:
        return _unreadable(one.path, error)
    if has_checksums(one.path):
        return WHOLE, []
    return READABLE, [f"its format has no checksums: {len(found.tensors)} tensors were read, and may be others"]


def _unreadable(path: Path, error: CheckpointError) -> tuple[str, list[str]]:
    """A single file that is nothing of what is read here has not been damaged for that."""
    foreign = path.is_file() and not isinstance(error, DamagedError)
    return UNKNOWN if foreign else DAMAGED, [str(error).removeprefix(f"{path}: ")]


def _to_verify(text: str) -> Iterator[Checkpoint | WeightsFile | _Unreadable]:
    """The checkpoints that are meant, a run's in the order of writing, those that were set aside too."""
    path = Path(text)
    if path.is_file() or looks_like_checkpoint(path):
        try:
            place = found_anything(text) if path.is_file() else Checkpoint.open(path)
            assert not isinstance(place, RunDir)
            yield place
        except CheckpointError as e:
            yield _Unreadable(path, e)
        return
    runs = find_runs(path)
    if not runs:
        place = found_anything(text)
        if not isinstance(place, RunDir):
            yield place
            return
        runs = [place]
    for run in runs:
        aside = run.checkpoints / "aside"
        for directory in [*(sorted(aside.iterdir()) if aside.is_dir() else []), run.checkpoints]:
            whole, damages = list_checkpoints(directory)
            for damaged, error in damages.items():
                yield _Unreadable(damaged, error)
            yield from whole
