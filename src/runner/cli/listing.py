"""The table of runs that `runs ls` and the end of a sweep show."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from runner.cli import tables
from runner.cli.summary import Summary
from runner.cli.tables import Column
from runner.quantities import size


def show_list(summaries: Sequence[Summary], directory: Path) -> None:
    """Print a row for each run, with the overrides that not all of them share: what a sweep has varied."""
    now = datetime.now(UTC)
    metrics = {summary.monitor.metric for summary in summaries if summary.monitor}
    columns = [
        Column("run"),
        Column("name", rank=2),
        Column("status"),
        Column("steps", right=True, rank=1),
        Column(metrics.copy().pop() if len(metrics) == 1 else "best", right=True),
        Column("age", right=True, rank=3),
        Column("size", right=True, rank=4),
    ]
    varied = _varied([summary.overrides for summary in summaries])
    if any(varied):
        columns.append(Column("overrides", rank=5))
    rows = [
        [
            str(summary.run.path),
            summary.run.name,
            summary.status,
            str(summary.step),
            _score(summary, named=len(metrics) > 1),
            tables.age(summary.run.created, now),
            size(summary.size),
            *([" ".join(own)] if any(varied) else []),
        ]
        for summary, own in zip(summaries, varied, strict=True)
    ]
    console = Console()
    short = console.is_terminal and tables.table_width(columns, rows) > console.width
    if short:
        # So that nothing is cut: what all have in common is said once.
        rows = [[_below(summary.run.path, directory), *row[1:]] for summary, row in zip(summaries, rows, strict=True)]
        columns[0] = Column(f"run in {directory}")
    tables.show_table(console, columns, rows)
    for summary in summaries:
        for line in summary.damaged:
            print(f"runs: {line}", file=sys.stderr)


def _score(summary: Summary, *, named: bool) -> str:
    value = tables.number(summary.best_value)
    return f"{summary.monitor.metric} {value}" if named and summary.monitor and summary.best else value


def _below(path: Path, directory: Path) -> str:
    return "." if path == directory else str(path.relative_to(directory))


def _varied(overrides: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each run, the overrides that not every run has."""
    shared = set.intersection(*map(set, overrides)) if overrides else set()
    return [[override for override in own if override not in shared] for own in overrides]
