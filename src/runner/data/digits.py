"""The 1,797 handwritten digits that are shipped, or a file of the same form."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from runner.data.data import Data
from runner.data.tensors import Tensors, rows
from runner.errors import DataError

SHIPPED = Path(__file__).parent / "files" / "digits.npz"
"""Source and split: files/SOURCES.txt."""

SHIFT = 0.5
"""Pixels by which augmentation moves an image, at most, in each direction. A whole one is much of eight."""
NOISE = 0.05
"""Standard deviation of the noise that augmentation adds; full ink is 1."""

_WANTED = (
    "wanted an .npz file (numpy.savez) with images: integers (N, height, width), labels: integers (N,) from "
    "0, split: integers (N,), 0 training, 1 validation, 2 test, and levels: the integer of full ink"
)


def digits(path: str | None = None, augment: bool = False) -> Data:
    """Images x: (B, 1, 8, 8) float32 in [0, 1] and labels y: (B,) int64 in [0, 10).

    `path` is a file of the same form as the shipped one (files/SOURCES.txt), of images of any size; it needs training
    samples, the other splits may be missing. `augment` varies the training split (see `Augmented`).
    Raises DataError if the file cannot be read or is of another form.
    """
    file = SHIPPED if path is None else Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error}); {_WANTED}") from error
    images, labels, split = _parse(content, file)
    parts = [Tensors(images[split == number], labels[split == number]) for number in range(3)]
    train, validation, test = (part if len(part) else None for part in parts)
    if train is None:
        raise DataError(f"{file}: no sample has split 0, training; {_WANTED}")
    return Data(
        train=Augmented(*train.tensors) if augment else train,
        validation=validation,
        test=test,
        fingerprint=xxhash.xxh3_128_hexdigest(content),
    )


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Images with labels; every fetch moves each image by up to SHIFT pixels and adds noise of NOISE, kept in [0, 1].

    Random numbers come from torch's global generator.
    """

    draws_randomness = True
    returns_batches = True

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        """`images`: (N, 1, height, width) in [0, 1], `labels`: (N,)."""
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int] | Tensor) -> tuple[Tensor, Tensor]:
        images = rows(self.images, indices)
        height, width = images.shape[-2:]
        # Each image's affine map: the identity and a shift, in units of half an image.
        maps = torch.eye(2, 3).repeat(len(images), 1, 1)
        maps[:, :, 2] = (2 * torch.rand(len(images), 2) - 1) * SHIFT * 2 / torch.tensor([width, height])
        grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
        shifted = functional.grid_sample(images, grid, align_corners=False)
        noisy = shifted + NOISE * torch.randn(shifted.shape)
        return noisy.clamp_(0.0, 1.0), rows(self.labels, indices)


def _parse(content: bytes, file: Path) -> tuple[Tensor, Tensor, Tensor]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            # An .npy file gives an array here, which has no names.
            found = {name: archive[name] for name in getattr(archive, "files", ())}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: cannot be read ({error}); {_WANTED}") from error
    if missing := {"images", "labels", "split", "levels"} - found.keys():
        raise DataError(f"{file}: has no {', '.join(sorted(missing))}; {_WANTED}")
    images, labels, split, levels = (found[name] for name in ("images", "labels", "split", "levels"))
    if problem := _problem(images, labels, split, levels):
        raise DataError(f"{file}: {problem}; {_WANTED}")
    scaled = torch.from_numpy(images.astype(np.float32)).div_(float(levels)).unsqueeze(1)
    return scaled, torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(split.astype(np.int64))


def _problem(images: Any, labels: Any, split: Any, levels: Any) -> str | None:
    integers = all(array.dtype.kind in "ui" for array in (images, labels, split, levels))
    if not integers:
        return "images, labels, split and levels are " + ", ".join(
            str(a.dtype) for a in (images, labels, split, levels)
        )
    if images.ndim != 3 or labels.shape != images.shape[:1] or split.shape != labels.shape or levels.shape != ():
        shapes = ", ".join(str(array.shape) for array in (images, labels, split, levels))
        return f"images, labels, split and levels have shapes {shapes}"
    if not images.size:
        return "there is no image"
    if levels < 1 or images.min() < 0 or images.max() > levels:
        return f"pixels go from {images.min()} to {images.max()}, and levels is {levels}"
    if labels.min() < 0:
        return f"a label is {labels.min()}"
    if split.min() < 0 or split.max() > 2:
        return f"a split is {split.min() if split.min() < 0 else split.max()}"
    return None
