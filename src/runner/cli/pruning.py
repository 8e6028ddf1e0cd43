"""`runs prune`: delete the checkpoints that a keep policy does not keep. Says what goes, what stays, and why."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from runner.checkpoint.commit import clean, remove, strangers
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import as_kept, list_checkpoints, newest_whole
from runner.checkpoint.manifest import Manifest
from runner.checkpoint.policies import KeepPolicy, why_kept
from runner.checkpoint.tags import PREFIX
from runner.cli import tables
from runner.cli.choosing import found
from runner.cli.summary import Summary, summarize
from runner.cli.tables import Column
from runner.errors import ConfigError, ResumeError
from runner.lock import RunLock
from runner.quantities import size
from runner.records import Monitor
from runner.rundir import Attempt, RunDir

WHOLE = "newest that is whole"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of what lies in a run's `checkpoints/`."""

    path: Path
    why: tuple[str, ...]
    """Why it stays; empty when it goes."""
    manifest: Manifest | None
    """None where it cannot be read."""


def prune(
    path: Annotated[str, typer.Argument(metavar="RUN", help="A run, or `latest`.")],
    last: Annotated[int | None, typer.Option(min=1, help="Keep the newest N.")] = None,
    best: Annotated[int | None, typer.Option(min=1, help="Keep the best N by the monitored metric.")] = None,
    every_steps: Annotated[int | None, typer.Option(min=1, help="Keep the first of every N steps.")] = None,
    every_hours: Annotated[float | None, typer.Option(help="Keep the first of every N hours trained.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete. Without it nothing is.")] = False,
) -> None:
    """Show which checkpoints no rule keeps; delete them with --yes.

    The rules are those of the run's own config, or, if any is given, those given here. Always kept are the newest, the
    newest that is whole, what is tagged, what was last resumed from, and what this run did not write.
    """
    run = found(path)
    if isinstance(run, Checkpoint):
        raise ResumeError(f"{run.path}: is a checkpoint; name its run")
    if every_hours is not None and not 0 < every_hours < math.inf:
        raise ConfigError(f"--every-hours is {every_hours}; wanted a number above 0")
    summary = summarize(run)
    if best is not None and summary.monitor is None:
        raise ConfigError(f"{run.path}: its config names no monitor to judge the best by; use --last")
    typed = KeepPolicy(last, best, every_steps, every_hours)
    policy = _policy_of(summary) if typed == KeepPolicy(None, None, None, None) else typed
    if not yes:
        verdicts = judge(run, policy, summary.monitor)
        _show(verdicts, {}, gone="goes")
        going = [verdict for verdict in verdicts if not verdict.why]
        freed = size(_freed(verdict.path for verdict in going))
        some = f"{len(going)} of {_counted(len(verdicts))} would go, {freed}; add --yes to delete"
        print(some if going else f"nothing to delete among {_counted(len(verdicts))}")
        return
    with RunLock(run.lock):
        verdicts = judge(run, policy, summary.monitor)
        going = [verdict for verdict in verdicts if not verdict.why]
        freed = size(_freed(verdict.path for verdict in going))
        failures = {verdict.path: failure for verdict in going if (failure := _delete(verdict, run))}
        # What a process that was killed left of a save or a removal goes, too.
        clean(run.checkpoints, owner=run.id)
    _show(verdicts, failures, gone="deleted")
    if failures:
        print(f"deleted {len(going) - len(failures)} of {_counted(len(verdicts))}; {len(failures)} could not be")
        raise typer.Exit(1)
    print(f"deleted {len(going)} of {_counted(len(verdicts))}, {freed}")


def judge(run: RunDir, policy: KeepPolicy, monitor: Monitor | None) -> list[Verdict]:
    """What stays and what goes, the oldest first. Reads the newest checkpoint whole, to know that it is."""
    listed, damages = list_checkpoints(run.checkpoints)
    own = [checkpoint for checkpoint in listed if checkpoint.manifest.run == run.id]
    attempts = run.attempts()
    protected = {checkpoint.generation: _protections(checkpoint, attempts[-1:]) for checkpoint in own}
    whole, _ = newest_whole(own, {})
    if whole is not None:
        protected[whole.generation].append(WHOLE)
    records = [as_kept(checkpoint, protected=bool(protected[checkpoint.generation])) for checkpoint in own]
    rules = why_kept(policy, records, monitor)
    verdicts = [Verdict(path, ("its manifest cannot be read",), None) for path in damages]
    for checkpoint in listed:
        why = ["of another run"]
        if checkpoint.manifest.run == run.id:
            by_rule = [rule for rule in rules.get(checkpoint.generation, ()) if rule != "protected"]
            said = {WHOLE} if "newest" in by_rule else set()
            why = [*by_rule, *(reason for reason in protected[checkpoint.generation] if reason not in said)]
        verdicts.append(Verdict(checkpoint.path, tuple(why), checkpoint.manifest))
    return verdicts


def _protections(checkpoint: Checkpoint, newest: Sequence[Attempt]) -> list[str]:
    """What keeps a checkpoint whatever the policy says. `newest` is the newest attempt, if there was one."""
    reasons = [f"tagged {name}" for name in checkpoint.tags]
    for attempt in newest:
        if attempt.facts.get("resumed_from") == checkpoint.path.name:
            reasons.append(f"resumed from by attempt {attempt.number}")
    strange = [name for name in strangers(checkpoint.path, checkpoint.manifest) if not name.startswith(PREFIX)]
    if strange:
        reasons.append(f"holds what it does not list: {', '.join(strange)}")
    return reasons


def _policy_of(summary: Summary) -> KeepPolicy:
    """The keep policy of the newest checkpoint's config. A rule that its version did not know is none."""
    section = summary.config.get("checkpoint") if summary.config is not None else None
    keep = section.get("keep") if isinstance(section, dict) else None
    if not isinstance(keep, dict):
        raise ConfigError(f"{summary.run.path}: its config has no checkpoint.keep; say what to keep, such as --last 2")
    rules = {field.name: keep.get(field.name) for field in fields(KeepPolicy)}
    try:
        policy = KeepPolicy(**rules)
        why_kept(policy, [], summary.monitor)
    except ValueError as error:
        raise ConfigError(f"{summary.run.path}: {error}; or say what to keep, such as --last 2") from error
    return policy


def _delete(verdict: Verdict, run: RunDir) -> str:
    """Delete a checkpoint; what has kept it, if it is still there."""
    assert verdict.manifest is not None
    try:
        strange = remove(verdict.path, verdict.manifest, owner=run.id)
    except OSError as error:
        return f"could not be deleted ({error.strerror})"
    return f"holds now what it does not list: {', '.join(strange)}" if strange else ""


def _freed(paths: Iterable[Path]) -> int:
    """Bytes that deleting these directories frees: a file that is linked from elsewhere too frees nothing."""
    links: dict[tuple[int, int], int] = {}
    total = 0
    for path in paths:
        for file in path.iterdir():
            status = file.lstat()
            key = (status.st_dev, status.st_ino)
            links[key] = links.get(key, 0) + 1
            total += status.st_size if links[key] == status.st_nlink else 0
    return total


def _show(verdicts: Sequence[Verdict], failures: Mapping[Path, str], *, gone: str) -> None:
    columns = [Column("checkpoint"), Column(""), Column("size", right=True, rank=1), Column("why")]
    rows = []
    for verdict in verdicts:
        why = ", ".join(verdict.why) or failures.get(verdict.path, "")
        held = "-" if verdict.manifest is None else size(verdict.manifest.size)
        rows.append([verdict.path.name, "stays" if why else gone, held, why or "no rule keeps it"])
    if rows:
        tables.show_table(Console(), columns, rows)
        print()


def _counted(count: int) -> str:
    return f"{count} checkpoint" if count == 1 else f"{count} checkpoints"
