"""What there is to say about a run, read from its files: the newest step, the best score, the size. No torch."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from runner import jsonl
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import as_kept, list_checkpoints
from runner.checkpoint.policies import best_first
from runner.errors import CheckpointError, ResumeError
from runner.records import Monitor
from runner.rundir import RunDir

_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Summary:
    """A run at one moment."""

    run: RunDir
    status: str
    step: int
    """Of a live run the last recorded one, else the one from which it can be gone on with."""
    epoch: int
    checkpoints: Sequence[Checkpoint]
    """The oldest first."""
    damaged: Sequence[str]
    """One line for each checkpoint that cannot even be listed."""
    config: Mapping[str, Any] | None
    """What was built, by the newest checkpoint."""
    overrides: Sequence[str]
    monitor: Monitor | None
    best: Checkpoint | None
    """By the monitor."""
    size: int
    """Bytes on the disk, a file that several checkpoints share counted once."""

    @property
    def best_value(self) -> float | None:
        """The score of the best checkpoint."""
        return None if self.best is None or self.monitor is None else self.best.metrics[self.monitor.metric]


def summarize(run: RunDir) -> Summary:
    """Look at a run without taking its lock: what a live run changes meanwhile may be missed."""
    damaged = []
    try:
        status = run.status()
    except ResumeError as e:
        status, damaged = "not known", [str(e)]
    try:
        checkpoints, damages = list_checkpoints(run.checkpoints)
        damaged += [str(error) for error in damages.values()]
    except CheckpointError as e:
        checkpoints = []
        damaged.append(str(e))
    config, overrides = _config(run, checkpoints, damaged)
    monitor = _monitor(config)
    progress = checkpoints[-1].progress if checkpoints else None
    step, epoch = (progress.step, progress.epoch) if progress else (0, 0)
    if status == "running" or progress is None:
        step, epoch = max((step, epoch), _last_recorded(run.metrics))
    return Summary(
        run=run,
        status=status,
        step=step,
        epoch=epoch,
        checkpoints=checkpoints,
        damaged=damaged,
        config=config,
        overrides=overrides,
        monitor=monitor,
        best=_best(checkpoints, monitor),
        size=size_of(run.path),
    )


def size_of(path: Path) -> int:
    """Bytes of all files at and under a path. Links are not followed; a file with several names is counted once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for entry in _files(path):
        if entry.st_nlink > 1:
            if (entry.st_dev, entry.st_ino) in seen:
                continue
            seen.add((entry.st_dev, entry.st_ino))
        total += entry.st_size
    return total


def to_json(summary: Summary) -> dict[str, Any]:
    """A summary as plain JSON; a score that is not finite as null."""
    return {
        "path": str(summary.run.path),
        "id": summary.run.id,
        "name": summary.run.name,
        "identity": summary.run.identity,
        "created": summary.run.created.isoformat(),
        "status": summary.status,
        "step": summary.step,
        "epoch": summary.epoch,
        "metric": summary.monitor.metric if summary.monitor else None,
        "mode": summary.monitor.mode if summary.monitor else None,
        "best": summary.best_value,
        "best_checkpoint": str(summary.best.path) if summary.best else None,
        "checkpoints": len(summary.checkpoints),
        "damaged": list(summary.damaged),
        "size": summary.size,
    }


def plain(value: Any) -> Any:
    """A value as plain JSON: times as text, what is not a finite number as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime | Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _config(
    run: RunDir, checkpoints: Sequence[Checkpoint], damaged: list[str]
) -> tuple[Mapping[str, Any] | None, Sequence[str]]:
    """The config of the newest checkpoint that can tell it; before the first checkpoint that of the first attempt."""
    for checkpoint in reversed(checkpoints):
        try:
            return checkpoint.config, checkpoint.overrides
        except CheckpointError as e:
            damaged.append(str(e))
    try:
        built = json.loads((run.hydra / "config.json").read_bytes())
        config, overrides = built["config"], built["overrides"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, []
    return (config, overrides) if isinstance(config, dict) and isinstance(overrides, list) else (None, [])


def _monitor(config: Mapping[str, Any] | None) -> Monitor | None:
    monitor = config.get("monitor") if config else None
    if not isinstance(monitor, dict):
        return None
    metric, mode = monitor.get("metric"), monitor.get("mode")
    return Monitor(metric, mode) if isinstance(metric, str) and mode in ("min", "max") else None


def _best(checkpoints: Sequence[Checkpoint], monitor: Monitor | None) -> Checkpoint | None:
    if monitor is None:
        return None
    ranked = best_first([as_kept(checkpoint, protected=False) for checkpoint in checkpoints], monitor)
    by_generation = {checkpoint.generation: checkpoint for checkpoint in checkpoints}
    return by_generation[ranked[0].generation] if ranked else None


def _last_recorded(metrics: Path) -> tuple[int, int]:
    """The step and the epoch of the last record, from the end of the file alone."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return 0, 0
    for line in reversed(lines):
        record = jsonl.decode(line)
        # A save is told of when it is durable, and names the step at which it began.
        if record is not None and isinstance(record.get("step"), int) and record.get("event") != "saved":
            epoch = record.get("epoch")
            return record["step"], epoch if isinstance(epoch, int) else 0
    return 0, 0


def _files(path: Path) -> Iterator[os.stat_result]:
    pending = [path]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                inside = list(entries)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # Removed meanwhile, or not ours to read.
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
                continue
            try:
                yield entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
