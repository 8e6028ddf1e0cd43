"""What an echo state network is called with, and what may not be."""

from collections.abc import Mapping

import torch
from torch import Tensor

Input = Tensor | Mapping[str, Tensor]
"""x: (B, T, F), {"input": x}, or with a driver {"input": x, "driver": u}, u: (B, T, U)."""


def parts(x: Input, *, input_size: int, driver_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The input and what drives it. Raises ValueError, or TypeError for what is no tensor, unless they fit."""
    driver: Tensor | None = None
    if isinstance(x, Mapping):
        if "input" not in x or not x.keys() <= {"input", "driver"}:
            raise ValueError(f"the input has the keys {list(x)}; wanted 'input', and 'driver' for a model with one")
        driver = x.get("driver")
        x = x["input"]
    if not isinstance(x, Tensor):
        raise TypeError(f"the input is a {type(x).__name__}; wanted a tensor (batch, time, features)")
    if x.ndim != 3 or x.shape[-1] != input_size or not x.shape[1]:
        hint = "; for one sequence x[None]" if x.ndim == 2 and x.shape[-1] == input_size else ""
        raise ValueError(f"the input is {tuple(x.shape)}; wanted (batch, time of 1 or more, {input_size}){hint}")
    if x.dtype != dtype:
        raise ValueError(f"the input is {x.dtype}, and the model {dtype}; wanted the same, as by x.to({dtype})")
    check_driver(driver, (*x.shape[:2], driver_size), "the input")
    return x, driver


def check_driver(driver: Tensor | None, wanted: tuple[int, int, int], of: str) -> None:
    """Raise ValueError unless it has the shape that is wanted, or is None where that has no features."""
    there = None if driver is None else tuple(driver.shape)
    if there != (wanted if wanted[-1] else None):
        raise ValueError(
            f"the driver of {of} is {there}; wanted {wanted if wanted[-1] else None}, for the model has "
            f"driver_size={wanted[-1]}"
        )
