from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runner.data.batches import Batches
from runner.data.digits import NOISE, digits
from runner.errors import DataError

GOOD: dict[str, Any] = {
    "images": np.arange(24, dtype=np.uint8).reshape(6, 2, 2),
    "labels": np.arange(6),
    "split": np.array([0, 0, 0, 0, 1, 1]),
    "levels": np.uint8(24),
}


def test_the_shipped_digits_are_whole_scaled_and_split_alike_for_every_digit() -> None:
    data = digits()
    splits = [split.tensors for split in (data.train, data.validation, data.test)]
    assert [len(y) for _, y in splits] == [1259, 271, 267]
    for x, y in splits:
        assert x.shape == (len(y), 1, 8, 8)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert (x.min(), x.max()) == (0.0, 1.0)
    counts = torch.stack([y.bincount(minlength=10) for _, y in splits])
    # As the source says: how many there are of each digit.
    assert counts.sum(0).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    shares = counts / counts.sum(0)
    assert torch.all((shares - torch.tensor([[0.7], [0.15], [0.15]])).abs() < 0.012)
    assert data.fingerprint == digits().fingerprint


def test_no_sample_is_in_two_splits() -> None:
    data = digits()
    images = torch.cat([split.tensors[0] for split in (data.train, data.validation, data.test)]).flatten(1)
    distinct = {tuple(image) for image in images.tolist()}
    assert len(distinct) == len(images) == 1797


def test_augmentation_varies_the_training_images_a_little_and_nothing_else() -> None:
    plain, varied = digits(), digits(augment=True)
    torch.manual_seed(0)
    first, labels = varied.train.__getitems__(torch.arange(100))
    second, _ = varied.train.__getitems__(list(range(100)))
    x, y = plain.train.__getitems__(torch.arange(100))
    assert torch.equal(labels, y)
    assert first.shape == x.shape
    assert not torch.equal(first, second)
    assert first.min() >= 0.0 and first.max() <= 1.0
    assert NOISE / 2 < (first - x).abs().mean() < 0.15
    assert varied.validation.draws_randomness is False
    image, label = varied.train[3]
    assert image.shape == (1, 8, 8) and label == y[3]
    torch.manual_seed(0)
    assert torch.equal(varied.train.__getitems__(torch.arange(100))[0], first)


def test_augmented_batches_can_be_had_again() -> None:
    batches = Batches(digits(augment=True).train, batch_size=64, shuffle=True, drop_last=False, seed=0)
    first, again = (next(batches.epoch(2, 7)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(next(batches.epoch(3, 7))[0], first[0])


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **GOOD)
    data = digits(str(tmp_path / "own.npz"))
    assert torch.equal(data.train.tensors[0], torch.arange(16.0).reshape(4, 1, 2, 2) / 24)
    assert data.validation.tensors[1].tolist() == [4, 5]
    assert data.test is None
    assert data.fingerprint != digits().fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "has no images"),
        ({"images": np.zeros((6, 2, 2))}, "images, labels, split and levels are float64, int64, int64, uint8"),
        (
            {"labels": np.zeros(5, int)},
            r"images, labels, split and levels have shapes \(6, 2, 2\), \(5,\), \(6,\), \(\)",
        ),
        ({"images": np.zeros((6, 0, 2), int)}, "there is no image"),
        ({"levels": np.uint8(5)}, "pixels go from 0 to 23, and levels is 5"),
        ({"labels": np.arange(6) - 2}, "a label is -2"),
        ({"split": np.arange(6)}, "a split is 5"),
        ({"split": np.ones(6, int)}, "no sample has split 0, training"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "own.npz"
    np.savez(file, **{name: array for name, array in (GOOD | change).items() if array is not None})
    with pytest.raises(
        DataError, match=rf"^{file}: {message}; wanted an .npz file \(numpy.savez\) with images: integers"
    ):
        digits(str(file))


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04broken"])
def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "own.npz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{file}: cannot be read \(.*\); wanted an .npz file"):
        digits(str(file))


def test_a_pickle_in_the_file_is_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **(GOOD | {"images": np.array([{"a": 1}], dtype=object)}))
    with pytest.raises(DataError, match="cannot be read"):
        digits(str(tmp_path / "own.npz"))
