"""What `runs show` prints about a run or a checkpoint, for people and as JSON."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

from rich.console import Console

from runner.checkpoint.handle import Checkpoint
from runner.cli import model_page, page, tables
from runner.cli.model_file import ModelFile
from runner.cli.page import local_time
from runner.cli.summary import Summary, plain, size_of, to_json
from runner.cli.tables import Column
from runner.metrics_file import read_metrics
from runner.quantities import position, size
from runner.rundir import Attempt

# What a record holds beside scores.
_NOT_SCORES = {"step", "epoch", "attempt", "seconds", "bytes"}
_CURVE_WIDTH = 24


def show_run(console: Console, summary: Summary, now: datetime) -> None:
    """Print all about a run."""
    run = summary.run
    page.title(console, str(run.path))
    best = "-"
    if summary.best is not None and summary.monitor is not None:
        best = f"{summary.monitor.metric} {tables.number(summary.best_value)} at step {summary.best.step}"
    page.facts(
        console,
        {
            "name": run.name,
            "status": summary.status,
            "created": f"{local_time(run.created)}, {tables.age(run.created, now)} ago",
            "progress": f"step {summary.step}, epoch {summary.epoch}",
            "best": best,
            "size": size(summary.size),
            "overrides": " ".join(summary.overrides) or "-",
        },
    )
    page.section(console, [_attempt_row(attempt, summary.status) for attempt in run.attempts()], _ATTEMPT_COLUMNS)
    page.section(console, _score_rows(read_metrics(run.metrics), console), _score_columns(console))
    tags = [", ".join(checkpoint.tags) for checkpoint in summary.checkpoints]
    rows = [
        [
            checkpoint.path.name + ("  best" if checkpoint is summary.best else ""),
            *([own] if any(tags) else []),
            str(checkpoint.epoch),
            _scores(checkpoint.metrics),
            ", ".join(checkpoint.reasons),
            tables.age(_time(checkpoint), now),
            size(checkpoint.manifest.size),
        ]
        for checkpoint, own in zip(summary.checkpoints, tags, strict=True)
    ]
    first, *others = _CHECKPOINT_COLUMNS
    page.section(console, rows, [first, *([Column("tags", style="cyan")] if any(tags) else []), *others])
    for line in summary.damaged:
        page.say(console, line, style="bold red")
    page.section(console, [[name, size(held)] for name, held in _files(run.path)], _FILE_COLUMNS)
    page.config(console, summary.config)


def show_file(console: Console, file: ModelFile, checkpoint: Checkpoint | None, now: datetime) -> None:
    """Print all about a file with a model in it that is of no run."""
    page.title(console, str(file.path))
    told = model_page.facts(file)
    if checkpoint is not None:
        manifest, progress, created = checkpoint.manifest, checkpoint.progress, _time(checkpoint)
        told["created"] = f"{local_time(created)}, {tables.age(created, now)} ago"
        if progress.step or progress.epoch:
            told["progress"] = position(progress.step, progress.epoch, progress.batch)
            told["trained"] = f"{manifest.seconds:.0f} s"
        told |= {"metrics": _scores(checkpoint.metrics)} if checkpoint.metrics else {}
    told["size"] = size(size_of(file.path) if file.path.is_dir() else file.path.stat().st_size)
    page.facts(console, told)
    model_page.show_model(console, file)
    if checkpoint is not None:
        page.section(console, _file_rows(checkpoint), [*_FILE_COLUMNS, _DIGEST])
        page.mapping(console, "facts", checkpoint.manifest.facts)


def show_checkpoint(console: Console, checkpoint: Checkpoint, now: datetime) -> None:
    """Print all about a checkpoint, by its manifest and its config. Its tensors are not read."""
    manifest = checkpoint.manifest
    created = _time(checkpoint)
    page.title(console, str(checkpoint.path))
    progress = checkpoint.progress
    page.facts(
        console,
        {
            "run": manifest.run,
            "progress": position(progress.step, progress.epoch, progress.batch),
            "samples": str(progress.samples),
            "created": f"{local_time(created)}, {tables.age(created, now)} ago",
            "trained": f"{manifest.seconds:.0f} s",
            "reasons": ", ".join(checkpoint.reasons) or "-",
            "tags": ", ".join(checkpoint.tags) or "-",
            "metrics": _scores(checkpoint.metrics) or "-",
            "overrides": " ".join(checkpoint.overrides) or "-",
            "size": size(manifest.size),
        },
    )
    page.section(console, _file_rows(checkpoint), [*_FILE_COLUMNS, _DIGEST])
    page.mapping(console, "facts", manifest.facts)
    page.config(console, checkpoint.config)


def run_json(summary: Summary) -> dict[str, Any]:
    """All about a run as plain JSON."""
    run = summary.run
    attempts = [
        {
            "attempt": attempt.number,
            "started": attempt.started,
            "ended": attempt.ended,
            "outcome": attempt.outcome,
            "reason": attempt.reason,
            "step": attempt.step,
            "facts": attempt.facts,
        }
        for attempt in run.attempts()
    ]
    about = {
        "kind": "run",
        **to_json(summary),
        "overrides": summary.overrides,
        "attempts": attempts,
        "metrics": {name: values[-1][1] for name, values in _series(read_metrics(run.metrics)).items()},
        "checkpoints": [_in_short(checkpoint) for checkpoint in summary.checkpoints],
        "files": dict(_files(run.path)),
        "config": summary.config,
    }
    return {key: plain(value) for key, value in about.items()}


def checkpoint_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """All about a checkpoint as plain JSON."""
    manifest = checkpoint.manifest
    about = {
        "kind": "checkpoint",
        **_in_short(checkpoint),
        "run": manifest.run,
        "generation": manifest.generation,
        "parent": manifest.parent,
        "batch": checkpoint.progress.batch,
        "samples": checkpoint.progress.samples,
        "seconds": manifest.seconds,
        "facts": manifest.facts,
        "files": {name: {"size": record.size, "digest": record.digest} for name, record in manifest.files.items()},
        "overrides": checkpoint.overrides,
        "config": checkpoint.config,
    }
    return {key: plain(value) for key, value in about.items()}


_ATTEMPT_COLUMNS = [
    Column("attempt", right=True),
    Column("started"),
    Column("took", right=True, rank=2),
    Column("ended"),
    Column("step", right=True, rank=1),
    Column("host", rank=3),
]
_CHECKPOINT_COLUMNS = [
    Column("checkpoint"),
    Column("epoch", right=True, rank=2),
    Column("metrics", rank=1),
    Column("reasons", rank=3),
    Column("age", right=True, rank=4),
    Column("size", right=True, rank=5),
]
_FILE_COLUMNS = [Column("file"), Column("size", right=True)]
_DIGEST = Column("xxh3-128", rank=1, style="dim")


def _file_rows(checkpoint: Checkpoint) -> list[list[str]]:
    return [[name, size(record.size), record.digest] for name, record in checkpoint.manifest.files.items()]


def _attempt_row(attempt: Attempt, status: str) -> list[str]:
    host = attempt.facts.get("host")
    outcome = attempt.outcome or ("running" if status == "running" else "crashed")
    return [
        str(attempt.number),
        local_time(attempt.started),
        tables.age(attempt.started, attempt.ended) if attempt.ended else "-",
        f"{outcome} ({shorten(attempt.reason, 60, placeholder=' ...')})" if attempt.reason else outcome,
        "-" if attempt.step is None else str(attempt.step),
        host if isinstance(host, str) else "-",
    ]


def _score_columns(console: Console) -> list[Column]:
    columns = [Column("metric"), *(Column(name, right=True) for name in ("last", "at step", "lowest", "highest"))]
    return [*columns, Column("", rank=1, style="cyan")] if console.is_terminal else columns


def _score_rows(records: Sequence[Mapping[str, Any]], console: Console) -> list[list[str]]:
    rows = []
    for name, values in _series(records).items():
        numbers = [value for _, value in values]
        comparable = [value for value in numbers if value == value] or [float("nan")]
        step, last = values[-1]
        row = [name, tables.number(last), str(step), tables.number(min(comparable)), tables.number(max(comparable))]
        rows.append([*row, tables.curve(numbers, _CURVE_WIDTH)] if console.is_terminal else row)
    return rows


def _series(records: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every score. The loss is that of the epochs, once there is one: steps are noisy."""
    epochs = any(record.get("event") == "epoch" for record in records)
    series: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        event, step = record.get("event"), record.get("step")
        if event not in ("step", "epoch", "evaluation") or not isinstance(step, int):
            continue
        averaged = " (averaged weights)" if record.get("weights") == "averaged" else ""
        for name, value in record.items():
            if name in _NOT_SCORES or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if event != "step" or not epochs or name not in ("loss", "lr"):
                series.setdefault(name + averaged, []).append((step, float(value)))
    return series


def _in_short(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "path": checkpoint.path,
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "created": checkpoint.manifest.created,
        "reasons": checkpoint.reasons,
        "tags": checkpoint.tags,
        "metrics": checkpoint.metrics,
        "size": checkpoint.manifest.size,
    }


def _files(path: Path) -> list[tuple[str, int]]:
    """What lies in a run directory, by name, with sizes; a directory ends in a slash and counts what is in it."""
    found = []
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            found.append((f"{entry.name}/", size_of(entry)))
        else:
            found.append((entry.name, entry.lstat().st_size))
    return found


def _scores(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {tables.number(value)}" for name, value in metrics.items())


def _time(checkpoint: Checkpoint) -> datetime:
    try:
        time = datetime.fromisoformat(checkpoint.manifest.created)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
