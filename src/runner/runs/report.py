"""What a run says on the terminal at its start and at its end."""

import logging
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from runner.config.secrets import redact, redact_overrides
from runner.quantities import duration, position, score, size
from runner.runs.observers.progress import epoch_of

if TYPE_CHECKING:
    from torch import nn

    from runner.checkpoint.handle import Checkpoint
    from runner.config.build import Training
    from runner.config.diff import Difference
    from runner.records import Progress
    from runner.runs.loop import Stop
    from runner.runs.saver import Account
    from runner.training.state import TrainState

log = logging.getLogger(__name__)

_OVERRIDDEN = "bold yellow"


def short(path: Path) -> str:
    """A path as one would type it here: relative if it lies below the current directory."""
    here = Path.cwd()
    # A run that has gone into its own directory (hydra.job.chdir) leaves its user where he was.
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)


def say(console: Console, line: str | Text = "", style: str = "") -> None:
    """One line, never cut or wrapped: paths and commands are copied from it."""
    console.print(line, style=style, highlight=False, soft_wrap=True, markup=False)


def tell(console: Console, line: str) -> None:
    """One line in the run's log and on the terminal, which wraps it between words."""
    console.print(line, highlight=False, soft_wrap=not console.is_terminal, markup=False)
    log.info("%s", line)


def start(console: Console, name: str, directory: Path, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """The run's name and directory, and its config as a tree; what this launch overrode is marked."""
    overridden = {override.partition("=")[0].lstrip("+~").split("@")[0].replace("/", ".") for override in overrides}
    say(console, Text.assemble((name, "bold"), "  ", short(directory)))
    tree = Tree(Text("config"), guide_style="dim")
    _grow(tree, redact(config), "", overridden)
    console.print(tree, highlight=False)
    if any(_is_below(one, config) for one in overridden):
        say(console, Text.assemble(("*", _OVERRIDDEN), (" overridden by this launch", "dim")))


def _is_below(key: str, node: Mapping[str, Any]) -> bool:
    """Whether `key` is of this config, as those of Hydra's own and names of files are not."""
    first, _, rest = key.partition(".")
    value = node.get(first)
    return first in node and (not rest or not isinstance(value, Mapping) or _is_below(rest, value))


def _grow(tree: Tree, node: Mapping[str, Any], prefix: str, overridden: Collection[str]) -> None:
    """The values of `node` in one line, then a branch for each node in it."""
    values = Text()
    for key, value in node.items():
        if key == "_target_" or (isinstance(value, Mapping) and value):
            continue
        typed = any(f"{prefix}{key}" == one or f"{prefix}{key}".startswith(f"{one}.") for one in overridden)
        values.append("  " if values else "")
        # As it is typed, and without a space in it where that can be, so that it stays on one line.
        values.append(f"{key}=", style=_OVERRIDDEN if typed else "dim")
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
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    return str(value)


def model_summary(console: Console, training: "Training", *, batch_size: int) -> None:
    """A line for each part of the model that has parameters, and how long it will be trained on what."""
    model = training.state.model
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("model", "kind"):
        table.add_column(title)
    table.add_column("parameters", justify="right")
    for name, child in _parts(model):
        count = sum(p.numel() for p in child.parameters())
        if count:
            table.add_row(name, type(child).__name__, f"{count:,}")
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    table.add_row(Text("all", style="bold"), type(model).__name__, Text(f"{total:,}", style="bold"))
    console.print(table)
    bytes_held = size(sum(p.numel() * p.element_size() for p in parameters))
    frozen = "" if trained == total else f" ({trained:,} of them trained)"
    per_epoch, steps = training.horizon.steps_per_epoch, training.horizon.total_steps
    samples = getattr(training.train, "dataset_size", None)
    line = [f"{bytes_held} of parameters{frozen} on {training.state.device}"]
    line.append(
        f"{samples:,} samples in batches of {batch_size}" if samples is not None else f"batches of {batch_size}"
    )
    line += [] if per_epoch is None else [f"{_steps(per_epoch)} an epoch"]
    line += [] if steps is None else [f"{_steps(steps)} in all"]
    console.print(Text(", ".join(line), style="dim"))


def _parts(model: "nn.Module") -> Iterator[tuple[str, "nn.Module"]]:
    """The parts of a model; those in a dictionary, which is no more than their names, one by one."""
    from torch import nn

    for name, child in model.named_children():
        if isinstance(child, nn.ModuleDict):
            yield from ((f"{name}.{inner}", part) for inner, part in child.items())
        else:
            yield name, child


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"


def resumed(
    console: Console,
    checkpoint: "Checkpoint",
    differences: Sequence["Difference"],
    parts: Sequence[str],
    notes: Sequence[str],
    inexact: Sequence[str],
    *,
    state: "TrainState",
) -> None:
    """From where a run goes on, with what, what differs from what was saved, and what is not as it was.

    `parts` are what was restored, `notes` what was not; because of `inexact` the numbers may be other ones.
    """
    at = state.progress
    tell(console, f"resumed from {short(checkpoint.path)}")
    tell(console, f"at {position(at.step, at.epoch, at.batch)}, learning rate {state.lr:.6g}")
    tell(console, f"restored: {', '.join(parts)}")
    if differences:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("differs", "saved", "now", "which"):
            table.add_column(title, overflow="fold")
        for difference in differences:
            table.add_row(difference.key, _shown(difference.saved), _shown(difference.now), difference.kind)
            log.info("differs: %s: %s, now %s", difference.key, difference.saved, difference.now)
        console.print(table, highlight=False)
    for note in notes:
        tell(console, f"not as it was: {note}")
    for cause in inexact:
        tell(console, f"not exact: {cause}")
    if inexact:
        tell(console, "so the numbers from here on may not be, bit for bit, those of one uninterrupted run")


def end(
    console: Console,
    stop: "Stop",
    *,
    directory: Path,
    state: "TrainState",
    seconds: float,
    newest: "Checkpoint | None",
    skipped: int,
    account: "Account",
    made: Sequence[Path],
) -> None:
    """How it ended, the best metric, what saving has cost, where it is, how to go on, how to load the model.

    `made` is what observers have left in the run directory.
    """
    from runner.training.optimizer_state import takes_one_pass

    finished, at, best = stop.outcome == "finished", state.progress, state.best
    title = Text(stop.outcome, style="bold green" if finished else "bold yellow")
    title.append(
        f" ({stop.reason}) at step {at.step}, epoch {epoch_of(at)}, after {duration(seconds)}", style="default"
    )
    say(console, title)
    if skipped:
        tell(console, f"left out     {_steps(skipped)}, because loss or gradients were not finite")
    if best is not None:
        say(console, f"best         {best.metric} {score(best.value)} at step {best.step}")
    if newest is not None:
        say(console, f"checkpoints  {short(directory / 'checkpoints')}")
        say(console, f"newest       {newest.path.name}")
    if account.count or account.failed:
        say(console, f"saves        {_account(account)}")
    for path in made:
        say(console, f"made         {short(path)}")
    if newest is None:
        say(console, "nothing was saved, so there is nothing to resume or to load; see checkpoint.save")
        return
    if not (finished and takes_one_pass(state.optimizer)):
        say(console, f"resume       {resume_command(directory, more=stop.reason if finished else None)}")
    say(console, f'load         runner.load("{short(directory)}")')


def _account(account: "Account") -> str:
    """What the saves of an attempt have cost."""
    waited = f"waited {account.stall:.3f} s ({account.share:.1%} of training); durable in {account.slowest:.2f} s"
    failed = f", {account.failed} failed" if account.failed else ""
    postponed = f", {account.postponed} put off" if account.postponed else ""
    return f"{account.count:,}, {size(account.written)}{failed}{postponed}; {waited}"


def nothing_to_do(console: Console, stop: "Stop", *, directory: Path, step: int, ignored: Sequence[str]) -> None:
    """A finished run was resumed with nothing more to do; what was typed for it, `ignored`, changes nothing."""
    tell(console, f"{short(directory)}: finished ({stop.reason}) at step {step}; nothing to do")
    if ignored:
        tell(console, f"no effect    {' '.join(redact_overrides(ignored))}")
    say(console, f"to go on     {resume_command(directory, more=stop.reason)}")


def failed(console: Console, *, directory: Path, progress: "Progress", newest: "Checkpoint | None") -> None:
    """Where a failed run stands, and how to go on once the cause is mended."""
    say(
        console,
        Text.assemble(
            ("failed", "bold red"), f" at step {progress.step}; the log is {short(directory / 'runner.log')}"
        ),
    )
    if newest is None:
        say(console, "nothing was saved yet")
        return
    say(console, f"newest       {newest.path.name}")
    say(console, f"resume       {resume_command(directory)}")


_MORE = {"early_stopping": "trainer.early_stopping.patience"}


def resume_command(directory: Path, *, more: str | None = None) -> str:
    """The command that goes on with a run; one that finished because of the limit `more` needs more to do."""
    extension = "" if more is None else f" {_MORE.get(more, f'trainer.{more}')}=..."
    return f"runner {shlex.quote(f'+resume={short(directory)}')}{extension}"
