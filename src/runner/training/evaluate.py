"""Evaluating a model on a data split, leaving no trace in the training."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.distributed as dist

from runner.records import Evaluation, World
from runner.training.objective import Objective, to_device
from runner.training.precision import autocast
from runner.training.state import TrainState, unchanged

PREFIXES = {"validation": "val", "test": "test"}


class EvaluationBatches(Protocol):
    """Batches of a split; only the first epoch of them is read."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]: ...


def metric_names(objective: Objective, split: str) -> tuple[str, ...]:
    """The names of the metrics that `evaluate` gives for `split`."""
    return tuple(f"{PREFIXES[split]}_{name}" for name in ("loss", *objective.metrics))


def evaluate(
    state: TrainState,
    objective: Objective,
    batches: EvaluationBatches,
    *,
    split: str,
    weights: str,
    precision: str,
    interrupted: Callable[[], bool],
    world: World | None = None,
) -> Evaluation | None:
    """Loss and metrics over `split`, each the sum over its samples divided by their count, over all ranks.

    `weights` is `raw` or `averaged`. Generators, train and eval modes and transient state stay as they were.
    None if `interrupted()` became true: half an evaluation is none.
    """
    start = time.perf_counter()
    averaged = weights == "averaged" and state.averaged is not None
    model = state.averaged.module if averaged and state.averaged is not None else state.network
    sums: dict[str, list[Any]] = {name: [0.0, 0.0] for name in ("loss", *objective.metrics)}
    with unchanged(state.model), torch.no_grad():
        was_training = model.training
        model.eval()
        try:
            for raw in batches.epoch(0):
                if interrupted():
                    return None
                batch = to_device(raw, state.device)
                with autocast(precision, state.device):
                    loss, outputs = objective.loss(model, batch)
                count = objective.count(batch)
                _add(sums["loss"], loss.double() if loss.device.type == "cpu" else loss, count, times_count=True)
                for name, metric in objective.metrics.items():
                    _add(sums[name], *metric(outputs, batch), times_count=False)
        finally:
            model.train(was_training)
    totals = torch.tensor([[float(total), float(count)] for total, count in sums.values()], dtype=torch.float64)
    if world is not None and world.size > 1:
        dist.all_reduce(totals)
    prefix = PREFIXES[split]
    metrics = {
        f"{prefix}_{name}": (total / count if count else float("nan"))
        for name, (total, count) in zip(sums, totals.tolist(), strict=True)
    }
    return Evaluation(
        progress=state.progress,
        split=split,
        metrics=metrics,
        weights="averaged" if averaged else "raw",
        improved=split == "validation" and state.improves(metrics),
        seconds=time.perf_counter() - start,
    )


def _add(into: list[Any], total: Any, count: Any, *, times_count: bool) -> None:
    into[0] = into[0] + (total * count if times_count else total)
    into[1] = into[1] + count
