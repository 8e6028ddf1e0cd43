"""`runs verify-resume`: takes a part of a run again, from a checkpoint to the next, and compares it bit for bit."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.checkpoint.handle import Checkpoint
from runner.cli import tables
from runner.cli.choosing import found
from runner.cli.differing import show_tensors
from runner.cli.launch import import_from_here
from runner.cli.summary import plain
from runner.errors import ConfigError, ResumeError
from runner.lock import holder
from runner.rundir import RunDir

if TYPE_CHECKING:
    from runner.runs.verifying import Deviation, Verdict

DIFFERENT = 1


def verify_resume(
    path: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, RUN@step=N, RUN@WHICH, one of its checkpoints, or `latest`.")
    ],
    to: Annotated[
        int | None, typer.Option("--to", metavar="N", help="To this step, not to that of the next checkpoint.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="From each checkpoint to the next.")] = False,
    trust: Annotated[
        list[str] | None, typer.Option("--trust", metavar="MODULE", help="A module that the saved config may name.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Prove that a run resumes exactly: take a part of it again and compare.

    From a checkpoint (by default the last that has a next one) to the next, in a temporary directory, with the saved
    config. Compared are batches, random generators, losses and scores at every record, and the state at the end.
    Exit code 0 if all is identical, bit for bit; 1 if not, with what differs first and its likely cause.
    """
    if every and to is not None:
        raise ConfigError("--all and --to: each says how far; leave one of them out")
    run, first = _run_and_checkpoint(path)
    import_from_here()
    from runner.runs.observers.progress import ProgressDisplay
    from runner.runs.stretches import all_stretches, one_stretch
    from runner.runs.verifying import verify

    if (at_work := holder(run.lock)) is not None:
        print(f"runs: {run.path}: is running ({at_work}); compared is what it has saved so far", file=sys.stderr)
    stretches = all_stretches(run, first) if every else [one_stretch(run, first, to)]
    verdicts = []
    for stretch in stretches:
        verdict = verify(stretch, trust=trust or (), look=ProgressDisplay(Console(stderr=True), bar=True))
        verdicts.append(verdict)
        if not as_json:
            _show(Console(), verdict)
    if as_json:
        print(json.dumps([plain(_json(one)) for one in verdicts], indent=2, ensure_ascii=False, default=repr))
    if any(verdict.deviation for verdict in verdicts):
        raise typer.Exit(DIFFERENT)


def _run_and_checkpoint(text: str) -> tuple[RunDir, Checkpoint | None]:
    """The run, and the checkpoint that was chosen in it, if one was."""
    place = found(text)
    if isinstance(place, RunDir):
        return place, None
    for directory in place.path.absolute().parents:
        if (directory / "run.json").exists():
            return RunDir.open(directory), place
    raise ResumeError(f"{place.path}: a checkpoint outside of its run, whose records are wanted, too; name the run")


def _show(console: Console, verdict: "Verdict") -> None:
    stretch, deviation = verdict.stretch, verdict.deviation
    start, end = stretch.first.step, stretch.end
    where = stretch.first.path if stretch.last is None else f"{stretch.first.path}  to  {stretch.last.path.name}"
    console.print(Text(tables.printable(str(where)), style="dim"), soft_wrap=True)
    rows = [("compared", compared(verdict))]
    if deviation is None:
        console.print(Text(f"bit-identical over {_count(end - start, 'step')} ({start} to {end})", style="bold green"))
    else:
        console.print(Text(f"different: {told(deviation)}", style="bold yellow"), soft_wrap=True)
        rows += [("equal", f"up to step {deviation.equal_until}"), ("likely cause", verdict.cause)]
        rows += [("changed", line) for line in verdict.changed]
        if deviation.comparison is not None:
            values = deviation.comparison.values
            rows += [(one.name, f"was {one.one!r:.60} and is {one.other!r:.60} now") for one in values]
    if stretch.lacks_digests:
        rows.append(("digests", "an older version recorded it, without those of batches and generators"))
    _show_rows(console, rows)
    if deviation is not None and deviation.comparison is not None and deviation.comparison.tensors:
        show_tensors(console, deviation.comparison.tensors)


def _show_rows(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Labels, and beside each its text; piped, a line each."""
    width = max(len(label) for label, _ in rows)
    grid = Table.grid(padding=(0, 2, 0, 0))
    for label, text in rows:
        if console.is_terminal:
            grid.add_row(Text(label, style="dim"), Text(tables.printable(text)))
        else:
            print(f"{label:<{width}}  {tables.printable(text)}")
    if console.is_terminal:
        console.print(grid)


def compared(verdict: "Verdict") -> str:
    """What was compared, counted."""
    counts = ((verdict.gathers, "recorded step"), (verdict.evaluations, "evaluation"))
    parts = [_count(number, noun) for number, noun in counts if number]
    if verdict.tensors is not None:
        parts.append(f"the state with {_count(verdict.tensors, 'tensor')}")
    elif verdict.stretch.last is None:
        parts.append("no state, because none was saved at the end")
    return ", ".join(parts) or "nothing before it"


def told(deviation: "Deviation") -> str:
    """What is not as it was recorded, in a few words."""
    at = f"step {deviation.step}"
    if deviation.comparison is not None:
        tensors, values = len(deviation.comparison.tensors), len(deviation.comparison.values)
        return f"the state at {at}: {tensors} of {_count(deviation.comparison.num_tensors, 'tensor')}" + (
            f", {_count(values, 'value')}" if values else ""
        )
    if deviation.what == "batches":
        return f"the batches of {at} are others"
    if deviation.what == "generators":
        return f"the random generators after {at} stand elsewhere"
    of = "" if deviation.event == "step" else f" of the {deviation.event}"
    return f"{deviation.what}{of} at {at} was {deviation.recorded!r} and is {deviation.now!r} now"


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"


def _json(verdict: "Verdict") -> dict[str, Any]:
    stretch, deviation = verdict.stretch, verdict.deviation
    value: dict[str, Any] = {
        "identical": deviation is None,
        "from": {"path": stretch.first.path, "step": stretch.first.step},
        "to": {"path": None if stretch.last is None else stretch.last.path, "step": stretch.end},
        "compared": {"steps": verdict.gathers, "evaluations": verdict.evaluations, "tensors": verdict.tensors},
        "digests": not stretch.lacks_digests,
    }
    if deviation is not None:
        value["difference"] = asdict(deviation) | {
            "repeatable": verdict.repeatable,
            "changed": verdict.changed,
            "cause": verdict.cause,
        }
    return value
