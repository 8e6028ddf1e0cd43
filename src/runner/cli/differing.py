"""`runs diff`: in what two checkpoints or models' files differ. Of a run its newest checkpoint is meant."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from runner.checkpoint.contents import TAG
from runner.checkpoint.handle import Checkpoint
from runner.cli import tables
from runner.cli.choosing import WeightsFile, found_model
from runner.cli.model_file import nodes_of
from runner.cli.summary import plain
from runner.cli.tables import Column
from runner.config.as_python import as_python
from runner.config.calls import DOOR
from runner.config.decoding import is_missing
from runner.config.diff import NOT_THERE, differing
from runner.config.interpolation import dotted

if TYPE_CHECKING:
    from runner.checkpoint.comparing import Comparison, TensorDifference

MOST_ROWS = 20
"""Of tensors in a terminal; piped, all are printed."""
_LONGEST = 60
_IN_HISTORY = re.compile(r"(.+\.history)\.[0-9]+\..+")

Row = tuple[str, Any, Any]
"""A name, and what stands there in A and in B."""


def show_differences(
    one: Annotated[str, typer.Argument(metavar="A", help="A run, RUN@WHICH, a checkpoint, or a model's file.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Say how two checkpoints or models' files differ: config, metrics, tensors.

    Of a run the newest is compared. Exit code 0 if all is equal, bit for bit, 1 if anything differs.
    """
    from runner.checkpoint.comparing import compare

    first, second = _side(found_model(one)), _side(found_model(other))
    compared = compare(first.state, second.state)
    # Beside what was typed into a run's config, a number stands as a number.
    typed = first.is_call and second.is_call
    configs = [_typed(side.config, typed) if side.is_call else side.config for side in (first, second)]
    tables_of = {
        "config": _rows(*configs),
        # A file of another program tells neither.
        "progress": _rows(first.progress, second.progress) if first.progress and second.progress else [],
        "metrics": _rows(first.metrics, second.metrics) if first.progress and second.progress else [],
        # The progress is in the state, too, and has been said.
        "state": [
            (value.name, value.one, value.other) for value in compared.values if not value.name.startswith("progress.")
        ],
    }
    equal = not (any(tables_of.values()) or compared.tensors)
    if as_json:
        _print_json(first, second, tables_of, compared, equal=equal)
    else:
        _show(Console(), first, second, tables_of, compared)
    if not equal:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Side:
    """What is compared of a checkpoint or a file."""

    path: Path
    step: int | None
    """None where no step is known."""
    config: Mapping[str, Any]
    is_call: bool
    """Whether the arguments in its config are encoded."""
    progress: Mapping[str, Any]
    metrics: Mapping[str, float]
    state: Mapping[str, Any]


def _side(place: Checkpoint | WeightsFile) -> _Side:
    if isinstance(place, Checkpoint):
        is_door = DOOR in place.config
        step = None if is_door and not place.step else place.step
        return _Side(place.path, step, place.config, is_door, asdict(place.progress), place.metrics, place.state())
    from runner.runs.saved import read_saved

    saved = read_saved(place.path)
    return _Side(place.path, None, saved.config, True, {}, {}, {"model": dict(saved.tensors)})


def _typed(config: Mapping[str, Any], typed: bool) -> dict[str, Any]:
    """The config of a model's file with its arguments as one types them; not `typed`, only those that are not JSON."""
    nodes = dict(nodes_of(config))

    def told(form: Any) -> Any:
        if not typed and not isinstance(form, Mapping | list):
            return form
        if not typed and isinstance(form, Mapping) and TAG not in form:
            return {key: told(inner) for key, inner in form.items()}
        if not typed and isinstance(form, list):
            return [told(inner) for inner in form]
        return f"({form.get('why')})" if is_missing(form) else as_python(form)

    return {
        key: {name: value if name == "_target_" else told(value) for name, value in nodes[key].items()}
        if key in nodes
        else value
        for key, value in config.items()
    }


def _rows(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Row]:
    return [(dotted(path), before, after) for path, before, after in differing(one, other)]


def _show(
    console: Console, one: _Side, other: _Side, tables_of: Mapping[str, list[Row]], compared: "Comparison"
) -> None:
    for letter, style, side in (("A", "red", one), ("B", "green", other)):
        line = tables.printable(str(side.path) if side.step is None else f"{side.path}  step {side.step}")
        console.print(Text.assemble((f"{letter}  ", f"bold {style}"), line), soft_wrap=True)
    tables_of = {**tables_of, "state": _history_in_short(tables_of["state"])}
    for title, rows in tables_of.items():
        if rows:
            print()
            columns = [Column(title), Column("A", style="red"), Column("B", style="green")]
            tables.show_table(console, columns, [[name, *_pair(before, after)] for name, before, after in rows])
    if compared.tensors:
        print()
        show_tensors(console, compared.tensors)
    print()
    said = [f"{len(rows)} in {title}" for title, rows in tables_of.items() if rows]
    if compared.tensors:
        said.append(f"{len(compared.tensors)} of {compared.num_tensors} tensors")
    line = f"different: {', '.join(said)}" if said else f"equal, bit for bit: {compared.num_tensors} tensors"
    console.print(Text(line, style="bold yellow" if said else "bold green"))


def _history_in_short(rows: Sequence[Row]) -> list[Row]:
    """The rows of a state with one for each history, which has several an epoch."""
    counts: dict[str, list[int]] = {}
    others = []
    for name, before, after in rows:
        if (found := _IN_HISTORY.fullmatch(name)) is None:
            others.append((name, before, after))
            continue
        count = counts.setdefault(found[1], [0, 0])
        count[0] += not _is_missing(before)
        count[1] += not _is_missing(after)
    return [*others, *((name, _counted(before), _counted(after)) for name, (before, after) in counts.items())]


def _counted(count: int) -> str:
    return NOT_THERE if not count else "1 other value" if count == 1 else f"{count} other values"


def show_tensors(console: Console, differences: Sequence["TensorDifference"]) -> None:
    """A table of the tensors that differ; in a terminal only of those that differ most."""
    shown = list(differences)
    if console.is_terminal and len(shown) > MOST_ROWS:
        most = sorted(shown, key=_how_different, reverse=True)[:MOST_ROWS]
        shown = [one for one in shown if one in most]
    columns = [
        Column("tensor"),
        Column("dtype and shape", rank=1),
        Column("differ", right=True, rank=2),
        Column("max abs", right=True),
        Column("relative", right=True),
    ]
    rows = [
        [
            one.name,
            _what(one),
            "-" if one.differing is None else f"{one.differing} of {one.elements}",
            tables.number(one.max_abs),
            tables.number(one.relative),
        ]
        for one in shown
    ]
    tables.show_table(console, columns, rows)
    if len(shown) < len(differences):
        print(f"... {len(shown)} of {len(differences)} that differ, the model's first; --json has all")


def _how_different(one: "TensorDifference") -> tuple[bool, float]:
    """The model comes first; in it what cannot be subtracted, and what is no number."""
    by = math.inf if one.relative is None or math.isnan(one.relative) else one.relative
    return one.name.startswith("model."), by


def _what(one: "TensorDifference") -> str:
    if one.one is None or one.other is None:
        return f"{one.one or one.other}, only in {'A' if one.other is None else 'B'}"
    return one.one if one.one == one.other else f"{one.one} / {one.other}"


def _pair(before: Any, after: Any) -> tuple[str, str]:
    """Two values as texts, numbers with as many digits as tell them apart."""
    short = _text(before), _text(after)
    return short if short[0] != short[1] else (_cut(repr(before)), _cut(repr(after)))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return tables.number(value)
    return _cut(tables.leaf(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _is_missing(value: Any) -> bool:
    return isinstance(value, str) and value == NOT_THERE


def _print_json(
    one: _Side,
    other: _Side,
    tables_of: Mapping[str, list[Row]],
    compared: "Comparison",
    *,
    equal: bool,
) -> None:
    """A value that is not there is left out."""
    value = {
        "equal": equal,
        "a": {"path": one.path, "step": one.step},
        "b": {"path": other.path, "step": other.step},
        **{
            title: [
                {"key": name} | {key: item for key, item in (("a", before), ("b", after)) if not _is_missing(item)}
                for name, before, after in rows
            ]
            for title, rows in tables_of.items()
        },
        "tensors": [
            {
                "name": difference.name,
                "a": difference.one,
                "b": difference.other,
                "elements": difference.elements,
                "differing": difference.differing,
                "max_abs": difference.max_abs,
                "relative": difference.relative,
            }
            for difference in compared.tensors
        ],
        "compared_tensors": compared.num_tensors,
    }
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, default=repr))
