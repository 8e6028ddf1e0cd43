import gzip
from pathlib import Path

import pytest
import torch

from runner.data.batches import Batches
from runner.data.text import text
from runner.errors import ConfigError, DataError


def test_the_windows_of_an_epoch_are_the_text_and_targets_are_what_follows(tmp_path: Path) -> None:
    content = bytes(range(97, 117))
    (tmp_path / "a.txt").write_bytes(content)
    data = text(str(tmp_path / "a.txt"), context=4, validation_fraction=0.3)
    x, y = data.train.__getitems__(torch.arange(len(data.train)))
    # 14 bytes for training: three windows of 4, whose last target is the 13th byte.
    assert bytes(x.flatten().tolist()) == content[:12]
    assert bytes(y.flatten().tolist()) == content[1:13]
    assert (x.dtype, x.is_contiguous(), y.is_contiguous()) == (torch.int64, True, True)
    x, y = data.validation.__getitems__([0])
    assert bytes(x[0].tolist()) == content[14:18]
    assert torch.equal(data.validation[0][1], y[0])
    assert data.test is None


def test_the_shipped_text_is_ascii_and_begins_as_it_should() -> None:
    data = text(context=64, validation_fraction=0.1)
    x, _ = data.train.__getitems__([0])
    assert bytes(x[0].tolist()).startswith(b"CHAPTER 1. Loomings.\n\nCall me Ishmael.")
    assert (len(data.train), len(data.validation)) == (3056, 339)
    everything, _ = data.train.__getitems__(torch.arange(len(data.train)))
    assert everything.max() < 128


def test_the_split_is_contiguous_and_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"0123456789"))
    data = text(str(tmp_path / "a.txt.gz"), context=3, validation_fraction=0.0)
    assert data.validation is None
    assert len(data.train) == 3
    plain = tmp_path / "b.txt"
    plain.write_bytes(b"0123456789")
    assert text(str(plain), context=3, validation_fraction=0.0).fingerprint == data.fingerprint
    plain.write_bytes(b"012345678.")
    assert text(str(plain), context=3, validation_fraction=0.0).fingerprint != data.fingerprint


def test_batches_of_a_text_are_the_same_from_workers() -> None:
    train = text(context=64, validation_fraction=0.1).train
    here, there = (
        Batches(train, batch_size=512, shuffle=True, drop_last=True, seed=0, workers=workers) for workers in (0, 1)
    )
    for (x, y), (other_x, other_y) in zip(here.epoch(0), there.epoch(0), strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)
    there.close()


def test_a_text_that_is_too_short_says_for_what(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"0123456789")
    with pytest.raises(
        DataError, match=rf"^{file}: 1 bytes are left for validation, too few for one window of 4; use a longer"
    ):
        text(str(file), context=4, validation_fraction=0.1)
    file.write_bytes(b"")
    with pytest.raises(DataError, match=r"0 bytes are left for training"):
        text(str(file), context=4, validation_fraction=0.0)


@pytest.mark.parametrize(("name", "content"), [("no.txt", None), ("latin.txt", b"caf\xe9"), ("a.gz", b"not gzip")])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(
        DataError, match=rf"^{file}: cannot be read as text \(.*\); wanted a UTF-8 text file, or one in .gz$"
    ):
        text(str(file), context=4, validation_fraction=0.1)


def test_numbers_out_of_range_are_refused_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        text(context=0, validation_fraction=1.0)
    assert caught.value.problems == (
        "data.context is 0; wanted at least 1",
        "data.validation_fraction is 1.0; wanted 0 (no validation) or more, and below 1",
    )
