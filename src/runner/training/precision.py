"""Which number formats the forward pass computes in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.amp.grad_scaler import GradScaler

_REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context that a forward pass runs in: torch's autocast for bf16 and fp16, nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_REDUCED[precision])


def gradient_scaler(precision: str, device: torch.device) -> GradScaler | None:
    """fp16 has too small a range for most gradients: a scaler that grows and shrinks with them. Else None."""
    return GradScaler(device.type) if precision == "fp16" else None
