"""The best value of the monitored metric, and what is better than what."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Best:
    """The best value of the monitored metric so far, and where it was measured."""

    metric: str
    value: float
    step: int


def is_better(value: float, than: float | None, mode: str, margin: float = 0.0) -> bool:
    """Whether `value` is better than another by more than `margin`. What is not finite is never better."""
    if not math.isfinite(value):
        return False
    if than is None:
        return True
    return value < than - margin if mode == "min" else value > than + margin
