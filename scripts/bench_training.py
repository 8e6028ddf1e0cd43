"""A training whose state is saved, and what one save costs it: the loop that the checkpoint benchmark measures in."""

import math
import os
import shutil
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

_SHAPES = {"1MB": (117, 6), "200MB": (816, 25), "1GB": (1826, 25)}
"""Width and depth: 48 tensors, and 200."""
_ROWS = 8


class Residual(nn.Module):
    """Linear layers, each adding a little, so that numbers stay ordinary ones at any depth."""

    def __init__(self, width: int, depth: int, *, bias: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=bias) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.add(x, layer(x), alpha=1 / len(self.layers))
        return x


class Training:
    """A model and its optimizer, that take real steps on one thread."""

    def __init__(self, state: str) -> None:
        torch.manual_seed(0)
        self.name = state
        self.model: nn.Module
        self.optimizer: torch.optim.Optimizer
        if state in _SHAPES:
            width, depth = _SHAPES[state]
            self.model = Residual(width, depth, bias=True)
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        else:
            width = 32
            self.model = Residual(width, 1500, bias=False)
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-5, momentum=0.9)
        self._x = torch.rand(_ROWS, width)
        # The first step makes the optimizer's state, and is slower.
        self.step()
        self.usual = min(self.step() for _ in range(3))
        """Seconds a step takes, about."""

    def step(self) -> float:
        """One step; the seconds it took."""
        began = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.model(self._x).square().mean()
        loss.backward()
        self.optimizer.step()
        loss.item()
        return time.perf_counter() - began

    def state(self) -> dict[str, Any]:
        """What everyone saves; making it is part of the stall, and costs everyone the same."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def tensors(self) -> dict[str, Tensor]:
        return flat(self.state())


def flat(tree: Any, path: str = "") -> dict[str, Tensor]:
    """The tensors of a state by name, as those do it who save nothing but tensors."""
    if isinstance(tree, Tensor):
        return {path: tree}
    if isinstance(tree, dict):
        children = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        children = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return {}
    return {
        name: tensor
        for key, value in children
        for name, tensor in flat(value, f"{path}.{key}" if path else key).items()
    }


def done() -> "Future[float]":
    """For a save that is complete when the call returns."""
    future: Future[float] = Future()
    future.set_result(time.perf_counter())
    return future


def finish(complete: "Future[float]", end: Callable[[], Any]) -> None:
    """Complete a save that goes on in the background, when `end` has returned."""
    try:
        end()
    except BaseException as error:
        complete.set_exception(error)
        raise
    complete.set_result(time.perf_counter())


class Ongoing(Protocol):
    """A save under way."""

    def done(self) -> bool:
        """Whether nothing goes on any more."""
        ...

    def result(self) -> float:
        """Wait, and tell the instant when it was complete."""
        ...


class Saver(ABC):
    """Someone who saves the state of a training."""

    @abstractmethod
    def save(self, place: Path) -> Ongoing:
        """Hold up the training, and save to the directory `place`."""

    def load(self, place: Path) -> Any:
        """What was saved last, read as one reads it there; None for one that cannot."""
        return None

    def where(self, place: Path) -> Path:
        """Where what was saved last stands."""
        return place

    def rest(self) -> None:
        """Wait for whatever goes on after the save."""
        return

    def close(self) -> None:
        """Let go of everything."""
        return


@dataclass(frozen=True, slots=True)
class Cost:
    """What one save took, in seconds; `slowed` is a ratio, and None where no step was taken while it was written."""

    stall: float
    lost: float
    """The stall, and what the steps beside the writing took longer."""
    complete: float
    slowed: float | None
    load: float | None


def measure(training: Training, saver: Saver, place: Path, *, loading: bool) -> Cost:
    """One save in the running loop: steps before it, the call that holds the loop up, steps until it is complete."""
    shutil.rmtree(place, ignore_errors=True)
    os.sync()  # What an earlier contestant left to the kernel is not this one's to write.
    usual = [training.step() for _ in range(max(3, min(30, math.ceil(0.3 / training.usual))))]
    began = time.perf_counter()
    saving = saver.save(place)
    stall = time.perf_counter() - began
    whole, cut = [], []
    while not saving.done():
        took = training.step()
        (cut if saving.done() else whole).append(took)
    complete = saving.result() - began
    saver.rest()
    load = None
    if loading:
        _bring_into_memory(saver.where(place))
        began = time.perf_counter()
        saver.load(place)
        load = time.perf_counter() - began
    # Where no step lies wholly within the writing, the one that saw its end.
    beside = whole or cut
    usually = statistics.median(usual)
    slowed = statistics.median(beside) / usually if beside else None
    lost = stall + sum(took - usually for took in (*whole, *cut))
    return Cost(stall, lost, complete, slowed, load)


def _bring_into_memory(directory: Path) -> None:
    """Nobody is to wait for the disk because he told the system that he is done with a file."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(4 * 1024 * 1024):
                    pass


def check(training: Training, saver: Saver, place: Path) -> str | None:
    """Whether a load gives every byte of the state as it was when the save was asked for; else what is wrong."""
    shutil.rmtree(place, ignore_errors=True)
    before = _fingerprint(training.state())
    saving = saver.save(place)
    training.step()
    saving.result()
    saver.rest()
    loaded = saver.load(place)
    if loaded is None or _fingerprint(loaded) == before:
        return None
    return "what it loads is not the state at the call"


def _fingerprint(tree: Any) -> list[tuple[float, ...]]:
    """Equal for equal tensors whatever their names: others have names of their own."""
    return sorted(
        (value.nbytes, value.double().sum().item(), value.double().abs().sum().item()) for value in flat(tree).values()
    )


def peak_memory(training: Training, saver: Saver, place: Path) -> int:
    """Bytes that two saves add to the process at their height: the first one makes what is kept for the second."""
    os.sync()
    training.step()
    Path("/proc/self/clear_refs").write_text("5")  # The height is counted from here.
    before = _memory("VmRSS")
    for number in range(2):
        saving = saver.save(place / str(number))
        while not saving.done():
            training.step()
        saving.result()
        saver.rest()
        training.step()
    return _memory("VmHWM") - before


def _memory(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)
