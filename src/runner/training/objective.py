"""Objectives: the loss of a model on a batch, and the metrics that are measured beside it.

Legend of shapes: B batch, T time, C classes or vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Sum = tuple[float | Tensor, float | Tensor]
"""A metric of some samples as (sum, count), so that it adds up over batches and ranks."""


class Metric(Protocol):
    """Measures the outputs of one batch."""

    def __call__(self, outputs: Any, batch: Any) -> Sum: ...


class Objective(Protocol):
    """What is made small, and what is watched."""

    metrics: Mapping[str, Metric]

    def count(self, batch: Any) -> int | Tensor:
        """Over how many samples or tokens the loss of `batch` is the mean."""

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        """The mean loss of `model` on `batch` (0-dim), and the outputs for the metrics."""


def num_samples(batch: Any) -> int:
    """The length of the first dimension of the first tensor in `batch` that has one."""
    size = _first_length(batch)
    if size is None:
        raise TypeError(
            f"a batch of {type(batch).__name__} holds no tensor with a dimension, so that its samples cannot be "
            "counted; wanted tensors (B, ...), alone or in tuples, lists or mappings"
        )
    return size


def _first_length(batch: Any) -> int | None:
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else None
    values = batch if isinstance(batch, list | tuple) else batch.values() if isinstance(batch, Mapping) else ()
    for value in values:
        length = _first_length(value)
        if length is not None:
            return length
    return None


class Supervised:
    """A loss between `model(x)` and `y`, for batches (x, y). `loss` gives the mean over the samples."""

    def __init__(self, *, loss: nn.Module, metrics: Mapping[str, Metric]) -> None:
        if getattr(loss, "reduction", "mean") != "mean":
            raise ValueError(
                f"objective.loss has reduction={loss.reduction!r}; wanted 'mean', the mean over the samples"
            )
        self.criterion = loss
        self.metrics = metrics

    def count(self, batch: Sequence[Tensor]) -> int:
        return batch[0].shape[0]

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x, y = batch
        outputs = model(x)
        return self.criterion(outputs, y), outputs


class LanguageModel:
    """Mean cross-entropy in nats over the positions of batches (tokens (B, T) int64, next tokens (B, T) int64).

    Positions whose next token is `ignore_index` do not count.
    """

    def __init__(self, *, ignore_index: int, metrics: Mapping[str, Metric]) -> None:
        self.ignore_index = ignore_index
        self.metrics = metrics

    def count(self, batch: Sequence[Tensor]) -> int | Tensor:
        targets_BT = batch[1]
        if targets_BT.device.type == "cpu":
            return int((targets_BT != self.ignore_index).sum())
        return (targets_BT != self.ignore_index).sum()

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        tokens_BT, targets_BT = batch
        logits_BTC = model(tokens_BT)
        # Not cross_entropy's own mean, which is NaN where no position counts.
        total = nn.functional.cross_entropy(
            logits_BTC.flatten(0, 1), targets_BT.flatten(), ignore_index=self.ignore_index, reduction="sum"
        )
        return total / (targets_BT != self.ignore_index).sum().clamp(min=1), logits_BTC


class ModelLoss:
    """The mean loss over the samples that the model returns itself: an output's `loss`, or the output.

    A batch that is a mapping holds the model's arguments by name, as Hugging Face models take them; a list or tuple
    holds them by position; anything else is the only one.
    """

    def __init__(self, *, metrics: Mapping[str, Metric]) -> None:
        self.metrics = metrics

    def count(self, batch: Any) -> int:
        return num_samples(batch)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        if isinstance(batch, Mapping):
            outputs = model(**batch)
        else:
            outputs = model(*batch) if isinstance(batch, list | tuple) else model(batch)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", outputs)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise TypeError(
                f"{type(model).__name__} returned {type(outputs).__name__} without a 0-dim `loss`; "
                "objective=model_loss wants a model that returns its own loss; use objective=supervised for one that "
                "returns scores"
            )
        return loss, outputs


class Accuracy:
    """The share of samples whose highest score is at the label; outputs (B, C), batches (x, y (B,) int64)."""

    def __call__(self, outputs: Tensor, batch: Sequence[Tensor]) -> Sum:
        y_B = batch[1]
        return (outputs.argmax(dim=-1) == y_B).sum(), y_B.numel()


def to_device(batch: Any, device: torch.device) -> Any:
    """`batch` with every tensor in it on `device`; on the CPU, the batch itself."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if callable(getattr(batch, "to", None)):
        # A packed sequence, a batch of graphs: it knows which of its tensors move.
        return batch.to(device)
    if isinstance(batch, list | tuple):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch
