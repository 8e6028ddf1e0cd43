"""A run, from a config that was found good to its last record. Read this first, then loop.py.

    prepare()   config/: compose, check, claim or find the run directory
    execute()   lock it, build, restore, train, save; leave the process as it was
"""

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.store import CheckpointStore
from runner.config.build import Training, build, instantiate
from runner.config.check import Settings
from runner.config.composing import Config
from runner.config.documents import documents, write_hydra_files
from runner.config.prepare import prepare
from runner.config.resume import Resumption
from runner.config.secrets import redact_overrides
from runner.config.words import Words
from runner.errors import DamagedError, ResumeError, RunnerError
from runner.lock import RunLock
from runner.metrics_file import MetricsFile, read_metrics
from runner.records import Ended, Progress, Record, Saved, Started
from runner.rundir import RunDir
from runner.runs import provenance, report
from runner.runs.environment import process_settings
from runner.runs.loop import Loop, Stop
from runner.runs.observers.observers import Observer, Observers
from runner.runs.observers.progress import ProgressDisplay
from runner.runs.records_file import RecordsFile
from runner.runs.restoring import restore
from runner.training.plan import limit_reached
from runner.training.signals import Signals, caught

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
    model = outcome.model if outcome.model is not None else load(ready.run.path)
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
            _tell(console, note)
        if resumption is not None and (done := _already_finished(run, settings, resumption)):
            report.say(console, f"{run.path}: finished ({done.reason}) at step {resumption.checkpoint.step}; nothing to do")
            report.say(console, f"to go on: {report.resume_command(run.path, finished=True)}")
            return Outcome(done, _best_value(resumption.checkpoint), None)
        facts = _attempt_facts(config, words, resumption)
        attempt = run.begin_attempt(facts)
        write_hydra_files(run, attempt, config)
        progress = Progress() if resumption is None else resumption.checkpoint.progress
        try:
            with process_settings(settings.runtime, deterministic=settings.trainer.deterministic), caught() as signals:
                return _Attempt(config, settings, run, resumption, words, attempt, console, signals).carry_out()
        except BaseException as error:
            run.end_attempt(attempt, "failed", f"{type(error).__name__}: {error}"[:500], progress)
            if not isinstance(error, RunnerError):
                log.error("failed", exc_info=error)
            else:
                log.error("%s", error)
            raise


class _Attempt:
    """One attempt, from building to the end. Holds what its steps share; `carry_out` says in which order they come."""

    def __init__(
        self,
        config: Config,
        settings: Settings,
        run: RunDir,
        resumption: Resumption | None,
        words: Words,
        number: int,
        console: Console,
        signals: Signals,
    ) -> None:
        self.config, self.settings, self.run, self.resumption = config, settings, run, resumption
        self.words, self.number, self.console, self.signals = words, number, console, signals
        self.began = time.monotonic()
        self.seconds_before = 0.0 if resumption is None else resumption.checkpoint.manifest.seconds

    def carry_out(self) -> Outcome:
        settings, run = self.settings, self.run
        overridden = self.config.overrides if self.resumption is None else self.resumption.overrides
        report.start(self.console, settings.name, run.path, self.config.resolved, _typed_keys(overridden))
        with ExitStack() as ending:
            training = build(self.config.resolved, settings, seed=settings.seed)
            ending.callback(training.close)
            for note in training.notes:
                _tell(self.console, note)
            report.model_summary(self.console, training)
            batch_size = self.config.resolved["data"]["batch_size"]
            report.say(self.console, report.plan_line(training, batch_size=batch_size), style="dim")
            store = CheckpointStore(run.checkpoints, run=run.id, keep=settings.checkpoint.keep, monitor=settings.monitor)
            restored = None if self.resumption is None else self._restore(training, store, self.resumption)
            code = provenance.keep_code(run.code / f"{self.number:03d}")
            ending.callback(code.join)
            return self._train(training, store, restored, ending)

    def _train(
        self, training: Training, store: CheckpointStore, restored: Checkpoint | None, ending: ExitStack
    ) -> Outcome:
        settings, run, state = self.settings, self.run, training.state
        records = ending.enter_context(MetricsFile(run.metrics, self.number))
        records.start(state.progress.step)
        file = RecordsFile(records, log_every=settings.trainer.log_every)
        observers = Observers(self._observers())
        ending.callback(observers.close)

        def observe(record: Record) -> None:
            file.observe(record)
            observers.observe(record)

        saved_documents = documents(self.config)
        facts = self._checkpoint_facts(training)

        def save(reasons: tuple[str, ...], metrics: Mapping[str, float]) -> Saved:
            records.sync()
            tree = state.state_dict()
            saved = store.save(
                tree,
                progress=state.progress,
                reasons=reasons,
                metrics=metrics,
                documents=saved_documents,
                facts=facts,
                frozen=state.frozen_names(),
                seconds=self.seconds_before + time.monotonic() - self.began,
            )
            if settings.checkpoint.read_back:
                _read_back(saved.path, tree)
            return saved

        started = Started(
            state.progress,
            self.number,
            settings.name,
            training.horizon.total_steps,
            training.horizon.steps_per_epoch,
            run.path,
            self.config.resolved,
        )
        observe(started)
        loop = Loop(
            training,
            settings.trainer,
            settings.checkpoint.save,
            observe=observe,
            save=save,
            saved=None if restored is None else restored.progress,
            loss=None if restored is None else restored.metrics.get("loss"),
            signals=self.signals,
        )
        try:
            stop = loop.run()
        except RunnerError:
            raise
        except Exception:
            # The user's own code has failed between two steps, say in reading a batch: what is whole is not lost.
            loop.save_after_exception()
            raise
        observe(Ended(state.progress, stop.outcome, stop.reason))
        run.end_attempt(self.number, stop.outcome, stop.reason, state.progress)
        self._report_end(stop, training, store)
        return Outcome(stop, None if state.best is None else state.best.value, state.model)

    def _restore(self, training: Training, store: CheckpointStore, resumption: Resumption) -> Checkpoint:
        """Load the newest whole state into the training, and set aside what is newer. Says what came of it."""
        checkpoint = resumption.checkpoint
        saved = checkpoint.state()
        notes = restore(
            training,
            saved,
            changed=[difference.key for difference in resumption.differences],
            reset=frozenset(self.words.reset),
        )
        notes += self._machine_differences(checkpoint, training)
        store.protect(checkpoint)
        for moved in store.set_aside(checkpoint, self.number):
            notes.append(f"{moved.name} is newer and was set aside: {moved}")
        at = checkpoint.progress
        _tell(self.console, f"resumed from {checkpoint.path} (step {at.step}, epoch {at.epoch}, batch {at.batch})")
        report.differences(self.console, resumption.differences)
        for note in notes:
            _tell(self.console, f"not as it was: {note}")
        return checkpoint

    def _machine_differences(self, checkpoint: Checkpoint, training: Training) -> list[str]:
        """What makes a resume inexact: another device, other threads, other versions, other data."""
        now, notes = self._checkpoint_facts(training), []
        for key in ("device", "device_name", "cpu_capability", "threads", "versions", "data"):
            saved = checkpoint.manifest.facts.get(key)
            if saved != now[key]:
                notes.append(f"{key}: {saved} then, {now[key]} now; the numbers may differ from an uninterrupted run's")
        return notes

    def _checkpoint_facts(self, training: Training) -> dict[str, Any]:
        code = {"code": f"code/{self.number:03d}", "attempt": self.number, "data": training.data.fingerprint}
        return provenance.machine_facts(training.state.device) | code

    def _observers(self) -> dict[str, Observer]:
        nodes = self.config.resolved["observers"] or {}
        made: dict[str, Observer] = {}
        if self.settings.runtime.progress:
            made["progress"] = ProgressDisplay(self.console, bar=True)
        for name, node in nodes.items():
            made[name] = instantiate(node, f"observers.{name}")
        return made

    def _report_end(self, stop: Stop, training: Training, store: CheckpointStore) -> None:
        state, best = training.state, training.state.best
        newest = store.newest
        report.end(
            self.console,
            stop,
            directory=self.run.path,
            step=state.progress.step,
            epoch=state.progress.epoch,
            seconds=time.monotonic() - self.began,
            best=None if best is None else f"{best.metric} {best.value:.4f} at step {best.step}",
            newest="none" if newest is None else newest.path.name,
        )


def _already_finished(run: RunDir, settings: Settings, resumption: Resumption) -> Stop | None:
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


def _best_value(checkpoint: Checkpoint) -> float | None:
    best = checkpoint.state()["best"]
    return None if best is None else float(best["value"])


def _read_back(path: Path, tree: Mapping[str, Any]) -> None:
    from runner.checkpoint.tree import flatten

    then, now = flatten(tree), flatten(Checkpoint.open(path).state())
    same = then[0] == now[0] and then[1].keys() == now[1].keys()
    if not same or any(not torch.equal(then[1][name].cpu(), now[1][name]) for name in then[1]):
        raise DamagedError(f"{path}: what was read back is not what was written; check the disk")


def _attempt_facts(config: Config, words: Words, resumption: Resumption | None) -> dict[str, Any]:
    import socket
    import os

    resumed = None if resumption is None else str(resumption.checkpoint.path.name)
    changed = [] if resumption is None else [vars_of(difference) for difference in resumption.differences]
    return {
        "argv": redact_overrides(sys.argv[1:]),
        "overrides": redact_overrides(config.overrides),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "resumed_from": resumed,
        "differences": changed,
    }


def vars_of(difference: Any) -> dict[str, Any]:
    return {"key": difference.key, "saved": difference.saved, "now": difference.now, "kind": difference.kind}


def _typed_keys(overrides: Sequence[str]) -> frozenset[str]:
    return frozenset(override.partition("=")[0].lstrip("+~").split("@")[0].replace("/", ".") for override in overrides)


def _tell(console: Console, line: str) -> None:
    report.say(console, line)
    log.info("%s", line)


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Everything that the package logs goes to the run's log inside; warnings to the terminal too."""
    package = logging.getLogger("runner")
    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    to_terminal = logging.StreamHandler()
    to_terminal.setLevel(logging.WARNING)
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
