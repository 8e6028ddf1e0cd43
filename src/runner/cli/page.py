"""The parts of a page that `runs show` prints: a title, facts with labels, tables, nested values."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from runner.cli import tables
from runner.cli.tables import STATUS_STYLES, Column


def title(console: Console, text: str) -> None:
    say(console, text, style="bold")


def facts(console: Console, values: Mapping[str, str]) -> None:
    """A line each, the labels in a column."""
    width = max(map(len, values))
    for name, value in values.items():
        line = Text.assemble((f"{name.ljust(width)}  ", "dim"), (tables.printable(value), STATUS_STYLES.get(value, "")))
        console.print(line, soft_wrap=True)


def section(console: Console, rows: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    """A table, if there is a row."""
    if rows:
        print()
        tables.show_table(console, columns, rows)


def config(console: Console, values: Mapping[str, Any] | None) -> None:
    if values is not None:
        mapping(console, "config", values)


def mapping(console: Console, name: str, values: Mapping[str, Any]) -> None:
    """Nested values, indented."""
    print()
    title(console, name)
    for line in tables.config_lines(values):
        key, colon, value = tables.printable(line).partition(":")
        console.print(Text.assemble((key + colon, "dim"), value), soft_wrap=True)


def say(console: Console, text: str, *, style: str = "") -> None:
    """A text out of a file."""
    console.print(Text(tables.printable(text), style=style), soft_wrap=True)


def local_time(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"
