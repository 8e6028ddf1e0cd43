"""The processes that train one model together, as a handler sees them: who it is, and that all fail where one fails.

Under torchrun each process runs the same program. Which it is says the environment, or the process group, if there is
one already.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from runner import errors
from runner.config.nodes import device_of
from runner.errors import ConfigError, RunnerError
from runner.records import World
from runner.training.module_state import transient

PATIENCE = timedelta(seconds=20)
"""How long a process that has failed waits for the others to fail, too."""


def placed(device: str | torch.device) -> tuple[torch.device, World]:
    """The device of this process, and the processes that train together.

    Under torchrun (WORLD_SIZE above 1) the process group is begun here, unless there is one: nccl for CUDA, gloo
    elsewhere; "cuda" is then the device of LOCAL_RANK.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = os.environ.get("LOCAL_RANK")
    if str(device) == "cuda" and size > 1 and local is not None:
        device = f"cuda:{local}"
    try:
        here = device_of(str(device), key="device")
    except ConfigError as error:
        raise ConfigError(str(error).replace("use device=auto", 'give device="auto"')) from error
    if here.type == "cuda" and here.index is not None and size > 1:
        torch.cuda.set_device(here)
    if not dist.is_available():
        return here, World()
    if not dist.is_initialized() and size > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave)
    return here, World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def together(world: World) -> Iterator[None]:
    """What fails inside on one process is raised on all; nobody goes on before all are through."""
    failed: BaseException | None = None
    try:
        yield
    except Exception as error:
        # Raised again below, when the others know.
        failed = error
    told = from_all(world, None if failed is None else (type(failed).__name__, str(failed)))
    if failed is not None:
        raise failed
    for rank, one in enumerate(told):
        if one is not None:
            name, message = one
            kind = getattr(errors, name, None)
            if isinstance(kind, type) and issubclass(kind, RunnerError):
                raise kind(f"on rank {rank}: {message}")
            raise RunnerError(f"on rank {rank}: {name}: {message}")


@contextmanager
def none_left_behind(world: World) -> Iterator[None]:
    """Work that the processes do step by step together: where one fails alone, the others fail, too.

    They would wait for it otherwise. It looks whether the others have failed as well; if not, it leaves their group,
    so that what they wait for is broken off. Then the group is gone: the processes have to be started again.
    """
    if world.size == 1:
        yield
        return
    apart = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield
    except BaseException:
        try:
            dist.barrier(apart)
        except RuntimeError:
            _leave()
        raise
    dist.destroy_process_group(apart)


def from_all(world: World, value: Any) -> list[Any]:
    """What every process gives, in the order of their ranks."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def summed(world: World, values: list[float], device: torch.device) -> list[float]:
    """The sums over all processes."""
    if world.size == 1:
        return values
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def begin_alike(model: torch.nn.Module, world: World) -> None:
    """Let every process have the parameters and buffers of rank 0."""
    if world.size == 1:
        return
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers(), *filter(None, transient(model).values())]:
            dist.broadcast(tensor.data, src=0)
