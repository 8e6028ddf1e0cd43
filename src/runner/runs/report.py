"""What a run says on the terminal at its start and at its end."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from runner.config.secrets import redact
from runner.runs.observers.progress import duration

if TYPE_CHECKING:
    from runner.config.build import Training
    from runner.config.diff import Difference
    from runner.runs.loop import Stop

_OVERRIDDEN = "bold yellow"


def short(path: Path) -> str:
    """A path as one would type it here: relative if it lies below the current directory."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def say(console: Console, line: str | Text = "", style: str = "") -> None:
    """One line, never cut or wrapped: paths and commands are copied from it."""
    console.print(line, style=style, highlight=False, soft_wrap=True, markup=False)


def start(
    console: Console, name: str, directory: Path, config: Mapping[str, Any], overridden: Collection[str]
) -> None:
    """The run's name and directory, and its config as a tree; what this launch overrode is marked."""
    say(console, Text.assemble((name, "bold"), "  ", short(directory)))
    tree = Tree(Text("config"), guide_style="dim")
    _grow(tree, redact(config), "", overridden)
    console.print(tree, highlight=False)
    if overridden:
        say(console, Text.assemble(("*", _OVERRIDDEN), (" overridden by this launch", "dim")))


def _grow(tree: Tree, node: Mapping[str, Any], prefix: str, overridden: Collection[str]) -> None:
    """The values of `node` in one line, then a branch for each node in it."""
    values = Text()
    for key, value in node.items():
        if key == "_target_" or (isinstance(value, Mapping) and value):
            continue
        typed = any(f"{prefix}{key}" == one or f"{prefix}{key}".startswith(f"{one}.") for one in overridden)
        values.append("  " if values else "")
        values.append(f"{key}: ", style=_OVERRIDDEN if typed else "dim")
        values.append(_shown(value) + ("*" if typed else ""), style=_OVERRIDDEN if typed else "")
    if values:
        tree.add(values)
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            target = value.get("_target_")
            label = Text(key, style="bold")
            if isinstance(target, str):
                typed = f"{prefix}{key}._target_" in overridden or f"{prefix}{key}" in overridden
                label.append(f"  {target}" + ("*" if typed else ""), style=_OVERRIDDEN if typed else "cyan")
            _grow(tree.add(label), value, f"{prefix}{key}.", overridden)


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def model_summary(console: Console, training: "Training") -> None:
    """A line for each part of the model that has parameters, and what will be trained on what."""
    model = training.state.model
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    for title in ("model", "kind"):
        table.add_column(title)
    table.add_column("parameters", justify="right")
    for name, child in model.named_children():
        count = sum(p.numel() for p in child.parameters())
        if count:
            table.add_row(name, type(child).__name__, f"{count:,}")
    parameters = list(dict.fromkeys(model.parameters()))
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    size = sum(p.numel() * p.element_size() for p in parameters)
    note = "" if trained == total else f", {trained:,} of them trained"
    table.add_row(Text("in all", style="bold"), type(model).__name__, Text(f"{total:,}", style="bold"))
    console.print(table)
    say(console, f"{_size(size)} of parameters{note}; on {training.state.device}", style="dim")


def plan_line(training: "Training", *, batch_size: int) -> str:
    """How long the training will be, as far as that can be known."""
    per_epoch, total = training.horizon.steps_per_epoch, training.horizon.total_steps
    samples = getattr(training.train, "dataset_size", None)
    data = f"{samples:,} samples in batches of {batch_size}" if samples is not None else f"batches of {batch_size}"
    steps = f", {per_epoch} steps an epoch" if per_epoch is not None else ""
    return f"{data}{steps}" + (f", {total} steps in all" if total is not None else "")


def differences(console: Console, found: Sequence["Difference"]) -> None:
    """What is not as it was saved, as a table: key, saved, now, and what it means."""
    if not found:
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("differs", "saved", "now", ""):
        table.add_column(title, overflow="fold")
    for difference in found:
        table.add_row(difference.key, _shown(difference.saved), _shown(difference.now), difference.kind)
    console.print(table, highlight=False)


def end(
    console: Console, stop: "Stop", *, directory: Path, step: int, epoch: int, seconds: float, best: str | None, newest: str
) -> None:
    """How it ended, the best metric, where the checkpoints are, how to go on, how to load the model."""
    style = "green" if stop.outcome == "finished" else "yellow"
    state = Text(stop.outcome, style=f"bold {style}")
    say(console, state.append(f" ({stop.reason}) at step {step}, epoch {epoch}, after {duration(seconds)}", style="default"))
    if best is not None:
        say(console, f"best         {best}")
    say(console, f"checkpoints  {short(directory / 'checkpoints')}  (newest {newest})")
    say(console, f"resume       {resume_command(directory, finished=stop.outcome == 'finished')}")
    say(console, f'load         runner.load("{short(directory)}")')


def resume_command(directory: Path, *, finished: bool) -> str:
    """The command that goes on with a run; a finished one needs more to do."""
    return f"runner {shlex.quote(f'+resume={short(directory)}')}" + (" trainer.max_epochs=..." if finished else "")


def _size(size_bytes: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024  # type: ignore[assignment]
    return f"{size_bytes:.1f} GiB"
