"""Two threads that copy together copy every byte once, wherever the pieces are cut."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest
import torch

from runner.checkpoint.shared_copy import FROM_BYTES, PIECE_BYTES, can_share, copy_together
from runner.checkpoint.staging import Arena
from runner.checkpoint.tensors import TensorFile
from runner.checkpoint.writer import Writer


@pytest.mark.parametrize(
    "sizes", [[1], [PIECE_BYTES], [PIECE_BYTES + 1], [3 * PIECE_BYTES - 7, 5, FROM_BYTES * 3], [0, FROM_BYTES]]
)
@pytest.mark.parametrize("together", [False, True])
def test_every_byte_is_copied(sizes: list[int], together: bool) -> None:
    pairs = [(torch.zeros(n, dtype=torch.uint8), torch.randint(256, (n,), dtype=torch.uint8)) for n in sizes]
    writer = Writer()
    copy_together(pairs, (lambda task: writer.begin(task, size=0)) if together else None)
    assert all(torch.equal(target, source) for target, source in pairs)
    writer.close()


def test_the_other_thread_takes_part_in_what_is_large_only() -> None:
    asked = []

    def beside(task: Callable[[], None]) -> "Future[None]":
        asked.append(threading.current_thread())
        future: Future[None] = Future()
        task()
        future.set_result(None)
        return future

    small = [(torch.zeros(10), torch.ones(10))]
    copy_together(small, beside)
    assert asked == []
    large = [(torch.zeros(FROM_BYTES), torch.ones(FROM_BYTES))]
    copy_together(large, beside)
    assert len(asked) == 1 and torch.equal(*large[0])


def test_what_does_not_fit_is_an_error_and_copies_nothing() -> None:
    target = torch.zeros(4)
    with pytest.raises(ValueError, match="32 bytes to copy into a place of 16"):
        copy_together([(target, torch.ones(8))], None)
    assert torch.equal(target, torch.zeros(4))


def test_only_what_lies_in_memory_as_it_reads_is_shared() -> None:
    plain = torch.randn(4, 6)
    assert can_share(plain) and can_share(plain[1:])
    assert not can_share(plain.t()) and not can_share(plain[:, 1:])
    numbers = torch.randn(4, dtype=torch.complex64)
    assert can_share(numbers) and not can_share(numbers.conj()) and not can_share(numbers.conj().imag)
    assert not can_share(torch.empty(3, device="meta"))


def test_a_state_with_large_and_small_tensors_of_every_layout_is_staged_as_it_reads() -> None:
    large = torch.randn(700, 900)
    tensors = {
        "large": large,
        "transposed": large.t(),
        "small": torch.randn(3),
        "doubles": torch.randn(1000, 100, dtype=torch.complex128),
        "conjugate": torch.randn(1000, 100, dtype=torch.complex64).conj(),
        "bytes": torch.randint(256, (2_000_001,), dtype=torch.uint8),
    }
    writer, arena = Writer(), Arena()
    for _ in range(20):
        staged = arena.stage(
            {"a": tensors}, stepped=lambda file, name: False, beside=lambda task: writer.begin(task, size=0)
        )
        expected = b"".join(bytes(chunk) for chunk in TensorFile(tensors).chunks())
        assert bytes(staged.files["a"].data) == expected
        large.add_(1)
    writer.close()
