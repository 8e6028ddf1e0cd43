"""One attempt on a run: build everything, restore it if there is something to go on from, train, save, report."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rich.console import Console

from runner.checkpoint.store import CheckpointStore
from runner.collector import collector_paused, collector_resting
from runner.config.build import Training, build
from runner.config.check import Settings
from runner.config.composing import Config
from runner.config.documents import documents
from runner.config.nodes import instantiate
from runner.config.resume import Resumption
from runner.config.secrets import redact_overrides
from runner.config.words import Words
from runner.data.position import cut_of
from runner.errors import RunnerError, SaveError
from runner.metrics_file import MetricsFile, latest
from runner.records import Ended, Progress, Record, Started, Step
from runner.rundir import RunDir
from runner.runs import provenance, report
from runner.runs.loop import Loop, Stop
from runner.runs.observers.memory import Memory
from runner.runs.observers.observers import Observer, Observers
from runner.runs.observers.progress import ProgressDisplay
from runner.runs.records_file import RecordsFile
from runner.runs.restoring import Restored, past_of, restore
from runner.runs.saved_state import saved_state
from runner.runs.saver import Account, Saver
from runner.runs.source_code import changed_source, keep_source
from runner.runs.writing import check_writable, reported
from runner.training.signals import Signals

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


class Attempt:
    """What the steps of one attempt share. `carry_out` says in which order they come."""

    def __init__(
        self,
        config: Config,
        settings: Settings,
        run: RunDir,
        words: Words,
        resumption: Resumption | None,
        console: Console,
        software: Mapping[str, Any],
        *,
        watch: Observer | None = None,
    ) -> None:
        """`watch` looks on beside the observers that the config asks for."""
        self.config, self.settings, self.run, self.watch = config, settings, run, watch
        self.words, self.resumption, self.console, self.software = words, resumption, console, software
        self.began = time.monotonic()
        self.seconds_before = 0.0 if resumption is None else resumption.checkpoint.manifest.seconds
        self.training: Training | None = None
        self.account = Account()
        self.skipped = 0
        """Steps that were left out because loss or gradients were not finite."""

    @property
    def progress(self) -> Progress:
        """How far the run has come."""
        if self.training is not None:
            return self.training.state.progress
        return Progress() if self.resumption is None else self.resumption.checkpoint.progress

    @property
    def best(self) -> float | None:
        """The best value of the monitored metric so far."""
        best = None if self.training is None else self.training.state.best
        return None if best is None else best.value

    @property
    def model(self) -> "nn.Module | None":
        return None if self.training is None else self.training.state.model

    def carry_out(self, signals: Signals, *, begin: Callable[[], int]) -> Stop:
        """Build and restore, train, report.

        Building and restoring may refuse the launch, so nothing is written before: then `begin` notes that the attempt
        begins, and gives its number.
        """
        settings, console = self.settings, self.console
        check_writable(self.run)
        typed = self.config.overrides if self.resumption is None else self.resumption.overrides
        report.start(console, settings.name, self.run.path, self.config.resolved, typed)
        with ExitStack() as ending:
            with collector_paused():
                past = None if self.resumption is None else past_of(self.resumption.checkpoint)
                training = build(self.config.resolved, settings, seed=settings.seed, past=past)
            ending.callback(training.close)
            self.training = training
            for note in training.notes:
                report.tell(console, note)
            if self.resumption is None and settings.initial is not None:
                # Here, because few runs begin so, and starting is to be quick.
                from runner.runs.initial import initialize

                for line in initialize(training.state, settings.initial):
                    report.tell(console, line)
            restored = None if self.resumption is None else self._restore(training, self.resumption)
            # One that cannot be built refuses the launch, too.
            observers = Observers(self._observers(), Memory(self.run.observers))
            ending.callback(observers.close)
            report.model_summary(console, training, batch_size=self.config.resolved["data"]["batch_size"])
            number = begin()
            code = self.run.code / f"{number:03d}"
            # Before anything is moved: a full disk shows here.
            with reported(code):
                ending.enter_context(provenance.kept_git(code))
                keep_source(code)
            with reported(self.run.metrics):
                metrics_file = ending.enter_context(MetricsFile(self.run.metrics, number))
            store = CheckpointStore(
                self.run.checkpoints,
                run=self.run.id,
                keep=settings.checkpoint.keep,
                monitor=settings.monitor,
                name=settings.checkpoint.name,
                read_back=settings.checkpoint.read_back,
            )
            ending.callback(store.close)
            facts = self._facts(training, number)
            if self.resumption is not None and restored is not None:
                self._take_up(training, store, self.resumption, number=number, facts=facts, restored=restored)
            ending.enter_context(collector_resting())
            records = RecordsFile(
                metrics_file,
                log_every=settings.trainer.log_every,
                go_on=settings.checkpoint.on_failure == "continue",
            )
            stop = self._train(training, store, number, facts, signals, records, observers)
        report.end(
            console,
            stop,
            directory=self.run.path,
            state=training.state,
            seconds=time.monotonic() - self.began,
            newest=store.newest,
            skipped=self.skipped,
            account=self.account,
            made=observers.made,
        )
        return stop

    def _train(
        self,
        training: Training,
        store: CheckpointStore,
        number: int,
        facts: Mapping[str, Any],
        signals: Signals,
        records: RecordsFile,
        observers: Observers,
    ) -> Stop:
        settings, state = self.settings, training.state
        restored = None if self.resumption is None else self.resumption.checkpoint
        durations = [saved.get("seconds") for saved in latest(self.run.metrics, "saved")]
        earlier = [float(seconds) for seconds in durations if isinstance(seconds, int | float)]
        records.start(state.progress)

        def observe(record: Record) -> None:
            if isinstance(record, Step) and record.skipped:
                self._note_skipped(record)
            records.observe(record)
            observers.observe(record)

        saver = Saver(
            store,
            state,
            settings.checkpoint,
            saved=None if restored is None else restored.progress,
            documents=documents(self.config),
            facts=facts,
            before=records.sync,
            observe=observe,
            began=self.began,
            seconds_before=self.seconds_before,
            earlier=earlier,
        )
        ends = training.horizon
        observe(
            Started(
                state.progress,
                number,
                settings.name,
                ends.total_steps,
                ends.steps_per_epoch,
                self.run.path,
                self.config.resolved,
            )
        )
        loop = Loop(
            training,
            settings.trainer,
            settings.checkpoint.save,
            observe=observe,
            saver=saver,
            scores={} if restored is None else restored.metrics,
            signals=signals,
            began=self.began,
        )
        try:
            stop = loop.run()
        except SaveError:
            raise
        except Exception:
            # Where it has come between two steps, say from reading a batch, what is whole is not lost.
            try:
                loop.save_after_exception()
            except RunnerError as error:
                log.warning("after the failure nothing could be saved: %s", error)
            raise
        finally:
            # Whatever has happened: what is under way is still written, and its records with it.
            saver.close()
            self.account = saver.account
        observe(Ended(state.progress, stop.outcome, stop.reason))
        return stop

    def _note_skipped(self, step: Step) -> None:
        self.skipped += 1
        if self.skipped == 1:
            at = step.progress
            log.warning(
                "after step %d (epoch %d, batch %d): loss or gradients are not finite, so the step is left out; "
                "the end of the run says how often",
                at.step,
                at.epoch,
                at.batch,
            )

    def _restore(self, training: Training, resumption: Resumption) -> Restored:
        """Load the checkpoint's state into the training."""
        checkpoint = resumption.checkpoint
        return restore(
            training,
            saved_state(checkpoint),
            changed=[difference.key for difference in resumption.differences],
            reset=self.words.reset,
            cut=cut_of(checkpoint.manifest.facts.get("batches")),
        )

    def _take_up(
        self,
        training: Training,
        store: CheckpointStore,
        resumption: Resumption,
        *,
        number: int,
        facts: Mapping[str, Any],
        restored: Restored,
    ) -> None:
        """Set aside what is newer than the checkpoint, and say what came of the resume."""
        checkpoint = resumption.checkpoint
        notes = list(restored.notes)
        inexact = provenance.not_exact(checkpoint.manifest.facts, facts)
        inexact += changed_source(self.run.path / str(checkpoint.manifest.facts.get("code")))
        store.protect(checkpoint)
        for moved in store.set_aside(checkpoint, number):
            notes.append(f"{moved.name}: newer than what is resumed, and set aside in {report.short(moved.parent)}")
        report.resumed(
            self.console,
            checkpoint,
            resumption.differences,
            restored.parts,
            notes,
            inexact,
            state=training.state,
        )

    def _facts(self, training: Training, number: int) -> dict[str, Any]:
        """What a checkpoint's manifest says about where it comes from."""
        code = {"code": f"code/{number:03d}", "attempt": number}
        launch: dict[str, Any] = {"overrides": redact_overrides(self.config.overrides)}
        if self.resumption is not None:
            launch["differences"] = self.resumption.recorded
        data = provenance.data(training)
        return {**self.software, **provenance.hardware(training.state.device), **data, **code, **launch}

    def _observers(self) -> dict[str, Observer]:
        made: dict[str, Observer] = {"progress": ProgressDisplay(self.console, bar=self.settings.runtime.progress)}
        for name, node in (self.config.resolved["observers"] or {}).items():
            made[name] = instantiate(node, f"observers.{name}")
        return made if self.watch is None else {**made, "watch": self.watch}
