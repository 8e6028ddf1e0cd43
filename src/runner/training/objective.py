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
    """The length of the first dimension of the first tensor in `batch`."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else 1
    for value in batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ():
        if isinstance(value, Tensor | Mapping | list | tuple):
            return num_samples(value)
    raise TypeError(f"a batch of {type(batch).__name__} holds no tensor; its samples cannot be counted")


class Supervised:
    """A loss between `model(x)` and `y`, for batches (x, y)."""

    def __init__(self, *, loss: nn.Module, metrics: Mapping[str, Metric]) -> None:
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
        loss = nn.functional.cross_entropy(
            logits_BTC.flatten(0, 1), targets_BT.flatten(), ignore_index=self.ignore_index
        )
        return loss, logits_BTC


class ModelLoss:
    """The loss that the model returns itself: `model(**batch).loss` or `model(**batch)["loss"]`, a mean over samples.

    Batches are mappings of the model's arguments, as Hugging Face models take them; of any other batch, `model(*batch)`.
    """

    def __init__(self, *, metrics: Mapping[str, Metric]) -> None:
        self.metrics = metrics

    def count(self, batch: Any) -> int:
        return num_samples(batch)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        outputs = model(**batch) if isinstance(batch, Mapping) else model(*batch)
        loss = outputs["loss"] if isinstance(outputs, Mapping) else getattr(outputs, "loss", outputs)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise TypeError(
                f"{type(model).__name__} returned {type(outputs).__name__} without a 0-dim `loss`; objective=model_loss "
                "wants a model that returns its own loss; use objective=supervised for one that returns scores"
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
    if isinstance(batch, list | tuple):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch
