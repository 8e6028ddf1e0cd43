"""When to save and what to keep: pure functions from records to decisions. No clock, no directory, no torch.

The two policies double as the schema of `checkpoint.save` and `checkpoint.keep` in the config, so they hold no values.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.records import Monitor, Progress


@dataclass
class SavePolicy:
    """When to save; any rules together. `every_steps: n` is due when `step // n` has grown since the last save."""

    every_steps: int | None
    at_steps: list[int] | None
    every_epochs: int | None
    every_seconds: float | None
    """Counted from the last durable save."""
    budget: float | None
    """As often as saving costs at most this many percent of the time."""
    on_improvement: bool
    """When the monitored metric is better than ever before in the run."""
    min_delta: float
    """By how much an improvement must be better than the best checkpoint that is there."""
    at_end: bool

    def __post_init__(self) -> None:
        _refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        yield from _count(self.every_steps, "checkpoint.save.every_steps")
        steps = self.at_steps
        if steps is not None and not (steps and all(type(step) is int and step >= 1 for step in steps)):
            yield f"checkpoint.save.at_steps is {steps!r}; wanted a list of whole numbers from 1, or null"
        yield from _count(self.every_epochs, "checkpoint.save.every_epochs")
        yield from _positive(self.every_seconds, "checkpoint.save.every_seconds")
        if self.budget is not None and not 0 < self.budget <= 100:
            yield f"checkpoint.save.budget is {self.budget!r}; wanted a percentage in (0, 100], or null"
        if not 0 <= self.min_delta < math.inf:
            yield f"checkpoint.save.min_delta is {self.min_delta!r}; wanted a number from 0"


@dataclass
class KeepPolicy:
    """What to keep: the union of the rules, and always the newest. With every rule null, all is kept."""

    last: int | None
    """The newest n."""
    best: Any
    """The best n by the monitored metric, or by several: `{val_loss: {mode: min, n: 2}}`."""
    every_steps: int | None
    """The first checkpoint of every n steps."""
    every_hours: float | None
    """The first checkpoint of every n hours of training, counted over all attempts."""

    def __post_init__(self) -> None:
        _refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        yield from _count(self.last, "checkpoint.keep.last")
        if self.best == {}:
            yield "checkpoint.keep.best is {}; wanted a number, rules by metric, or null"
        elif isinstance(self.best, Mapping):
            for metric, rule in self.best.items():
                yield from _problems_of_rule(rule, f"checkpoint.keep.best.{metric}")
        else:
            yield from _count(self.best, "checkpoint.keep.best")
        yield from _count(self.every_steps, "checkpoint.keep.every_steps")
        yield from _positive(self.every_hours, "checkpoint.keep.every_hours")


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint as a keep policy sees it. `metrics` are those of its own step."""

    generation: int
    progress: Progress
    metrics: Mapping[str, float]
    seconds: float
    """For how long the run had trained, over all attempts: no clock that jumps changes it."""
    protected: bool


@dataclass(frozen=True, slots=True)
class Spending:
    """What saving has cost an attempt, in seconds: all together, the last time, and of how many in all."""

    spent: float
    last: float | None
    """None before the first save."""
    elapsed: float


def save_reasons(
    policy: SavePolicy,
    progress: Progress,
    *,
    saved: Progress | None,
    seconds_since_saved: float,
    spending: Spending | None,
    improved: bool,
    ended: bool,
    stopped: str | None,
) -> tuple[str, ...]:
    """Why a checkpoint is due now; empty when none is. `saved` is where the last save stood.

    `spending` is for a budget alone. `stopped` is what stops the run before its end (`signal`, `time`): it is a reason
    of its own.
    """
    last = Progress() if saved is None else saved
    if progress == last:
        return ()
    reasons = []
    if _passed(policy.every_steps, last.step, progress.step):
        reasons.append("every_steps")
    if policy.at_steps is not None and any(last.step < step <= progress.step for step in policy.at_steps):
        reasons.append("at_steps")
    if _passed(policy.every_epochs, last.epoch, progress.epoch):
        reasons.append("every_epochs")
    if policy.every_seconds is not None and seconds_since_saved >= policy.every_seconds:
        reasons.append("every_seconds")
    if policy.budget is not None and spending is not None and _affordable(policy.budget, spending):
        reasons.append("budget")
    if policy.on_improvement and improved:
        reasons.append("improvement")
    if policy.at_end and ended:
        reasons.append("end")
    if stopped is not None:
        reasons.append(stopped)
    return tuple(reasons)


def improves_on(value: float, others: Iterable[float], mode: str, min_delta: float) -> bool:
    """Whether a metric's `value` is better than each of the others, and by more than `min_delta`.

    A value that is not finite improves on nothing, and is nothing to improve on.
    """
    sign = 1.0 if mode == "min" else -1.0
    rivals = [sign * other for other in others if math.isfinite(other)]
    return math.isfinite(value) and (not rivals or min(rivals) - sign * value > min_delta)


def kept(policy: KeepPolicy, records: Sequence[Kept], monitor: Monitor | None) -> frozenset[int]:
    """The generations to keep. Raises ValueError when `best` is a number and there is no metric to judge by."""
    return frozenset(why_kept(policy, records, monitor))


def why_kept(policy: KeepPolicy, records: Sequence[Kept], monitor: Monitor | None) -> dict[int, tuple[str, ...]]:
    """The generations to keep, the oldest first, and by which rules each. Raises ValueError as `kept` does."""
    by_age = sorted(records, key=lambda record: record.generation)
    if (policy.last, policy.best, policy.every_steps, policy.every_hours) == (None, None, None, None):
        return {record.generation: ("no rule is set",) for record in by_age}
    rules = [("newest", by_age[-1:])]
    if policy.last is not None:
        rules.append((f"last {policy.last}", by_age[-policy.last :]))
    for judge, n in best_rules(policy, monitor):
        rules.append(
            (f"best {n} by {judge.metric}" if n > 1 else f"best by {judge.metric}", best_first(by_age, judge)[:n])
        )
    if policy.every_steps is not None:
        n = policy.every_steps
        rules.append((f"every {n} steps", _first_of_every(n, by_age, [record.progress.step for record in by_age])))
    if policy.every_hours is not None:
        hours = policy.every_hours
        rules.append((f"every {hours:g} hours", _first_of_every(hours * 3600, by_age, [r.seconds for r in by_age])))
    rules.append(("protected", [record for record in by_age if record.protected]))
    why: dict[int, list[str]] = {}
    for rule, chosen in rules:
        for record in chosen:
            why.setdefault(record.generation, []).append(rule)
    return {generation: tuple(why[generation]) for generation in sorted(why)}


def best_rules(policy: KeepPolicy, monitor: Monitor | None) -> list[tuple[Monitor, int]]:
    """By which metrics, and how many by each, `policy.best` keeps."""
    if policy.best is None:
        return []
    if isinstance(policy.best, Mapping):
        return [(Monitor(metric, rule["mode"]), rule["n"]) for metric, rule in policy.best.items()]
    if monitor is None:
        raise ValueError(
            f"checkpoint.keep.best is {policy.best!r} and there is no monitor to judge by; "
            "set monitor.metric and monitor.mode, or checkpoint.keep.best=null"
        )
    return [(monitor, policy.best)]


def best_first(records: Sequence[Kept], monitor: Monitor) -> list[Kept]:
    """Those that have a finite value of the metric, the best first; of equals the one that came first."""
    ranked = [record for record in records if math.isfinite(record.metrics.get(monitor.metric, math.nan))]
    sign = 1.0 if monitor.mode == "min" else -1.0
    return sorted(ranked, key=lambda record: (sign * record.metrics[monitor.metric], record.generation))


def _first_of_every(length: float, by_age: Sequence[Kept], where: Sequence[float]) -> list[Kept]:
    """The first record of each window of this length, none of what is before the first whole one.

    `where` says where each stands, in steps or seconds.
    """
    first: dict[float, Kept] = {}
    for record, place in zip(by_age, where, strict=True):
        window = place // length
        # A later generation of the same step stands for it: it was written because the earlier one was no good.
        if window > 0 and (window not in first or record.progress.step <= first[window].progress.step):
            first[window] = record
    return list(first.values())


def _affordable(budget: float, spending: Spending) -> bool:
    """Another save, as dear as the last, stays within so many percent. The first is made to learn what one costs."""
    return spending.last is None or spending.spent + spending.last <= budget / 100 * spending.elapsed


def _passed(every: int | None, before: int, now: int) -> bool:
    return every is not None and now // every > before // every


def _refuse(problems: Iterable[str]) -> None:
    """Raise ValueError with every problem that there is, a line each."""
    if found := list(problems):
        raise ValueError("\n".join(found))


def _problems_of_rule(rule: object, key: str) -> Iterator[str]:
    if not isinstance(rule, Mapping) or set(rule) != {"mode", "n"}:
        yield f"{key} is {rule!r}; wanted {{mode: min|max, n: a whole number from 1}}"
        return
    if rule["mode"] not in ("min", "max"):
        yield f"{key}.mode is {rule['mode']!r}; wanted min or max"
    if rule["n"] is None:
        yield f"{key}.n is None; wanted a whole number from 1"
    yield from _count(rule["n"], f"{key}.n")


def _count(value: object, key: str) -> Iterator[str]:
    if value is not None and (type(value) is not int or value < 1):
        yield f"{key} is {value!r}; wanted a whole number from 1, or null"


def _positive(value: float | None, key: str) -> Iterator[str]:
    if value is not None and not 0 < value < math.inf:
        yield f"{key} is {value!r}; wanted a number above 0, or null"
