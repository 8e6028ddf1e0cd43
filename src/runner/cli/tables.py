"""Tables for people in a terminal, and plain columns for everything else that reads standard output."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

STATUS_STYLES = {
    **{"running": "bold cyan", "finished": "green", "stopped": "yellow", "failed": "bold red", "empty": "dim"},
    **{"stays": "green", "goes": "red", "deleted": "red"},
}
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `rank`: where the terminal is too narrow, the greatest rank is left out first; 0 never."""

    header: str
    right: bool = False
    rank: int = 0
    style: str = ""


def show_table(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. Piped: every column whole, two spaces between them, nothing cut."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        print_columns(columns, rows)
        return
    shown = _fitting(columns, rows, console.width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index in shown:
        column = columns[index]
        table.add_column(
            column.header, justify="right" if column.right else "left", style=column.style, overflow="fold"
        )
    for row in rows:
        table.add_row(*(_styled(row[index]) for index in shown))
    console.print(table)


def print_columns(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """The same as plain text."""
    lines = [[column.header for column in columns], *rows]
    widths = _widths(lines)
    for line in lines:
        cells = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        print("  ".join(cells).rstrip())


def table_width(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> int:
    """How wide a terminal must be to show every column."""
    widths = _widths([[column.header for column in columns], *rows])
    return sum(widths) + 2 * (len(widths) - 1)


def printable(text: str) -> str:
    """Text from a file, in which nothing can steer the terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def age(since: datetime, now: datetime) -> str:
    """How long ago, in one unit."""
    seconds = max(timedelta(), now - since).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def number(value: float | None) -> str:
    """A score with the digits that one compares; `-` without one."""
    return "-" if value is None else f"{value:.4g}" if math.isfinite(value) else str(value)


def curve(values: Sequence[float], width: int) -> str:
    """A line of little bars; means of neighbours where there are more values than room. Gaps for what is not finite."""
    if len(values) > width:
        edges = [len(values) * i // width for i in range(width + 1)]
        values = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    return "".join(_BARS[min(7, int(8 * ((value - low) / span)))] if math.isfinite(value) else " " for value in values)


def config_lines(value: Mapping[Any, Any], indent: int = 0) -> list[str]:
    """A config as indented lines, in its own order."""
    lines = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            lines.append(f"{' ' * indent}{key}:")
            lines += config_lines(item, indent + 2)
        else:
            lines.append(f"{' ' * indent}{key}: {leaf(item)}")
    return lines


def leaf(value: Any) -> str:
    """A value as YAML has it on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(leaf, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {leaf(item)}" for key, item in value.items()) + "}"
    return str(value)


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    shown = list(range(len(columns)))
    while table_width([columns[i] for i in shown], [[row[i] for i in shown] for row in rows]) > width:
        least = max(shown, key=lambda i: columns[i].rank)
        if columns[least].rank == 0:
            break
        shown.remove(least)
    return shown


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, cells)) for cells in zip(*lines, strict=True)]


def _styled(cell: str) -> Text:
    return Text(cell, style=STATUS_STYLES.get(cell, ""))
