"""A text for language models, as bytes: the first chapters of Moby-Dick that are shipped, or any UTF-8 text file."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor
from torch.utils.data import Dataset

from runner.data.data import Data
from runner.data.tensors import rows
from runner.errors import ConfigError, DataError

SHIPPED = Path(__file__).parent / "files" / "moby_dick.txt.gz"
"""Source: files/SOURCES.txt."""


def text(path: str | None = None, *, context: int, validation_fraction: float) -> Data:
    """Windows of a text: tokens x: (B, context) int64 in [0, 256), and y: (B, context), the token that follows each.

    The tokens are the bytes of the UTF-8 text, so that there is no vocabulary to build or to save: a model needs 256
    tokens for any text, and the shipped text is ASCII, a byte a character. The last `validation_fraction` of the text
    is the validation split. `path` ending in `.gz` is decompressed. Raises DataError if the file cannot be read, is
    not UTF-8, or is too short; ConfigError if a number is out of range.
    """
    problems = []
    if context < 1:
        problems.append(f"data.context is {context}; wanted at least 1")
    if not 0.0 <= validation_fraction < 1.0:
        problems.append(
            f"data.validation_fraction is {validation_fraction}; wanted 0 (no validation) or more, and below 1"
        )
    if problems:
        raise ConfigError(problems)
    file = SHIPPED if path is None else Path(path)
    content = _read(file)
    tokens = torch.from_numpy(np.frombuffer(bytearray(content), dtype=np.uint8))
    train_size = len(content) - int(len(content) * validation_fraction)
    # A window needs one token more than it is long: the last target.
    splits = [tokens[:train_size]] + ([tokens[train_size:]] if validation_fraction else [])
    for name, part in zip(("training", "validation"), splits, strict=False):
        if len(part) <= context:
            raise DataError(
                f"{file}: {len(part)} bytes are left for {name}, too few for one window of {context}; "
                "use a longer text, a smaller data.context, or another data.validation_fraction"
            )
    windows = [Windows(part, context) for part in splits]
    return Data(
        train=windows[0],
        validation=windows[1] if validation_fraction else None,
        fingerprint=xxhash.xxh3_128_hexdigest(content),
    )


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of `context` tokens that follow each other without overlap, with the token after each as its target.

    What is left over at the end of the text is not used.
    """

    draws_randomness = False
    returns_batches = True

    def __init__(self, tokens: Tensor, context: int) -> None:
        """`tokens`: (length,) of any integer type, with length > context."""
        # A view: a window shares its last token with the next one's first.
        self._windows = tokens.unfold(0, context + 1, context)

    def __len__(self) -> int:
        return self._windows.shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self._windows[index].long()
        return window[:-1], window[1:]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        batch = rows(self._windows, indices).long()
        return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()


def _read(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        content.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text ({error}); wanted a UTF-8 text file, or one in .gz") from error
    return content
