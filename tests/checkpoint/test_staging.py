"""The copy of a state: every dtype and layout bit for bit, in memory that is used again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runner.checkpoint.staging import Arena
from runner.checkpoint.tensors import TensorFile

DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.complex32),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
    *(torch.bool, torch.float4_e2m1fn_x2),
)


def random_bits(dtype: torch.dtype, *shape: int) -> Tensor:
    size = torch.empty(0, dtype=dtype).element_size()
    highest = 2 if dtype == torch.bool else 256
    return torch.randint(highest, (*shape[:-1], shape[-1] * size), dtype=torch.uint8).view(dtype)


def stage(arena: Arena, tensors: dict[str, Tensor]) -> bytes:
    staged = arena.stage({"a.safetensors": tensors}, stepped=lambda file, name: False)
    assert staged.copying is None
    return b"".join(bytes(chunk) for chunk in staged.files["a.safetensors"].chunks())


def written(tensors: dict[str, Tensor]) -> bytes:
    return b"".join(bytes(chunk) for chunk in TensorFile(tensors).chunks())


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_image_is_the_file_that_would_have_been_written(dtype: torch.dtype) -> None:
    tensors = {"a": random_bits(dtype, 3, 5), "odd": random_bits(torch.uint8, 7), "b": random_bits(dtype, 1)}
    assert stage(Arena(), tensors) == written(tensors)


def test_layouts_of_every_kind_are_copied_as_they_read() -> None:
    base = torch.randn(6, 8)
    imaginary = torch.randn(4, dtype=torch.complex64)
    tensors = {
        "transposed": base.t(),
        "strided": base[::2, 1::3],
        "expanded": torch.randn(1, 3).expand(4, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "conjugate": imaginary.conj(),
        "negated": imaginary.conj().imag,
        "conjugate of doubles": torch.randn(3, dtype=torch.complex128).conj(),
        "transposed doubles": torch.randn(3, 2, dtype=torch.complex128).t(),
        "trained": torch.nn.Parameter(torch.randn(3)),
    }
    assert stage(Arena(), tensors) == written(tensors)


def test_no_tensors_are_an_image_too() -> None:
    assert stage(Arena(), {}) == written({})


def test_what_is_staged_does_not_follow_the_state() -> None:
    arena, weight = Arena(), torch.ones(1000)
    image = arena.stage({"a": {"w": weight}}, stepped=lambda file, name: False).files["a"]
    before = bytes(image.data)
    weight.mul_(2)
    assert bytes(image.data) == before


def test_memory_is_used_again_while_the_structure_stays() -> None:
    arena = Arena()
    arena.prepare({"a": {"w": torch.ones(1000)}})()
    places = set()
    for value in range(3):
        image = arena.stage({"a": {"w": torch.full((1000,), float(value))}}, stepped=lambda file, name: False).files[
            "a"
        ]
        assert bytes(image.data) == written({"w": torch.full((1000,), float(value))})
        places.add(torch.frombuffer(image.data, dtype=torch.uint8).data_ptr())
    assert len(places) == 1


def test_another_structure_is_laid_out_anew_and_smaller_ones_need_no_more_memory() -> None:
    arena = Arena()
    large, small = {"w": torch.randn(5000)}, {"v": torch.randn(3), "u": torch.ones(2, dtype=torch.int8)}
    assert stage(arena, large) == written(large)
    size = arena.size
    assert stage(arena, small) == written(small)
    assert arena.size == size
    larger = {"w": torch.randn(9000), "x": torch.zeros(2)}
    assert stage(arena, larger) == written(larger)
    assert arena.size > size
    # The same names with another shape or dtype are another structure.
    for other in (torch.randn(4500, 2), torch.randn(9000).half()):
        assert stage(arena, {"w": other, "x": torch.zeros(2)}) == written({"w": other, "x": torch.zeros(2)})


def test_a_copy_that_memory_cannot_hold_is_a_save_error_and_the_next_save_works(
    make_store: Callable[..., Any], save: Callable[..., Any], tmp_path: Path
) -> None:
    from runner.errors import SaveError
    from runner.records import Progress

    store = make_store()
    save(store, 1)
    huge = torch.empty(1).expand(2**50)
    with pytest.raises(SaveError, match=r"not saved: \d+ bytes of memory for a copy of it could not be had.*free some"):
        store.save({"model": {"w": huge}}, progress=Progress(step=2), reasons=(), metrics={}, documents={}, facts={})
    with pytest.raises(SaveError, match="bytes of memory for a copy"):
        store.prepare({"model": {"w": huge}})
    assert [checkpoint.step for checkpoint in store.checkpoints] == [1]
    assert save(store, 3).progress.step == 3
