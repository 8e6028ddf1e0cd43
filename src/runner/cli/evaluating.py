"""`runs evaluate`: the scores of a checkpoint on its run's data."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from runner.cli import tables
from runner.cli.choosing import WeightsFile, found_model
from runner.cli.interrupt import leaving_at_once
from runner.cli.summary import plain
from runner.cli.tables import Column
from runner.errors import ConfigError

if TYPE_CHECKING:
    from runner.runs.evaluating import Measured

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="OVERRIDES", help="Values changed in the saved config: data.path=other.npz."),
]
Trust = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="MODULE", help="A module whose classes the config may name; as +trust=[MODULE]."),
]


def evaluate(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A checkpoint, RUN@best, RUN@step=N, or a run's newest.")],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option("--split", help="validation or test.")] = "validation",
    weights: Annotated[
        str | None, typer.Option("--weights", help="raw or averaged; by default those by which the training evaluated.")
    ] = None,
    trust: Trust = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Measure a checkpoint on its run's data.

    Model, data and objective are built from the config in the checkpoint, with the overrides on top. Without any, the
    scores are those that the training recorded, bit for bit; what speaks against that is said.
    """
    checkpoint = found_model(path)
    if isinstance(checkpoint, WeightsFile):
        raise ConfigError(
            f"{path}: holds weights, and no data and no objective to measure them by; runs predict gives the outputs "
            "of a model that its file tells of, and runner.load the model"
        )
    with leaving_at_once():
        from runner.runs.evaluating import evaluate_checkpoint
    with progress_bar(f"evaluating {split}") as watch:
        measured = evaluate_checkpoint(
            checkpoint, overrides or (), split=split, weights=weights, trust=trust or (), watch=watch
        )
    if as_json:
        _print_json(measured)
    else:
        _show(Console(), measured)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int | None], Callable[[], None]]]:
    """A bar on standard error while something goes on inside, gone afterwards; none where that is no terminal."""
    # Here, because the other commands have no bar, and are to start at once.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def watch(total: int | None) -> Callable[[], None]:
            task = progress.add_task(title, total=total)
            return lambda: progress.advance(task)

        yield watch


def _show(console: Console, measured: "Measured") -> None:
    checkpoint, at = measured.checkpoint, measured.checkpoint.progress
    print(tables.printable(f"{checkpoint.path}  step {at.step}, {at.epoch} {'epoch' if at.epoch == 1 else 'epochs'}"))
    print(f"{measured.split} split, {measured.weights} weights, on {measured.device}")
    if measured.overrides:
        print(tables.printable(f"with {' '.join(measured.overrides)}"))
    print()
    recorded = [Column("recorded", right=True)] if measured.recorded else []
    rows = []
    for name, value in measured.metrics.items():
        cells = tables.number(value), tables.number(measured.recorded.get(name))
        if cells[0] == cells[1] and value != measured.recorded[name]:
            cells = repr(value), repr(measured.recorded[name])
        rows.append([name, *cells[: 1 + len(recorded)]])
    tables.show_table(console, [Column("metric"), Column("now", right=True), *recorded], rows)
    print()
    if measured.equal:
        console.print(Text("equal, bit for bit, to what the training recorded", style="bold green"))
        return
    if measured.equal is False:
        more = "" if measured.not_exact else "; something has changed that nobody took note of: a file, or code"
        console.print(Text(f"not what the training recorded{more}", style="bold yellow"), soft_wrap=True)
    elif measured.recorded:
        print("recorded is what the training measured, with its own config and weights")
    else:
        print(f"the checkpoint carries no scores of the {measured.split} split to compare with")
    for line in measured.not_exact:
        console.print(Text(tables.printable(f"not as it was: {line}")), soft_wrap=not console.is_terminal)


def _print_json(measured: "Measured") -> None:
    at = measured.checkpoint.progress
    value = {
        "path": measured.checkpoint.path,
        "step": at.step,
        "epoch": at.epoch,
        "split": measured.split,
        "weights": measured.weights,
        "device": measured.device,
        "overrides": measured.overrides,
        "metrics": measured.metrics,
        "recorded": measured.recorded,
        "equal": measured.equal,
        "not_exact": measured.not_exact,
        "seconds": measured.seconds,
    }
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))
