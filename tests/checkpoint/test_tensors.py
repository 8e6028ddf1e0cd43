import json
import os
import random
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from runner.checkpoint.files import CHUNK_BYTES, FileRecord, Member, record_of
from runner.checkpoint.tensors import TensorFile, tensors_in
from runner.errors import CheckpointError, DamagedError, FormatError

COMMON = [
    "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64 complex64",
    "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu",
]
DTYPES = [getattr(torch, name) for line in COMMON for name in line.split()]
OURS_ONLY = [torch.complex128, torch.complex32, torch.float4_e2m1fn_x2]


def read_tensors(path: Path, record: FileRecord, names: Collection[str] | None = None) -> dict[str, Tensor]:
    with Member(path, record) as member:
        return tensors_in(member, names)


def written(path: Path, tensors: dict[str, Tensor]) -> FileRecord:
    content = TensorFile(tensors)
    chunks = [bytes(chunk) for chunk in content.chunks()]
    path.write_bytes(b"".join(chunks))
    record = record_of(chunks)
    assert record.size == content.size
    return record


def some_of(dtype: torch.dtype, *shape: int) -> Tensor:
    """Random bits, as many dtypes as there are."""
    count = int(torch.Size(shape).numel())
    if dtype is torch.bool:
        return torch.arange(count).remainder(3).eq(0).reshape(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        raw = torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8)
        return raw.view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", [*DTYPES, *OURS_ONLY], ids=str)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_every_dtype_and_shape_comes_back_bit_for_bit(
    dtype: torch.dtype, tmp_path: Path, same: Callable[[Any, Any], bool]
) -> None:
    tensors = {
        "zero-dimensional": some_of(dtype, 1).reshape(()),
        "empty": some_of(dtype, 0),
        "empty inside": some_of(dtype, 3, 0, 2),
        "plain": some_of(dtype, 3, 5),
        "transposed": some_of(dtype, 3, 5).T,
        "strided": some_of(dtype, 10)[::3],
        "expanded": some_of(dtype, 1).expand(4),
        "gradient": some_of(dtype, 2).requires_grad_(dtype.is_floating_point or dtype.is_complex),
        "ones": some_of(dtype, 1, 1, 1, 1),
    }
    record = written(tmp_path / "t.safetensors", tensors)
    back = read_tensors(tmp_path / "t.safetensors", record)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert same(back[name], tensor.detach()), name
        assert not back[name].requires_grad


def test_lazily_conjugated_and_negated_tensors_are_written_as_they_look(tmp_path: Path) -> None:
    value = torch.tensor([1 + 2j, 3 - 4j])
    record = written(tmp_path / "t.safetensors", {"conj": value.conj(), "neg": value.conj().imag})
    back = read_tensors(tmp_path / "t.safetensors", record)
    assert torch.equal(back["conj"], value.conj().resolve_conj())
    assert torch.equal(back["neg"], torch.tensor([-2.0, 4.0]))


def test_the_safetensors_library_reads_what_is_written(tmp_path: Path, same: Callable[[Any, Any], bool]) -> None:
    path = tmp_path / "t.safetensors"
    tensors = {f"é {dtype}.{shape}": some_of(dtype, *shape) for dtype in DTYPES for shape in ((), (3,), (0, 2), (2, 3))}
    written(path, tensors)
    back = load_file(path)
    assert back.keys() == tensors.keys()
    assert all(same(back[name], tensors[name]) for name in tensors)
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    written(path, {})
    assert load_file(path) == {}


def test_what_the_safetensors_library_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_file({"a": torch.arange(5), "b": torch.ones(2, 2, dtype=torch.bfloat16)}, path)
    back = read_tensors(path, record_of([path.read_bytes()]))
    assert torch.equal(back["a"], torch.arange(5))
    assert torch.equal(back["b"], torch.ones(2, 2, dtype=torch.bfloat16))


def test_equal_tensors_give_equal_bytes_wherever_they_lie(tmp_path: Path) -> None:
    one = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3)}
    other = {"a": torch.arange(6.0).reshape(2, 3).T.contiguous().T, "b": torch.ones(5)[1:4]}
    assert written(tmp_path / "1", one) == written(tmp_path / "2", other)


def test_data_is_aligned(tmp_path: Path) -> None:
    tensors = {"a": some_of(torch.int8, 3), "b": some_of(torch.float64, 3), "c": some_of(torch.int16, 3)}
    path = tmp_path / "t.safetensors"
    written(path, tensors)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert (8 + length) % 4096 == 0
    offsets = {
        name: entry["data_offsets"][0] for name, entry in json.loads(raw[8 : 8 + length]).items() if name[0] != "_"
    }
    assert offsets == {"b": 0, "c": 24, "a": 30}


def test_tensors_across_many_chunks_come_back_alone_and_together(tmp_path: Path) -> None:
    sizes = {"a": 100, "long": 3 * CHUNK_BYTES // 4 + 1, "b": 7, "c": CHUNK_BYTES // 4, "d": 5}
    tensors = {name: torch.randint(-(2**31), 2**31, (size,), dtype=torch.int32) for name, size in sizes.items()}
    path = tmp_path / "t.safetensors"
    record = written(path, tensors)
    assert record.num_chunks == 5
    for names in (None, ["long"], ["a", "d"], ["c"], [], ["b", "not there"]):
        back = read_tensors(path, record, names)
        assert set(back) == set(tensors if names is None else names) - {"not there"}
        assert all(torch.equal(back[name], tensors[name]) for name in back)


def test_each_tensor_has_storage_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    record = written(path, {"a": torch.ones(2), "b": torch.ones(3)})
    back = read_tensors(path, record)
    assert [back[name].untyped_storage().nbytes() for name in ("a", "b")] == [8, 12]


def test_many_small_tensors_come_back(tmp_path: Path) -> None:
    tensors = {f"t{index}": torch.full((3,), index) for index in range(3000)}
    path = tmp_path / "t.safetensors"
    back = read_tensors(path, written(path, tensors))
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_damage_names_the_tensors_and_leaves_the_others_readable(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    tensors = {"first": torch.ones(CHUNK_BYTES // 4), "middle": torch.ones(CHUNK_BYTES // 4), "last": torch.ones(9)}
    record = written(path, tensors)
    with path.open("r+b") as file:
        file.seek(record.size - 1)
        file.write(b"\xff")
    with pytest.raises(DamagedError) as caught:
        read_tensors(path, record)
    assert str(caught.value) == (
        f"{path}: is damaged: bytes {2 * CHUNK_BYTES} to {record.size}, which hold the tensors 'middle', 'last', "
        "are not those that were written (checksum differs); use another checkpoint"
    )
    assert torch.equal(read_tensors(path, record, ["first"])["first"], tensors["first"])


def test_a_damaged_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    record = written(path, {"a": torch.ones(2)})
    for position in range(0, record.size, 7):
        raw = bytearray(path.read_bytes())
        raw[position] ^= 4
        (tmp_path / "damaged").write_bytes(raw)
        with pytest.raises(DamagedError, match="damaged: is damaged: bytes 0 to"):
            read_tensors(tmp_path / "damaged", record)


def test_a_wrong_length_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    record = written(path, {"a": torch.ones(2)})
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    with pytest.raises(
        DamagedError, match=f"is cut short: {record.size - 1} bytes are there, {record.size} were written"
    ):
        read_tensors(path, record)
    path.write_bytes(raw + b"\0")
    with pytest.raises(DamagedError, match="has bytes too many"):
        read_tensors(path, record)
    path.unlink()
    with pytest.raises(DamagedError, match=r"t\.safetensors: is missing"):
        read_tensors(path, record)


def test_links_pipes_and_directories_are_not_read(tmp_path: Path) -> None:
    record = written(tmp_path / "real", {"a": torch.ones(2)})
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name, message in (("link", "no link"), ("pipe", "no regular file"), ("directory", "no regular file")):
        with pytest.raises(CheckpointError, match=message):
            read_tensors(tmp_path / name, record)


def hostile(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "has 0 bytes, wanted a tensor file"),
        (b"\x01\x02", "has 2 bytes, wanted a tensor file"),
        (hostile(b"{}", length=3), "says its header has 3 bytes, in a file of 10"),
        (hostile(b"{}", length=2**63), f"says its header has {2**63} bytes"),
        (hostile(b"{}", length=100_000_001), "says its header has 100000001 bytes"),
        (hostile({"a": entry(0, 2), "b": entry(1, 3)}, b"xxx"), "'b' at byte"),
        (hostile({"a": entry(0, 2), "b": entry(1, 3)}, b"xxx"), "overlaps the one before it"),
        (hostile({"a": entry(0, 2), "b": entry(0, 2)}, b"xx"), "overlaps the one before it"),
        (hostile({"a": entry(0, 1), "b": entry(2, 3)}, b"xxx"), "leaves a hole before it"),
        (hostile({"a": entry(1, 3)}, b"xxx"), "leaves a hole before it"),
        (hostile({"a": entry(0, 9)}, b"xxx"), "describes tensors up to byte"),
        (hostile({"a": entry(0, 2)}, b"xxx"), "describes tensors up to byte"),
        (hostile({}, b"x"), "describes tensors up to byte 10, the file ends at 11"),
        (hostile(b'{"a": 1, "a": 2}'), "the name 'a' stands there twice"),
        (hostile(b'{"a": {"dtype": "U8", "dtype": "U8"}}'), "the name 'dtype' stands there twice"),
        (hostile({"a": entry(0, 2, dtype="F99")}, b"xx"), "has the dtype 'F99', wanted one of"),
        (hostile({"a": entry(0, 2, dtype=["U8"])}, b"xx"), "has the dtype ['U8']"),
        (hostile({"a": entry(0, 2, [3])}, b"xx"), "U8 [3] needs 3"),
        (hostile({"a": entry(0, 2, [-2, -1])}, b"xx"), "the shape [-2, -1]"),
        (hostile({"a": entry(0, 2, [2.0])}, b"xx"), "the shape [2.0]"),
        (hostile({"a": entry(0, 1, [True])}, b"x"), "the shape [True]"),
        (hostile({"a": entry(0, 0, [0, 2**62])}), "the shape [0, 4611686018427387904]"),
        (hostile({"a": entry(0, 1, [1] * 65)}, b"x"), "wanted a list of sizes"),
        (hostile({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0]}}), "the offsets [0]"),
        (hostile({"a": {"dtype": "U8", "shape": [0], "data_offsets": [5, 3]}}), "needs 0"),
        (hostile({"a": {"dtype": "U8", "shape": [0]}}), "wanted dtype, shape and data_offsets"),
        (hostile({"a": entry(0, 0) | {"more": 1}}), "wanted dtype, shape and data_offsets"),
        (hostile({"a": None}), "wanted dtype, shape and data_offsets"),
        (hostile([]), "is [], wanted a mapping of names"),
        (hostile({"__metadata__": {"a": 1}}), "wanted text by name"),
        (hostile({"__metadata__": []}), "wanted text by name"),
        (hostile(b"\xff\xfe"), "its header cannot be read"),
        (hostile(b"[" * 90_000), "its header cannot be read"),
        (hostile(b'{"a": ' + b"9" * 5000 + b"}"), "its header cannot be read"),
        (hostile({"__metadata__": {"runner.dtypes": "["}}), "its metadata cannot be read"),
        (hostile({"__metadata__": {"runner.dtypes": "[]"}}), "wanted dtypes by name"),
        (hostile({"__metadata__": {"runner.dtypes": '{"a": "complex128"}'}}), "does not agree with its header"),
        (
            hostile({"__metadata__": {"runner.dtypes": '{"a": "complex128"}'}, "a": entry(0, 8, [1], "F64")}, b"x" * 8),
            "does not agree with its header",
        ),
        (
            hostile({"__metadata__": {"runner.dtypes": '{"a": ["x"]}'}, "a": entry(0, 0)}),
            "does not agree with its header",
        ),
    ],
)
def test_hostile_headers_are_refused(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(raw)
    with pytest.raises((DamagedError, FormatError)) as caught:
        read_tensors(path, record_of([raw] if raw else []))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_changed_headers_are_read_or_refused_but_nothing_else_happens(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    tensors = {
        "a": torch.ones(2, 3),
        "b": torch.ones((), dtype=torch.int64),
        "c": torch.ones(2, dtype=torch.complex128),
    }
    written(path, tensors)
    raw = path.read_bytes()
    header, data = raw[8:4096].rstrip(b" "), raw[4096:]
    draw = random.Random(0)
    for _ in range(1500):
        at = draw.randrange(len(header))
        text = header[:at] + bytes([draw.choice(b'0123456789[]{},:"-abE ')]) + header[at + draw.randrange(3) :]
        broken = hostile(text, data)
        path.write_bytes(broken)
        try:
            back = read_tensors(path, record_of([broken]))
        except CheckpointError as error:
            assert str(path) in str(error)
        else:
            assert sum(tensor.nbytes for tensor in back.values()) <= len(data)
