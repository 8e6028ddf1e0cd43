"""The process's random generators as one value: python's, numpy's, torch's, and those of the accelerators."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed every generator of the process. `seed` is in [0, 2**32)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def capture() -> dict[str, Any]:
    """The state of every generator, as plain values and tensors."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore(states: Mapping[str, Any]) -> list[str]:
    """Set the generators to `states`; returns a line for each that cannot be set on this machine."""
    missing = []
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        saved, present = len(states["cuda"]), torch.cuda.device_count()
        if saved == present:
            torch.cuda.set_rng_state_all(states["cuda"])
        else:
            missing.append(f"the generators of {saved} CUDA devices: this machine has {present}")
    elif torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        missing.append("the generators of the CUDA devices: the checkpoint has none, they are those of a new run")
    if "mps" in states:
        if torch.backends.mps.is_available():
            torch.mps.set_rng_state(states["mps"])
        else:
            missing.append("the generator of the MPS device: this machine has none")
    return missing


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever is drawn inside, the generators are afterwards as they were before."""
    states = capture()
    try:
        yield
    finally:
        restore(states)
