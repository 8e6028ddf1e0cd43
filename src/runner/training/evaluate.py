"""Evaluating a model on a data split, leaving no trace in the training."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from runner.records import Evaluation, World
from runner.training.module_state import unchanged
from runner.training.objective import Objective, to_device
from runner.training.precision import autocast
from runner.training.state import TrainState

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
    """The scores of `split` by the state's `raw` or `averaged` weights, as `measure` gives them; None if that is."""
    start = time.perf_counter()
    model, used = state.network, "raw"
    if weights == "averaged" and state.averaged is not None:
        model, used = state.averaged.module, "averaged"
    metrics = measure(
        model,
        objective,
        batches,
        split=split,
        device=state.device,
        precision=precision,
        interrupted=interrupted,
        world=world,
    )
    if metrics is None:
        return None
    return Evaluation(
        progress=state.progress,
        split=split,
        metrics=metrics,
        weights=used,
        improved=split == "validation" and state.improves(metrics),
        seconds=time.perf_counter() - start,
    )


def measure(
    model: nn.Module,
    objective: Objective,
    batches: EvaluationBatches,
    *,
    split: str,
    device: torch.device,
    precision: str,
    interrupted: Callable[[], bool],
    world: World | None = None,
) -> dict[str, float] | None:
    """Loss and metrics of `model` over `split`, each the sum over its samples divided by their count, over all ranks.

    Generators, train and eval modes and buffers stay as they were. None if `interrupted()` became true, on any rank:
    half an evaluation is none.
    """
    sums: dict[str, list[Any]] = {name: [0.0, 0.0] for name in ("loss", *objective.metrics)}
    broken_off = False
    with unchanged(model), torch.no_grad():
        model.eval()
        for raw in batches.epoch(0):
            broken_off = interrupted()
            if broken_off:
                break
            batch = to_device(raw, device)
            with autocast(precision, device):
                loss, outputs = objective.loss(model, batch)
            count = objective.count(batch)
            _add(sums["loss"], _precise(loss) * count, count)
            for name, metric in objective.metrics.items():
                _add(sums[name], *metric(outputs, batch))
    rows = [*sums.values(), [broken_off, 0.0]]
    totals = torch.tensor([[float(total), float(count)] for total, count in rows], dtype=torch.float64)
    if world is not None and world.size > 1:
        on_device = totals.to(device)
        dist.all_reduce(on_device)
        totals = on_device.cpu()
    *totals_of_metrics, (times_broken_off, _) = totals.tolist()
    if times_broken_off:
        return None
    prefix = PREFIXES[split]
    return {
        f"{prefix}_{name}": (total / count if count else float("nan"))
        for name, (total, count) in zip(sums, totals_of_metrics, strict=True)
    }


def _add(into: list[Any], total: Any, count: Any) -> None:
    into[0] = into[0] + _precise(total)
    into[1] = into[1] + count


def _precise(value: Any) -> Any:
    """In float64, so that a sum over many batches keeps what the small ones add; MPS has none."""
    return value.double() if isinstance(value, Tensor) and value.device.type != "mps" else value
