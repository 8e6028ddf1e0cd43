"""The heart: one plain loop. What happens in a training, and in which order, stands here."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from runner.checkpoint.policies import SavePolicy, Spending, save_reasons
from runner.config.build import Training
from runner.records import Evaluating, Evaluation, Progress, Record, World
from runner.training.evaluate import EvaluationBatches, evaluate
from runner.training.plan import Trainer, evaluation_due, limit_reached, seconds_of, time_is_up
from runner.training.signals import Signals
from runner.training.state import TrainState
from runner.training.steps import steps

TIME_LIMIT = 75
"""The exit code of a run that stopped at its time limit and can go on (sysexits.h: EX_TEMPFAIL)."""

_FORGETTING = 0.9
"""Of how long a step may take, what is left after each further one."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a training has stopped. `outcome` is `finished` or `stopped`: the latter can go on as it is."""

    outcome: str
    reason: str
    exit_code: int


class Saves(Protocol):
    """What the loop asks of the one who saves: see saver.py."""

    @property
    def begun(self) -> Progress | None: ...

    @property
    def saved(self) -> Progress | None: ...

    @property
    def spending(self) -> Spending: ...

    @property
    def seconds_since_saved(self) -> float: ...

    @property
    def seconds_to_save(self) -> float: ...

    def improves(self, evaluation: Evaluation | None) -> bool: ...

    def save(self, reasons: tuple[str, ...], metrics: Mapping[str, float]) -> None: ...

    def collect(self, *, wait: bool = False) -> None: ...

    def finish(self) -> None: ...


class Loop:
    """A training from where its state stands to its end."""

    def __init__(
        self,
        training: Training,
        plan: Trainer,
        policy: SavePolicy,
        *,
        observe: Callable[[Record], None],
        saver: Saves,
        scores: Mapping[str, float],
        signals: Signals,
        began: float,
        clock: Callable[[], float] = time.monotonic,
        world: World | None = None,
        evaluates_end: bool = True,
    ) -> None:
        self.training, self.plan, self.policy = training, plan, policy
        self.observe, self.saver = observe, saver
        self.scores = scores
        """What is known of the step where the state stands: what its checkpoint carries, or its epoch's mean loss."""
        self.signals, self.clock, self.world = signals, clock, world or World()
        self.began = began
        """When the attempt began, by `clock`: the time limit counts from there."""
        self.evaluates_end = evaluates_end
        """Whether the validation split is evaluated at the end, too, where the plan does not have it due there."""
        self.epoch_began = self.stepping_since = clock()
        self.pace = 0.0
        """Seconds that a step takes at most, by the latest ones: an uncommonly long one is forgotten after a while."""

    def run(self) -> Stop:
        """Train until a limit is reached, the training stops early, time is up, or a signal asks for an end."""
        state, training = self.training.state, self.training
        if state.progress.step > 0 and (stop := self.settle()):
            return stop
        self.stepping_since = self.clock()
        for step in steps(state, training.objective, training.train, self.plan, self.world):
            self.pace = max(self.clock() - self.stepping_since, _FORGETTING * self.pace)
            self.observe(step)
            self.scores = {}
            if step.progress.batch == 0:
                epoch = state.end_epoch(seconds=self.clock() - self.epoch_began)
                self.epoch_began, self.scores = self.clock(), {"loss": epoch.loss}
                self.observe(epoch)
            if stop := self.settle():
                return stop
            self.stepping_since = self.clock()
        raise AssertionError("steps() goes on for ever")

    def settle(self) -> Stop | None:
        """Do what is due at the step where the state stands: evaluate, save, stop. A resume begins with it."""
        state, plan, saver = self.training.state, self.plan, self.saver
        saver.collect()
        limit = limit_reached(plan, state.progress)
        evaluation, test, stop = None, None, None
        ended = limit is not None and self.evaluates_end
        if self.training.validation is not None and evaluation_due(plan, state.progress, ended=ended):
            evaluation = self._evaluate("validation")
            if evaluation is None:
                stop = self._interruption()
            else:
                state.take(evaluation, schedule=plan.schedule == "evaluation")
                self.observe(evaluation)
        stop = stop or stop_reason(plan, state, limit, self._interruption())
        if stop is not None and stop.outcome == "finished" and self.training.test is not None:
            test = self._evaluate("test")
            if test is None:
                stop = self._interruption() or stop
            else:
                self.observe(test)
        if stop is not None:
            # What is under way may fail, and then the end is still to be saved.
            saver.collect(wait=True)
        reasons = save_reasons(
            self.policy,
            state.progress,
            saved=saver.begun if stop is None else saver.saved,
            seconds_since_saved=saver.seconds_since_saved,
            spending=None if self.policy.budget is None else saver.spending,
            improved=saver.improves(evaluation),
            ended=stop is not None and stop.outcome == "finished",
            stopped=None if stop is None or stop.outcome == "finished" else _reason_to_save(stop),
        )
        if test is not None and not reasons and self.policy.at_end:
            # The state is saved already, by an attempt that was stopped before it had these scores.
            reasons = ("end",)
        if reasons:
            saver.save(reasons, self._metrics(evaluation, test))
        if stop is not None:
            saver.finish()
        return stop

    def save_after_exception(self) -> None:
        """Save the last whole state. Does nothing if a step is half done: the last checkpoint is what there is then."""
        state, saver = self.training.state, self.saver
        saver.collect(wait=True)
        if state.whole and (saver.saved is None or state.progress.step > saver.saved.step):
            saver.save(("exception",), self._metrics(None, None))
            saver.finish()

    def _evaluate(self, split: str) -> Evaluation | None:
        batches = self.training.validation if split == "validation" else self.training.test
        assert batches is not None
        return evaluate(
            self.training.state,
            self.training.objective,
            _Watched(batches, lambda done: self._look_at_evaluation(split, done, batches.num_batches)),
            split=split,
            weights=self.plan.evaluate.weights,
            precision=self.plan.precision,
            interrupted=lambda: self._interruption() is not None,
            world=self.world,
        )

    def _look_at_evaluation(self, split: str, done: int, num_batches: int | None) -> None:
        self.observe(Evaluating(self.training.state.progress, split, done, num_batches))

    def _interruption(self) -> Stop | None:
        """What asks for an end before the training has come to its own: a signal, or the time limit."""
        if self.signals.received is not None:
            return Stop("stopped", self.signals.received.name, self.signals.exit_code)
        if self.plan.max_time is not None:
            limit, elapsed = seconds_of(self.plan.max_time), self.clock() - self.began
            if time_is_up(limit, elapsed, step=self.pace, save=self.saver.seconds_to_save):
                return Stop("stopped", "max_time", TIME_LIMIT)
        return None

    def _metrics(self, evaluation: Evaluation | None, test: Evaluation | None) -> dict[str, float]:
        """What a checkpoint carries: the scores of its own step, or none."""
        state = self.training.state
        metrics = {"loss": state.epoch_loss.value(), **self.scores, "lr": state.lr}
        for measured in (evaluation, test):
            metrics |= {} if measured is None else dict(measured.metrics)
        return metrics


def _reason_to_save(stop: Stop) -> str:
    return "time" if stop.exit_code == TIME_LIMIT else "signal"


def stop_reason(plan: Trainer, state: TrainState, limit: str | None, interruption: Stop | None) -> Stop | None:
    """Why the training stops now, or None. A signal asks for an end at once; the time limit is for what would go on."""
    if interruption is not None and interruption.exit_code != TIME_LIMIT:
        return interruption
    if limit is not None:
        return Stop("finished", limit, 0)
    if plan.early_stopping.patience is not None and state.waited >= plan.early_stopping.patience:
        return Stop("finished", "early_stopping", 0)
    return interruption


class _Watched:
    """Batches of a split; `look` is told how many of them are done."""

    def __init__(self, batches: EvaluationBatches, look: Callable[[int], None]) -> None:
        self.batches, self.look = batches, look

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for done, batch in enumerate(self.batches.epoch(epoch, start)):
            self.look(done)
            yield batch
