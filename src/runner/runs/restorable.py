"""What a path holds of a training that can be restored into live objects, whoever wrote it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from runner.checkpoint.contents import STATE, parse_state
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.interop import is_ours
from runner.errors import MissingError
from runner.quantities import position
from runner.records import Progress
from runner.runs.foreign_state import Told, read_foreign, told_by
from runner.runs.saved import chosen, metadata_of

PARTS = ("model", "optimizer", "scheduler", "scaler", "averaged", "generators")
"""What can be restored."""


@dataclass(frozen=True)
class Restorable:
    """What a checkpoint or a file holds of a training."""

    where: Path
    saved: Mapping[str, Any]
    """By part. That of another program has the optimizer's and the scheduler's own state dicts."""
    parts: tuple[str, ...]
    """What it holds and can be restored, asked for or not."""
    progress: Progress
    metrics: Mapping[str, float]
    position: str
    """Where the training stood, as far as that is told."""
    checkpoint: Checkpoint | None
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Parts that it has and that cannot be restored, and why."""
    notes: tuple[str, ...] = ()

    def why_not(self, part: str) -> str:
        """Why a part cannot be restored."""
        return self.unusable.get(part, f"the {self.kind} has none")

    @property
    def kind(self) -> str:
        """What `where` is."""
        return "file" if self.checkpoint is None else "checkpoint"


def read_restorable(path: str | PathLike[str], which: str | int, parts: Collection[str]) -> Restorable:
    """Read some parts of what is at `path`; runs nothing. Raises CheckpointError."""
    place, which = chosen(path, which)
    if not place.exists():
        raise MissingError(f"{place}: is not there; give a run, a checkpoint, or a file that another program has saved")
    if is_ours(place):
        return of_checkpoint(Checkpoint.open(place, which), parts)
    found = read_foreign(place, which)
    held = tuple(part for part in PARTS if part in found.saved or part in found.unusable)
    told = found.told
    return Restorable(
        place, found.saved, held, told.progress, told.metrics, told.position, None, found.unusable, found.notes
    )


def of_checkpoint(checkpoint: Checkpoint, parts: Collection[str]) -> Restorable:
    """Some parts of a checkpoint, verified while read. Raises CheckpointError."""
    state = parse_state(checkpoint.document(STATE), checkpoint.path / STATE)
    held = tuple(part for part in PARTS if state.get(part) is not None)
    told = told_of(checkpoint)
    saved = checkpoint.state([*parts, *(["transient"] if "model" in parts else [])]) if parts else {}
    return Restorable(checkpoint.path, saved, held, told.progress, told.metrics, told.position, checkpoint)


def told_of(checkpoint: Checkpoint) -> Told:
    """How far the training of a checkpoint had come: as its writer counted, or as the user noted in its metadata."""
    at = checkpoint.progress
    noted = told_by({key: value for key, value in metadata_of(checkpoint).items() if key != "timestamp"})
    if at == Progress():
        return Told(noted.progress, {**noted.metrics, **checkpoint.metrics}, noted.position)
    return Told(at, {**noted.metrics, **checkpoint.metrics}, position(at.step, at.epoch, at.batch))
