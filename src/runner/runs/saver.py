"""Saving, as the loop sees it: one save at a time, what to do when the disk is not ready, and what it all has cost."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from runner.checkpoint.policies import Spending, improves_on
from runner.checkpoint.saving import Saving
from runner.checkpoint.store import CheckpointStore
from runner.config.schema import Checkpointing
from runner.errors import DamagedError, RunnerError, SaveError
from runner.records import Evaluation, Progress, Record, SaveFailed, SaveStats
from runner.training.state import TrainState

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

log = logging.getLogger(__name__)

POSTPONED = frozenset({"every_steps", "every_epochs", "every_seconds", "budget"})
"""The reasons that stay due until the writer is free, with `checkpoint.when_busy=skip`. All others are waited for."""

_LATEST = 8
"""By so many saves it is judged how long one may take."""


@dataclass
class Account:
    """What the saves of one attempt have come to. Times in seconds."""

    count: int = 0
    failed: int = 0
    postponed: int = 0
    written: int = 0
    stall: float = 0.0
    cost: float = 0.0
    last_cost: float | None = None
    slowest: float = 0.0
    """The longest that it took until a checkpoint was durable."""
    share: float = 0.0
    """Of the time since the training began, the part for which it stood still."""

    def add(self, stats: SaveStats) -> None:
        self.count += 1
        self.written += stats.written
        self.stall += stats.stall
        self.cost += stats.cost
        self.last_cost = stats.cost
        self.slowest = max(self.slowest, stats.seconds)

    def add_failure(self, stall: float) -> None:
        """What has failed has cost something, too: a budget must not be spent on one attempt after the other."""
        self.failed += 1
        self.stall += stall
        self.cost += stall
        self.last_cost = stall


class Saver:
    """Saves a training's state to a store, and tells `observe` what became of it.

    `begun` is where the last save stands that was begun, `saved` the last that is durable, or what was resumed from.
    `documents` and `facts` go into every checkpoint; `before` is called by the writing thread before each save.
    `clock` counts seconds; the attempt began at `began`, and the run had been trained for `seconds_before` then.
    """

    def __init__(
        self,
        store: CheckpointStore,
        state: TrainState,
        settings: Checkpointing,
        *,
        saved: Progress | None,
        documents: Mapping[str, bytes],
        facts: Mapping[str, Any],
        before: Callable[[], None],
        observe: Callable[[Record], None],
        began: float,
        seconds_before: float = 0.0,
        earlier: Sequence[float] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.state, self.settings = store, state, settings
        self.begun = self.saved = saved
        self.documents, self.facts, self.before, self.observe = documents, facts, before, observe
        self.began, self.seconds_before, self.clock = began, seconds_before, clock
        self.account = Account()
        self._training_since = self._saved_at = clock()
        self._prepared = self._postponing = False
        self._failed_in_a_row = 0
        self._durations = deque(earlier, maxlen=_LATEST)
        self._saving: Saving | None = None
        self._metrics: Mapping[str, float] = {}
        self._stall = 0.0
        self._failure: SaveError | DamagedError | None = None
        self._frozen = state.frozen_names()
        self._parameters: frozenset[str] = frozenset()
        self._hook: RemovableHandle | None = None
        if state.device.type == "cuda":
            # What is copied beside the training must be copied before the next step changes it.
            self._parameters = frozenset(name for name, _ in state.model.named_parameters(remove_duplicate=False))
            self._hook = state.optimizer.register_step_pre_hook(lambda *_: self._hold_updates())

    @property
    def spending(self) -> Spending:
        """What saving has cost so far. While a save is under way, nobody knows what it costs: none is affordable."""
        last = math.inf if self._saving is not None else self.account.last_cost
        return Spending(self.account.cost, last, self.clock() - self._training_since)

    @property
    def seconds_since_saved(self) -> float:
        """Since the last save was durable; while one is under way, since that began."""
        return self.clock() - self._saved_at

    @property
    def seconds_to_save(self) -> float:
        """What a save may take from now on, by the latest ones; 0 before there was any. One under way comes first."""
        slowest = max(self._durations, default=0.0)
        return slowest if self._saving is None else 2 * slowest

    def improves(self, evaluation: Evaluation | None) -> bool:
        """Whether this is the best evaluation ever, and by more than `min_delta` better than what is saved."""
        monitor = self.state.monitor
        if evaluation is None or not evaluation.improved or monitor is None:
            return False
        saved = [checkpoint.metrics for checkpoint in self.store.checkpoints] + [self._metrics]
        others = [metrics[monitor.metric] for metrics in saved if monitor.metric in metrics]
        return improves_on(evaluation.metrics[monitor.metric], others, monitor.mode, self.settings.save.min_delta)

    def save(self, reasons: tuple[str, ...], metrics: Mapping[str, float]) -> None:
        """Save the state as it is. Does nothing if one is under way and these reasons can wait, as set."""
        if self.settings.when_busy == "skip" and POSTPONED.issuperset(reasons) and self._under_way():
            self._postpone()
            return
        began = time.perf_counter()
        self._postponing = False
        self.collect(wait=True)
        progress = self.state.progress
        self.begun, self._saved_at = progress, self.clock()
        try:
            self._saving = self.store.save(
                self.state.state_dict(),
                progress=progress,
                reasons=reasons,
                metrics=metrics,
                documents=self.documents,
                facts=self.facts,
                frozen=self._frozen,
                parameters=self._parameters,
                seconds=self.seconds_before + self.clock() - self.began,
                before=self.before,
            )
        except SaveError as error:
            self._note_failure(error, progress, time.perf_counter() - began)
            return
        self._metrics = metrics
        if not self.settings.asynchronous:
            self._saving.join(self.store.patience)
        self._stall = time.perf_counter() - began
        if not self.settings.asynchronous:
            self.collect(wait=True)

    def collect(self, *, wait: bool = False) -> None:
        """Tell what has become of the save that was begun, once it is durable; with `wait`, wait for that.

        The first time, it lets the store prepare its memory: before the first step the optimizer has no state yet.
        Raises what a save failed with, unless `checkpoint.on_failure` is `continue`.
        """
        if not self._prepared:
            self._prepared = True
            try:
                self.store.prepare(self.state.state_dict(), frozen=self._frozen)
            except SaveError as error:
                self._note_failure(error, self.state.progress, 0.0)
        saving = self._saving
        if saving is None or not (wait or saving.done):
            return
        self._saving, self._metrics = None, {}
        try:
            saved = saving.wait(self.store.patience)
        except (SaveError, DamagedError) as error:
            if not saving.done:
                # It may still be told of, should the disk answer after all.
                self._saving = saving
            self._note_failure(error, saving.progress, self._stall)
            return
        self._failure = None
        if self._failed_in_a_row:
            log.warning("step %d is saved; before it, %d could not be", saved.progress.step, self._failed_in_a_row)
            self._failed_in_a_row = 0
        self.saved, self._saved_at = saved.progress, self.clock()
        cost = self._stall if not self.settings.asynchronous else self._stall + saved.stats.cost - saved.stats.stall
        elapsed = self.clock() - self._training_since
        stats = replace(saved.stats, stall=self._stall, cost=cost)
        self.account.add(stats)
        self._durations.append(stats.seconds)
        self.account.share = self.account.stall / elapsed if elapsed > 0 else 0.0
        self.observe(replace(saved, stats=replace(stats, share=self.account.share)))

    def finish(self) -> None:
        """Wait until nothing is under way. Raises what the last save failed with: the end must be saved."""
        self.collect(wait=True)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Wait, but not for ever, for what is under way while something else has gone wrong. Logs what has failed."""
        if self._hook is not None:
            self._hook.remove()
        if self._saving is None:
            return
        try:
            self.finish()
        except (RunnerError, OSError, RuntimeError) as error:
            # torch's own errors, of a device that is lost, are RuntimeErrors.
            log.error("%s", error)

    def _under_way(self) -> bool:
        return self._saving is not None and not self._saving.done

    def _postpone(self) -> None:
        if self._postponing:
            return
        self._postponing = True
        self.account.postponed += 1
        if self.account.postponed == 1:
            log.warning(
                "step %d: the checkpoint before is still being written, so this one waits until that is done; "
                "save less often, or set checkpoint.when_busy=wait to let the training wait instead",
                self.state.progress.step,
            )

    def _note_failure(self, error: SaveError | DamagedError, progress: Progress, stall: float) -> None:
        self.account.add_failure(stall)
        if self.settings.on_failure == "stop":
            raise error
        # The first of a row is said on the terminal, the others stand in the log alone.
        level = logging.INFO if self._failed_in_a_row else logging.WARNING
        log.log(level, "step %d was not saved, and the training goes on: %s", progress.step, error)
        self._failed_in_a_row += 1
        self._failure = error
        self.observe(SaveFailed(progress, str(error)))

    def _hold_updates(self) -> None:
        if self._saving is not None:
            self._saving.hold_updates()
