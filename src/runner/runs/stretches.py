"""Which stretches of a run can be run again and compared: from a checkpoint to the next, or to the last record.

Files only: manifests and records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from runner import jsonl
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import list_checkpoints
from runner.config.identity import PARTS
from runner.errors import CheckpointError, ResumeError
from runner.metrics_file import read_metrics
from runner.rundir import RunDir

COMPARED = ("step", "epoch", "evaluation")
"""The events in metrics.jsonl that depend on nothing but the training."""


@dataclass(frozen=True)
class Stretch:
    """What a run computed from one of its checkpoints on, and what was recorded of it."""

    run: RunDir
    first: Checkpoint
    last: Checkpoint | None
    """None where nothing was saved at its end: only what was recorded on the way can be compared."""
    end: int
    """Its last step."""
    recorded: tuple[Mapping[str, Any], ...]
    reset: tuple[str, ...] = ()
    """The parts of the state that began anew when the run went on from `first`."""

    @property
    def lacks_digests(self) -> bool:
        """It was not recorded what went into the steps: older versions recorded only what came of them."""
        steps = [line for line in self.recorded if line["event"] == "step"]
        return bool(steps) and not any("digests" in line for line in steps)


def one_stretch(run: RunDir, first: Checkpoint | None, to: int | None) -> Stretch:
    """From `first` to step `to`, or to the next checkpoint; from the last checkpoint that has a next one by default.

    Raises CheckpointError or ResumeError, saying what there is instead, where there is nothing to compare.
    """
    row = _row(run)
    if first is None:
        before = row[:-1] if to is None else [one for one in row if one.step < to]
        first = before[-1] if before else row[0]
    if to is not None:
        return _to_step(run, row, first, to)
    later = [one for one in row if one.step > first.step]
    if later:
        return _stretch(run, first, later[0], later[0].step)
    ends = [line["step"] for line in _records(run, first.step) if line["event"] == "step"]
    if not ends:
        steps = ", ".join([str(one.step) for one in row if one.step < first.step][-10:])
        advice = (
            f"name an earlier one by {run.path}@step=N, N one of {steps}"
            if steps
            else "this takes a run that saves and keeps more than one (checkpoint.save, checkpoint.keep.last=2)"
        )
        raise ResumeError(f"{first.path}: nothing was saved or recorded after it to compare with; {advice}")
    return _stretch(run, first, None, max(ends))


def all_stretches(run: RunDir, first: Checkpoint | None) -> list[Stretch]:
    """From each checkpoint to the next, from `first` on."""
    row = [one for one in _row(run) if first is None or one.step >= first.step]
    if len(row) < 2:
        return [one_stretch(run, first, None)]
    return [_stretch(run, one, other, other.step) for one, other in pairwise(row)]


def _row(run: RunDir) -> list[Checkpoint]:
    """The run's checkpoints, each of a later step than the one before."""
    found, damages = list_checkpoints(run.checkpoints)
    if not found:
        none = CheckpointError(f"{run.path}: has no checkpoint yet; train until one is saved")
        raise next(iter(damages.values()), none)
    # Of two at the same step the one that was written last is what the run went on from.
    return [*(one for one, other in pairwise(found) if one.step < other.step), found[-1]]


def _to_step(run: RunDir, row: Sequence[Checkpoint], first: Checkpoint, to: int) -> Stretch:
    steps = [line["step"] for line in _records(run, first.step)]
    latest = max([*steps, *(one.step for one in row)])
    if not first.step < to <= latest:
        raise ResumeError(
            f"{first.path}: --to {to}: wanted a step after {first.step}, up to {latest}, where the records end"
        )
    last = next((one for one in row if one.step == to), None)
    if last is None and not any(step <= to for step in steps):
        raise ResumeError(
            f"{first.path}: --to {to}: nothing was saved at that step, nor recorded on the way to it; "
            f"the first record after step {first.step} is of step {min(steps, default=latest)}"
        )
    return _stretch(run, first, last, to)


def _stretch(run: RunDir, first: Checkpoint, last: Checkpoint | None, end: int) -> Stretch:
    recorded = tuple(line for line in _records(run, first.step) if line["step"] <= end)
    reset: tuple[str, ...] = ()
    facts = {attempt.number: attempt.facts for attempt in run.attempts()}
    for step, number in _beginnings(run):
        if not first.step <= step < end:
            continue
        about = facts.get(number, {})
        changed = [one["key"] for one in about.get("differences", []) if one["key"].split(".")[0] in PARTS]
        parts = tuple(about.get("reset", []))
        if step == first.step and last is not None:
            # Its config is that of `last`.
            reset = parts
        elif changed or parts:
            what = ", ".join([*changed, *(f"+reset={part}" for part in parts)])
            raise ResumeError(
                f"{run.path}: at step {step}, between {first.step} and {end}, attempt {number} went on with another "
                f"config ({what}); compare only from a checkpoint after it, by {run.path}@step=N, or up to it, by "
                f"--to {step}"
            )
    return Stretch(run, first, last, end, recorded, reset)


def _records(run: RunDir, after: int) -> list[dict[str, Any]]:
    return [
        line
        for line in read_metrics(run.metrics)
        if line.get("event") in COMPARED and isinstance(line.get("step"), int) and line["step"] > after
    ]


def _beginnings(run: RunDir) -> list[tuple[int, int]]:
    """From which step which attempt went on; without those that a later one has taken back."""
    begun: list[tuple[int, int]] = []
    for line in jsonl.read(run.metrics):
        step, number = line.get("step"), line.get("attempt")
        if line.get("event") == "attempt" and isinstance(step, int) and isinstance(number, int):
            begun = [*(one for one in begun if one[0] < step), (step, number)]
    return begun
