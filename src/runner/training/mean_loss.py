"""The mean loss of the unfinished epoch."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class MeanLoss:
    """The mean loss over the samples since the epoch began; on an accelerator summed up there, without waiting."""

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._zero = None if device.type == "cpu" else torch.zeros((), dtype=dtype, device=device)
        self.clear()

    def clear(self) -> None:
        self.total: float | Tensor = 0.0 if self._zero is None else self._zero.clone()
        self.count: float | Tensor = 0 if self._zero is None else self._zero.clone()

    def add(self, loss: float | Tensor, count: float | Tensor) -> None:
        self.total += loss * count
        self.count += count

    def value(self) -> float:
        """The mean; NaN before the first sample. On an accelerator this waits for the device."""
        count = float(self.count)
        return float(self.total) / count if count else math.nan

    def state_dict(self) -> dict[str, float]:
        return {"total": float(self.total), "count": float(self.count)}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.clear()
        self.total += state["total"]
        self.count += state["count"]
