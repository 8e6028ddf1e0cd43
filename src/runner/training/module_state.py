"""What a module holds that its `state_dict` leaves out: train and eval modes, transient buffers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from runner.training import generators


def in_eval_mode(model: nn.Module) -> list[nn.Module]:
    """The submodules that someone has put in eval mode, as frozen batch norms are; none if the whole model is."""
    return [module for module in model.modules() if not module.training] if model.training else []


def put_in_train_mode(model: nn.Module, but: list[nn.Module]) -> None:
    """Put `model` in train mode, and the submodules `but` in eval mode."""
    model.train()
    for module in but:
        module.training = False


def transient(model: nn.Module) -> dict[str, Tensor | None]:
    """The buffers that `state_dict` leaves out, the state of a recurrence say; None for one that is not there yet."""
    return {
        # Itself where that will do, so that one tensor under two names is seen to be one.
        f"{prefix}.{name}" if prefix else name: value.detach() if value is not None and value.requires_grad else value
        for prefix, module in model.named_modules()
        for name, value in module._buffers.items()
        if name in module._non_persistent_buffers_set
    }


def load_transient(model: nn.Module, saved: Mapping[str, Tensor | None], device: torch.device) -> None:
    """Load what `transient` gave, also where a buffer has another shape by now or is not there yet."""
    placed: dict[int, Tensor] = {}
    for name, live in transient(model).items():
        if name not in saved:
            continue
        value = saved[name]
        if value is not None:
            # Buffers that were one tensor under two names must be one again.
            value = placed.setdefault(id(value), value.to(device if live is None else live.device))
            if live is not None and live.dtype == value.dtype and torch.equal(live, value):
                continue
        _set_buffer(model, name, value)


def _set_buffer(model: nn.Module, name: str, value: Tensor | None) -> None:
    path, _, leaf = name.rpartition(".")
    model.get_submodule(path)._buffers[leaf] = value


def fit_transient(averaged: nn.Module, model: nn.Module) -> None:
    """Make the transient buffers of `averaged`, a copy of `model`, writable and of the shapes that `model` has now.

    torch's AveragedModel pairs buffers by position and writes in place: one that came into being, has another shape,
    or is an expanded view would shift or break them.
    """
    copies: dict[int, Tensor] = {}
    mine = transient(averaged)
    for name, value in transient(model).items():
        own = mine[name]
        if value is None:
            _set_buffer(averaged, name, None)
        elif own is None or own.shape != value.shape or not own.is_contiguous():
            fresh = copies.setdefault(id(value), value.clone(memory_format=torch.contiguous_format))
            _set_buffer(averaged, name, fresh)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Whatever runs inside, generators, train and eval modes and buffers are afterwards as they were."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, value, None if value is None else (value._version, value.detach().clone()))
        for module in model.modules()
        for name, value in module._buffers.items()
    ]
    try:
        with generators.untouched():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, name, value, before in buffers:
            # The same tensor, not its copy: another module may hold it too.
            module._buffers[name] = value
            if value is not None and before is not None and value._version != before[0]:
                with torch.no_grad():
                    value.copy_(before[1])


def wrapped_by(module: nn.Module) -> str | None:
    """What data parallelism or compilation call the module that they are put around; None for any other module."""
    # By what it calls it: importing the class of a compiled module takes seconds.
    if "_orig_mod" in module._modules:
        return "_orig_mod"
    return "module" if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel) else None


def bare(module: nn.Module) -> nn.Module:
    """A module without what data parallelism and compilation put around it."""
    while (inner := wrapped_by(module)) is not None:
        module = module.get_submodule(inner)
    return module
