"""Facts about a run, as plain frozen values: what the loop yields, what observers get, what the metrics file holds.

No torch here, so that reading about runs stays cheap.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train one model together: this one's `rank` in [0, size), and how many there are."""

    rank: int = 0
    size: int = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training has come. The end of an epoch is (epoch + 1, batch 0)."""

    step: int = 0
    """Optimizer steps finished."""
    epoch: int = 0
    """Epochs finished."""
    batch: int = 0
    """Batches consumed of the unfinished epoch, counted over all ranks together."""
    samples: int = 0
    """Samples consumed, over all epochs and ranks."""
    evaluated_step: int = 0
    """The step of the last finished evaluation; 0 before the first."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """The metric by which checkpoints, plateau and early stopping judge: its name and its better direction."""

    metric: str
    mode: str
    """`min` or `max`."""


@dataclass(frozen=True, slots=True)
class Digests:
    """What went into a step and what it left, in short: who takes the step again can tell whether it is the same."""

    batches: str
    """Of the contents of the window's batches, as they came from the data."""
    generators: str
    """Of the states of the random generators after the step."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step has been finished (or skipped, where its gradients were not finite)."""

    progress: Progress
    lr: float
    """The learning rate of the first parameter group with which the step was made."""
    loss: float | None = None
    """Mean over the step's samples. None between two gathers on an accelerator, where reading it would wait."""
    grad_norm: float | None = None
    """Total norm before clipping, where it was computed and gathered."""
    skipped: bool = False
    """The update was left out because the loss or a gradient was not finite."""
    digests: Digests | None = None
    """None between two gathers."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch has been finished. `loss` is the mean over its samples."""

    progress: Progress
    loss: float
    lr: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A data split has been evaluated. Metric names carry the split: `val_loss`, `val_accuracy`, `test_loss`."""

    progress: Progress
    split: str
    """`validation` or `test`."""
    metrics: Mapping[str, float]
    weights: str
    """`raw` or `averaged`: which weights were evaluated."""
    improved: bool
    """The monitored metric is better than ever before in this run."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluating:
    """An evaluation is under way: so many batches of the split are done. It may still be broken off."""

    progress: Progress
    split: str
    batches: int
    num_batches: int | None
    """None where the split does not tell."""


@dataclass(frozen=True, slots=True)
class SaveStats:
    """What a save has cost. All times in seconds."""

    size: int
    """Bytes in all files together, the manifest aside."""
    written: int
    """Bytes of them that were written; the rest is linked to files of earlier checkpoints."""
    stall: float
    """For how long the training stood still."""
    seconds: float
    """From the beginning until it was durable."""
    cost: float
    """What it took from the training at most: the stall, and the processor time of the thread that wrote."""
    share: float = 0.0
    """Of the time since the training began, the part for which saves have let it stand still."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is durable."""

    progress: Progress
    path: Path
    reasons: tuple[str, ...]
    metrics: Mapping[str, float]
    stats: SaveStats


@dataclass(frozen=True, slots=True)
class SaveFailed:
    """A checkpoint could not be written, and the training goes on. `progress` is that of the state that is lost."""

    progress: Progress
    message: str


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt is about to take its first step."""

    progress: Progress
    attempt: int
    name: str
    total_steps: int | None
    """Where the training ends, as far as it can be known; None where only a time limit ends it."""
    steps_per_epoch: int | None
    directory: Path
    config: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt has ended. `outcome` is `finished`, `stopped` or `failed`; `reason` says by what."""

    progress: Progress
    outcome: str
    reason: str


Record = Step | Epoch | Evaluating | Evaluation | Saved | SaveFailed | Started | Ended
