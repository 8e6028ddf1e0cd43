"""A state's tensors copied at one instant into memory of our own, laid out as the tensor files will be.

The arena is one block of memory, touched once and used again for every save: to touch fresh memory takes about twenty
times as long as to copy into it. The images of the tensor files stand in it one after the other, each from a multiple
of 4 KiB on, so many small tensors are one write, as one great tensor is. There is one arena, so the memory needed is
the state and one copy of it.

On CUDA the arena is pinned and the device copies by itself: see `device_copy`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from runner.checkpoint.device_copy import DeviceCopy
from runner.checkpoint.durable import InMemory
from runner.checkpoint.header import aligned
from runner.checkpoint.shared_copy import Beside, can_share, copy_together
from runner.checkpoint.tensors import TensorFile, memory_of
from runner.errors import SaveError

Tensors = Mapping[str, Mapping[str, Tensor]]
"""By file, then by name."""

LARGE_BYTES = 64 * 1024
"""Tensors from this size on are copied in pieces by two threads, the smaller ones in one call for all."""

# What torch copies as it is wherever it lies. The others are copied as bytes.
_COPIED_AS_THEY_ARE = frozenset(
    {
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
    }
)


@dataclass(frozen=True, slots=True)
class Staged:
    """The images of tensor files. On CUDA they are whole once `finish` has returned."""

    files: Mapping[str, InMemory]
    copying: DeviceCopy | None

    def finish(self) -> None:
        """Wait for the bytes that are on their way."""
        if self.copying is not None:
            self.copying.finish()


class Arena:
    """Memory for the images of a state's tensor files. What was staged last stands in it until the next `stage`."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None
        self._layout: _Layout | None = None

    @property
    def size(self) -> int:
        """Bytes of memory in use."""
        return 0 if self._memory is None else self._memory.numel()

    def prepare(self, tensors: Tensors) -> Callable[[], object]:
        """Lay out for these tensors. What is returned touches the memory: call it once, in any thread.

        Raises SaveError when there is no memory for a copy.
        """
        self._lay_out(tensors)
        assert self._memory is not None
        headers, memory = self._layout, self._memory

        def touch() -> None:
            memory.zero_()
            if headers is not None:
                headers.write_headers()

        return touch

    def stage(self, tensors: Tensors, *, stepped: Callable[[str, str], bool], beside: Beside | None = None) -> Staged:
        """Copy the tensors as they are now. Raises SaveError when there is no memory for the copy.

        `stepped(file, name)` tells which ones only an optimizer's step changes: on CUDA they are copied while the
        training goes on, up to there. `beside` lets another thread help.
        """
        layout = self._lay_out(tensors)
        with torch.no_grad():
            copying = layout.copy(tensors, stepped, beside)
        return Staged(layout.images, copying)

    def _lay_out(self, tensors: Tensors) -> "_Layout":
        structure = _structure(tensors)
        if self._layout is not None and self._layout.structure == structure:
            return self._layout
        files = {name: TensorFile(named) for name, named in tensors.items()}
        size = sum(aligned(file.size) for file in files.values())
        pinned = any(tensor.is_cuda for named in tensors.values() for tensor in named.values())
        self._layout = None
        if self._memory is None or self._memory.numel() < size or self._memory.is_pinned() != pinned:
            # Let go of the old one first, so that there are never two.
            self._memory = None
            try:
                self._memory = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
            except RuntimeError as error:
                raise SaveError(
                    f"the state is not saved: {size} bytes of memory for a copy of it could not be had ({error}); "
                    "free some memory; the checkpoints saved before are whole"
                ) from error
        self._layout = _Layout(structure, files, tensors, self._memory)
        return self._layout


class _Layout:
    """Where in the arena each tensor of a structure goes."""

    def __init__(
        self, structure: list[tuple[object, ...]], files: Mapping[str, TensorFile], tensors: Tensors, memory: Tensor
    ) -> None:
        self.structure = structure
        self.images: dict[str, InMemory] = {}
        self._headers: list[tuple[Tensor, bytes]] = []
        self._places: dict[str, list[tuple[str, Tensor, bool, bool]]] = {}
        begin = 0
        for name, file in files.items():
            image = memory[begin : begin + file.size]
            self.images[name] = InMemory(memory_of(image))
            self._headers.append((image[: len(file.start)], file.start))
            self._places[name] = [
                (
                    entry.name,
                    *_target(image[entry.begin : entry.end], tensors[name][entry.name]),
                    entry.end - entry.begin >= LARGE_BYTES,
                )
                for entry in file.header.entries.values()
                if entry.end > entry.begin
            ]
            begin += aligned(file.size)
        self.write_headers()

    def write_headers(self) -> None:
        for place, start in self._headers:
            memory_of(place)[:] = start

    def copy(self, tensors: Tensors, stepped: Callable[[str, str], bool], beside: Beside | None) -> DeviceCopy | None:
        """Copy every tensor to its place; those that are on a CUDA device are on their way when this returns."""
        targets: list[Tensor] = []
        sources: list[Tensor] = []
        large: list[tuple[Tensor, Tensor]] = []
        copying = DeviceCopy()
        for file, places in self._places.items():
            named = tensors[file]
            for name, target, as_bytes, is_large in places:
                tensor = _bytes_of(named[name]) if as_bytes else named[name]
                if tensor.is_cuda:
                    copying.add(target, tensor, stepped=stepped(file, name))
                elif is_large and can_share(tensor):
                    large.append((target, tensor))
                else:
                    targets.append(target)
                    sources.append(tensor)
        if copying:
            copying.begin()
        if targets:
            # One call for all: thousands of small tensors would otherwise cost a call each.
            torch._foreach_copy_(targets, sources)
        if large:
            copy_together(large, beside)
        return copying if copying else None


def _structure(tensors: Tensors) -> list[tuple[object, ...]]:
    return [
        (file, name, tensor.dtype, tensor.shape, tensor.is_cuda)
        for file, named in tensors.items()
        for name, tensor in named.items()
    ]


def _target(place: Tensor, tensor: Tensor) -> tuple[Tensor, bool]:
    """The place as a tensor to copy into, and whether the tensor is copied as bytes."""
    if tensor.dtype not in _COPIED_AS_THEY_ARE:
        return place, True
    return place.view(tensor.dtype).view(tensor.shape), False


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
