"""A run, from a config that was found good to its last record. Read this first, then attempt.py and loop.py.

prepare()     config/: compose, check, claim or find the run directory, lock it
execute()     note the attempt, carry it out, leave the process as it was
carry_out()   attempt.py: build, restore, train, save, report
"""

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.checkpoint.durable import make_directory
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import list_checkpoints
from runner.config.check import Settings
from runner.config.composing import Config
from runner.config.documents import write_hydra_files
from runner.config.prepare import Prepared, prepare
from runner.config.resume import Resumption
from runner.config.secrets import redact_overrides
from runner.config.words import Words
from runner.errors import ConfigError, RunnerError
from runner.lock import RunLock
from runner.metrics_file import read_metrics
from runner.records import Progress
from runner.rundir import RunDir
from runner.runs import report
from runner.runs.attempt import Attempt
from runner.runs.environment import process_settings
from runner.runs.loop import Stop
from runner.runs.provenance import software
from runner.runs.run_log import run_log
from runner.runs.terminal import terminal
from runner.runs.writing import reported
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
    model: "nn.Module" = field(repr=False)
    """In eval mode, with the raw weights of the last step."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """The scores of the newest checkpoint, by the names that they have everywhere."""
        return self.checkpoint().metrics

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, as one uninterrupted run would have left them."""
        return read_metrics(self.directory / "metrics.jsonl")

    def checkpoint(self, which: str | int = "latest") -> Checkpoint:
        """The run's checkpoint: "latest", "best", that of a step, or by its tag."""
        return Checkpoint.open(self.directory, which)


def run(overrides: Sequence[str] = ()) -> Run:
    """Carry out one run, as the command `runner` with these overrides would, and return it.

    Takes launch words too (`+resume=...`). Raises the errors that the command would print.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"runner.run({overrides!r}): wanted a list of overrides; write runner.run([{overrides!r}])")
    from runner.runs.load import load

    ready = prepare(list(overrides))
    outcome = execute(ready)
    model = outcome.model if outcome.model is not None else load(ready.run.path, trust=ready.words.trust)
    return Run(ready.run.path, outcome.stop.outcome, outcome.stop.reason, outcome.best, model.eval())


def execute(prepared: Prepared) -> Outcome:
    """Carry out one attempt on a run. Everything process-wide that it sets is put back when it ends, its lock too.

    A launch that is refused before it trains leaves everything as it was: no new run behind, an old one untouched.
    """
    config, settings, run, resumption = prepared.config, prepared.settings, prepared.run, prepared.resumption
    console = terminal()
    with _gone_if_refused(run), _released(prepared.lock), run_log(run.log) as begin_log:
        for note in prepared.notes:
            report.tell(console, note)
        if resumption is not None and (done := already_finished(run, prepared.words, settings, resumption)):
            report.nothing_to_do(
                console, done, directory=run.path, step=resumption.checkpoint.step, ignored=resumption.overrides
            )
            best = resumption.checkpoint.state(["best"])["best"]
            return Outcome(done, None if best is None else float(best["value"]), None)
        if resumption is not None:
            resumption = _in_its_run(resumption, run)
        versions = software()
        facts = {**_facts(config, settings, prepared.words, resumption), **versions}
        begun: list[int] = []

        def begin() -> int:
            with reported(run.path):
                begin_log()
                number = run.begin_attempt(facts)
                begun.append(number)
                write_hydra_files(run, number, config)
            return number

        attempt = Attempt(config, settings, run, prepared.words, resumption, console, versions)
        try:
            with process_settings(settings.runtime, deterministic=settings.trainer.deterministic), caught() as signals:
                stop = attempt.carry_out(signals, begin=begin)
        except BaseException as error:
            if isinstance(error, RunnerError):
                if not begun:
                    raise
                error.refused = False
            number = begun[0] if begun else begin()
            log.error("%s", error, exc_info=None if isinstance(error, RunnerError) else error)
            _note_end(run, number, "failed", f"{type(error).__name__}: {error}"[:500], attempt.progress)
            if not isinstance(error, ConfigError):
                saved, _ = list_checkpoints(run.checkpoints)
                newest = saved[-1] if saved else None
                report.failed(console, directory=run.path, progress=attempt.progress, newest=newest)
            raise
        (number,) = begun
        _note_end(run, number, stop.outcome, stop.reason, attempt.progress)
        return Outcome(stop, attempt.best, attempt.model)


def _in_its_run(resumption: Resumption, run: RunDir) -> Resumption:
    """A checkpoint from outside of a run, copied into the run that begins from it: that can be gone on with at once."""
    checkpoint = resumption.checkpoint
    if checkpoint.path.is_relative_to(run.path):
        return resumption
    # Here, because few runs begin so, and starting is to be quick.
    from runner.checkpoint.archive import copy
    from runner.checkpoint.fresh import reported

    own = run.checkpoints / f"step-{checkpoint.step:09d}"
    with reported(own, checkpoint.manifest.size):
        make_directory(run.checkpoints)
    return replace(resumption, checkpoint=copy(checkpoint, own))


def already_finished(run: RunDir, words: Words, settings: Settings, resumption: Resumption) -> Stop | None:
    """How the run has finished, if nothing is left to do under the limits that hold now."""
    checkpoint = resumption.checkpoint
    if "end" not in checkpoint.reasons:
        return None
    limit = limit_reached(settings.trainer, checkpoint.progress)
    if limit is not None:
        return Stop("finished", limit, 0)
    ends = [attempt for attempt in run.attempts() if attempt.reason == "early_stopping"]
    here = any(attempt.step == checkpoint.step for attempt in ends)
    waits = ("trainer.early_stopping", "monitor")
    waits_anew = "early_stopping" in words.reset or any(one.key.startswith(waits) for one in resumption.differences)
    if here and not waits_anew:
        return Stop("finished", "early_stopping", 0)
    return None


def _facts(config: Config, settings: Settings, words: Words, resumption: Resumption | None) -> dict[str, Any]:
    """What is noted about an attempt when it starts."""
    return {
        "argv": redact_overrides(sys.argv[1:]),
        "overrides": redact_overrides(config.overrides),
        "pid": os.getpid(),
        "threads": settings.runtime.threads,
        "resumed_from": None if resumption is None else resumption.checkpoint.path.name,
        "differences": [] if resumption is None else resumption.recorded,
        "reset": list(words.reset),
    }


def _note_end(run: RunDir, number: int, outcome: str, reason: str, progress: Progress) -> None:
    """A full disk must not hide how the attempt has ended: without this note it counts as stopped."""
    try:
        run.end_attempt(number, outcome, reason, progress)
    except OSError as error:
        log.warning("%s: the end of the attempt could not be noted (%s)", run.attempts_file, error.strerror)


@contextmanager
def _released(lock: RunLock) -> Iterator[None]:
    """Give back, in the end, a lock that is held already."""
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _gone_if_refused(run: RunDir) -> Iterator[None]:
    """Take back the claim of a launch that is refused inside; its directory too, if nothing else was in it."""
    in_sweep = (run.path.parent / "multirun.yaml").exists()
    others = {path.name for path in run.path.iterdir()} - {"run.json", "run.lock"}
    only_claimed = others.isdisjoint(path.name for path in (run.attempts_file, run.hydra, run.checkpoints))
    try:
        yield
    except RunnerError as error:
        if only_claimed and not in_sweep and error.refused:
            shutil.rmtree(run.checkpoints if others else run.path, ignore_errors=True)
            run.take_back()
            # The folder of its day, or the like; never the one that its user stands in.
            if not Path.cwd().is_relative_to(run.path.parent):
                with suppress(OSError):
                    run.path.parent.rmdir()
        raise
