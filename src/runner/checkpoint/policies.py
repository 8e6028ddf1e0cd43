"""When to save and what to keep: pure functions from records to decisions. No clock, no directory, no torch.

The two policies double as the schema of `checkpoint.save` and `checkpoint.keep` in the config, so they hold no values.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.records import Monitor, Progress


@dataclass
class SavePolicy:
    """When to save; any rules together. `every_steps: n` is due when `step // n` has grown since the last save."""

    every_steps: int | None
    every_epochs: int | None
    every_seconds: float | None
    """Counted from the last durable save."""
    on_improvement: bool
    """When the monitored metric is better than ever before in the run."""
    at_end: bool

    def __post_init__(self) -> None:
        _check_count(self.every_steps, "checkpoint.save.every_steps")
        _check_count(self.every_epochs, "checkpoint.save.every_epochs")
        seconds = self.every_seconds
        if seconds is not None and not 0 < seconds < math.inf:
            raise ValueError(f"checkpoint.save.every_seconds is {seconds!r}; wanted a number above 0, or null")


@dataclass
class KeepPolicy:
    """What to keep: the union of the rules, and always the newest. With every rule null, all is kept."""

    last: int | None
    """The newest n."""
    best: Any
    """The best n by the monitored metric, or by several: `{val_loss: {mode: min, n: 2}}`."""
    every_steps: int | None
    """The first checkpoint of every n steps."""

    def __post_init__(self) -> None:
        _check_count(self.last, "checkpoint.keep.last")
        _check_count(self.every_steps, "checkpoint.keep.every_steps")
        if not isinstance(self.best, Mapping):
            _check_count(self.best, "checkpoint.keep.best")
            return
        for metric, rule in self.best.items():
            where = f"checkpoint.keep.best.{metric}"
            if not isinstance(rule, Mapping) or set(rule) != {"mode", "n"}:
                raise ValueError(f"{where} is {rule!r}; wanted {{mode: min|max, n: a whole number from 1}}")
            if rule["mode"] not in ("min", "max"):
                raise ValueError(f"{where}.mode is {rule['mode']!r}; wanted min or max")
            if rule["n"] is None:
                raise ValueError(f"{where}.n is None; wanted a whole number from 1")
            _check_count(rule["n"], f"{where}.n")


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint as a keep policy sees it. `metrics` are those of its own step."""

    generation: int
    progress: Progress
    metrics: Mapping[str, float]
    created: str
    protected: bool


def save_reasons(
    policy: SavePolicy,
    progress: Progress,
    *,
    saved: Progress | None,
    seconds_since_saved: float,
    improved: bool,
    ended: bool,
    stopped: str | None,
) -> tuple[str, ...]:
    """Why a checkpoint is due now; empty when none is. `saved` is where the last save stood.

    `stopped` is what stops the run before its end (`signal`, `time`): it is a reason of its own.
    """
    last = Progress() if saved is None else saved
    if progress == last:
        return ()
    reasons = []
    if _passed(policy.every_steps, last.step, progress.step):
        reasons.append("every_steps")
    if _passed(policy.every_epochs, last.epoch, progress.epoch):
        reasons.append("every_epochs")
    if policy.every_seconds is not None and seconds_since_saved >= policy.every_seconds:
        reasons.append("every_seconds")
    if policy.on_improvement and improved:
        reasons.append("improvement")
    if policy.at_end and ended:
        reasons.append("end")
    if stopped is not None:
        reasons.append(stopped)
    return tuple(reasons)


def kept(policy: KeepPolicy, records: Sequence[Kept], monitor: Monitor | None) -> frozenset[int]:
    """The generations to keep. Raises ValueError when `best` is a number and there is no metric to judge by."""
    by_age = sorted(records, key=lambda record: record.generation)
    if policy.last is None and policy.best is None and policy.every_steps is None:
        return frozenset(record.generation for record in by_age)
    keep = {record.generation for record in by_age if record.protected}
    keep |= {record.generation for record in by_age[-(policy.last or 1) :]}
    for judge, n in best_rules(policy, monitor):
        keep |= {record.generation for record in best_first(by_age, judge)[:n]}
    if policy.every_steps is not None:
        keep |= _first_of_every(policy.every_steps, by_age)
    return frozenset(keep)


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


def _first_of_every(n: int, by_age: Sequence[Kept]) -> set[int]:
    first: dict[int, Kept] = {}
    for record in by_age:
        window = record.progress.step // n
        # A later generation of the same step stands for it: it was written because the earlier one was no good.
        if window > 0 and (window not in first or record.progress.step <= first[window].progress.step):
            first[window] = record
    return {record.generation for record in first.values()}


def _passed(every: int | None, before: int, now: int) -> bool:
    return every is not None and now // every > before // every


def _check_count(value: object, key: str) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{key} is {value!r}; wanted a whole number from 1, or null")
