"""A run, from a config that was found good to its last record. Read this first, then attempt.py and loop.py.

prepare()     config/: compose, check, claim or find the run directory
execute()     lock it, note the attempt, carry it out, leave the process as it was
carry_out()   attempt.py: build, restore, train, save, report
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from runner.checkpoint.handle import Checkpoint
from runner.config.check import Settings
from runner.config.composing import Config
from runner.config.documents import write_hydra_files
from runner.config.prepare import prepare
from runner.config.resume import Resumption
from runner.config.secrets import redact_overrides
from runner.config.words import Words
from runner.errors import RunnerError
from runner.lock import RunLock
from runner.metrics_file import read_metrics
from runner.rundir import RunDir
from runner.runs import report
from runner.runs.attempt import Attempt
from runner.runs.environment import process_settings
from runner.runs.loop import Stop
from runner.runs.provenance import software
from runner.training.plan import limit_reached
from runner.training.signals import caught

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("runner")


@dataclass(frozen=True)
class Outcome:
    """How an attempt has ended."""

    stop: Stop
    best: float | None
    """The best value of the monitored metric over the whole run."""
    model: "nn.Module | None"
    """As the last step left it; None where nothing was left to do."""

    @property
    def exit_code(self) -> int:
        return self.stop.exit_code


@dataclass(frozen=True)
class Run:
    """A run that `runner.run` has carried out."""

    directory: Path
    outcome: str
    """`finished` or `stopped`."""
    reason: str
    best: float | None
    """The best value of the monitored metric."""
    model: "nn.Module"
    """In eval mode, with the raw weights of the last step."""

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of `metrics.jsonl`, as one uninterrupted run would have left them."""
        return read_metrics(self.directory / "metrics.jsonl")

    def checkpoint(self, which: str | int = "latest") -> Checkpoint:
        """The run's checkpoint: "latest", "best" or that of a step."""
        return Checkpoint.open(self.directory, which)


def run(overrides: Sequence[str] = ()) -> Run:
    """Carry out one run, as the command `runner` with these overrides would, and return it.

    Takes launch words too (`+resume=...`). Raises the errors that the command would print.
    """
    from runner.runs.load import load

    ready = prepare(list(overrides))
    outcome = execute(
        ready.config, ready.settings, run=ready.run, words=ready.words, resumption=ready.resumption, notes=ready.notes
    )
    model = outcome.model if outcome.model is not None else load(ready.run.path, trust=ready.words.trust)
    return Run(ready.run.path, outcome.stop.outcome, outcome.stop.reason, outcome.best, model.eval())


def execute(
    config: Config,
    settings: Settings,
    *,
    run: RunDir,
    words: Words,
    resumption: Resumption | None,
    notes: Sequence[str],
) -> Outcome:
    """Carry out one attempt on `run`. Everything process-wide that it sets is put back when it ends."""
    console = Console()
    with RunLock(run.lock), _log_file(run.log):
        for note in notes:
            report.tell(console, note)
        if resumption is not None and (done := already_finished(run, settings, resumption)):
            report.nothing_to_do(console, done, directory=run.path, step=resumption.checkpoint.step)
            best = resumption.checkpoint.state()["best"]
            return Outcome(done, None if best is None else float(best["value"]), None)
        versions = software()
        number = run.begin_attempt({**_facts(config, settings, resumption), **versions})
        write_hydra_files(run, number, config)
        attempt = Attempt(config, settings, run, number, words, resumption, console, versions)
        try:
            with process_settings(settings.runtime, deterministic=settings.trainer.deterministic), caught() as signals:
                stop = attempt.carry_out(signals)
        except BaseException as error:
            run.end_attempt(number, "failed", f"{type(error).__name__}: {error}"[:500], attempt.progress)
            log.error("%s", error, exc_info=None if isinstance(error, RunnerError) else error)
            report.failed(console, directory=run.path, progress=attempt.progress)
            raise
        run.end_attempt(number, stop.outcome, stop.reason, attempt.progress)
        return Outcome(stop, attempt.best, attempt.model)


def already_finished(run: RunDir, settings: Settings, resumption: Resumption) -> Stop | None:
    """How the run has finished, if nothing is left to do under the limits that hold now."""
    checkpoint = resumption.checkpoint
    if "end" not in checkpoint.reasons:
        return None
    limit = limit_reached(settings.trainer, checkpoint.progress)
    if limit is not None:
        return Stop("finished", limit, 0)
    last = next((attempt for attempt in reversed(run.attempts()) if attempt.outcome is not None), None)
    same = not any(difference.key.startswith("trainer.early_stopping") for difference in resumption.differences)
    if last is not None and last.reason == "early_stopping" and same:
        return Stop("finished", "early_stopping", 0)
    return None


def _facts(config: Config, settings: Settings, resumption: Resumption | None) -> dict[str, Any]:
    """What is noted about an attempt when it starts."""
    return {
        "argv": redact_overrides(sys.argv[1:]),
        "overrides": redact_overrides(config.overrides),
        "pid": os.getpid(),
        "threads": settings.runtime.threads,
        "resumed_from": None if resumption is None else resumption.checkpoint.path.name,
        "differences": [] if resumption is None else [asdict(difference) for difference in resumption.differences],
    }


class _BelowError(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """What the package logs goes to the run's log inside; warnings to the terminal too, errors are raised anyway."""
    package = logging.getLogger("runner")
    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    to_terminal = logging.StreamHandler()
    to_terminal.setLevel(logging.WARNING)
    to_terminal.addFilter(_BelowError())
    to_terminal.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    level = package.level
    package.setLevel(logging.INFO)
    package.addHandler(to_file)
    package.addHandler(to_terminal)
    try:
        yield
    finally:
        package.setLevel(level)
        for handler in (to_file, to_terminal):
            package.removeHandler(handler)
            handler.close()
