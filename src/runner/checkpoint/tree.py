"""A state (nested dicts, lists, numbers, tensors) as plain JSON with references to tensors, and back, exactly.

What JSON has stands there as itself; everything else is an object with the key `$`, which says what it is. A tensor
is `{"$": "tensor", "name": ...}`; tied tensors are references to one name.
"""

import base64
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.checkpoint.contents import DEPTH_LIMIT, TAG
from runner.checkpoint.contents import references as references
from runner.checkpoint.header import METADATA
from runner.checkpoint.tensors import can_store
from runner.errors import DamagedError

_SMALL_INT = 2**63
_DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_NUMPY_KINDS = "biufc"
_NUMPY_NUMBERS = {
    name: np.dtype(name).type
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def flatten(tree: object) -> tuple[Any, dict[str, Tensor]]:
    """The JSON value of a tree, and its tensors by readable names. Nothing is copied but numpy arrays.

    Raises TypeError naming the place of a value that has no form, and ValueError for a tree that is too deep.
    """
    flattening = _Flattening()
    value = flattening.encode(tree, "", 0)
    return value, flattening.tensors


def unflatten(value: object, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that `flatten` was given. Raises DamagedError for what `flatten` cannot have made."""
    return _decode(value, tensors, 0)


class _Flattening:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._at: dict[int, list[str]] = {}
        """Under which names the tensors that begin at an address are stored."""

    def encode(self, value: object, path: str, depth: int) -> Any:
        """`path` says where the value stands, as `optimizer.groups.0`; it is a text because there are thousands."""
        if depth > DEPTH_LIMIT:
            raise ValueError(f"the state is nested deeper than {DEPTH_LIMIT} levels at {_named(path[:40])}...")
        kind = type(value)
        if kind in _LEAVES:
            return _LEAVES[kind](value)
        if kind in _TENSORS:
            return self._tensor(value, path)  # type: ignore[arg-type]
        if kind in _ENCODERS:
            return _ENCODERS[kind](self, value, path, depth + 1)
        if isinstance(value, np.ndarray):
            return self._array(value, path)
        if isinstance(value, np.generic):
            return self._number(value, path, depth)
        raise TypeError(
            f"{_named(path)} is a {kind.__module__}.{kind.__qualname__}, which a checkpoint cannot hold; "
            "wanted tensors, numbers, text, bytes, numpy arrays, or dicts, lists and tuples of these"
        )

    def _list(self, value: Sequence[Any], path: str, depth: int) -> Any:
        if _all_small_ints(value):
            return list(value)
        stem = _stem(path)
        return [self.encode(item, f"{stem}{index}", depth) for index, item in enumerate(value)]

    def _tuple(self, value: tuple[Any, ...], path: str, depth: int) -> Any:
        return {TAG: "tuple", "items": self._list(value, path, depth)}

    def _dict(self, value: Mapping[Any, Any], path: str, depth: int) -> Any:
        stem = _stem(path)
        if set(map(type, value)) <= _TEXT and TAG not in value:
            return {key: self.encode(item, stem + key, depth) for key, item in value.items()}
        pairs = [
            [self.encode(key, f"{stem}key", depth), self.encode(item, f"{stem}{key}", depth)]
            for key, item in value.items()
        ]
        return {TAG: "dict", "items": pairs}

    def _tensor(self, value: Tensor, path: str) -> Any:
        if not can_store(value):
            raise TypeError(
                f"{_named(path)} is a tensor of {value.dtype}, {value.layout}, on {value.device}, which a checkpoint "
                "cannot hold; wanted a dense tensor with values, of an ordinary dtype"
            )
        address = value.data_ptr()
        name = self._stored_at(address, value)
        if name is None:
            name = self._store(value, path)
            self._at.setdefault(address, []).append(name)
        return {TAG: "tensor", "name": name}

    def _stored_at(self, address: int, value: Tensor) -> str | None:
        """The name of a tensor that is this one, if it is stored already. Empty ones have no memory to share."""
        if address in self._at and value.numel():
            for name in self._at[address]:
                if _same_memory(value, self.tensors[name]):
                    return name
        return None

    def _array(self, value: np.ndarray[Any, Any], path: str) -> Any:
        native = value.dtype.newbyteorder("=")
        if type(value) is not np.ndarray or native.kind not in _NUMPY_KINDS or native.itemsize > 16:
            raise TypeError(
                f"{_named(path)} is a {type(value).__name__} of {value.dtype}, which a checkpoint cannot hold; "
                "wanted a numpy array of numbers"
            )
        try:
            tensor = torch.from_numpy(np.array(value, dtype=native, order="C"))
        except TypeError as error:
            raise TypeError(f"{_named(path)} is an array of {value.dtype}: {error}") from error
        return {TAG: "array", "name": self._store(tensor, path)}

    def _number(self, value: np.generic, path: str, depth: int) -> Any:
        plain = value.item()
        if value.dtype.name not in _NUMPY_NUMBERS or type(plain) not in (bool, int, float, complex):
            raise TypeError(f"{_named(path)} is a numpy {value.dtype}, which a checkpoint cannot hold; wanted a number")
        return {TAG: "number", "dtype": value.dtype.name, "value": self.encode(plain, path, depth)}

    def _store(self, tensor: Tensor, path: str) -> str:
        # Only what UTF-8 can hold: the names stand in a header that other programs read.
        wanted = path or "value"
        if not wanted.isascii():
            wanted = wanted.encode("utf-8", "backslashreplace").decode("utf-8")
        name, count = wanted, 1
        while name in self.tensors or name == METADATA:
            count += 1
            name = f"{wanted}#{count}"
        self.tensors[name] = tensor.detach() if tensor.requires_grad else tensor
        return name


def _same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors that begin at one address are the same memory, read in the same way."""
    return (one.device, one.dtype, one.shape, one.stride(), one.is_conj(), one.is_neg()) == (
        other.device,
        other.dtype,
        other.shape,
        other.stride(),
        other.is_conj(),
        other.is_neg(),
    )


def _all_small_ints(values: Sequence[Any]) -> bool:
    """Whether a long row, such as a generator's state, is plain numbers that JSON has as they are."""
    return bool(values) and set(map(type, values)) == {int} and -_SMALL_INT <= min(values) <= max(values) < _SMALL_INT


def _int(value: int) -> Any:
    return value if -_SMALL_INT <= value < _SMALL_INT else {TAG: "int", "hex": hex(value)}


def _float(value: float) -> Any:
    return value if math.isfinite(value) else {TAG: "float", "value": repr(value)}


# What has no parts of its own.
_LEAVES: Mapping[type, Callable[[Any], Any]] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    str: lambda value: value,
    int: _int,
    float: _float,
    complex: lambda value: {TAG: "complex", "parts": [_float(value.real), _float(value.imag)]},
    bytes: lambda value: {TAG: "bytes", "base64": base64.b64encode(value).decode("ascii")},
    torch.Size: lambda value: {TAG: "size", "lengths": list(value)},
    torch.dtype: lambda value: {TAG: "dtype", "name": str(value).removeprefix("torch.")},
    torch.device: lambda value: {TAG: "device", "name": str(value)},
}

_TENSORS = (Tensor, torch.nn.Parameter)
_TEXT = {str}

_ENCODERS: Mapping[type, Callable[[_Flattening, Any, str, int], Any]] = {
    list: _Flattening._list,
    tuple: _Flattening._tuple,
    dict: _Flattening._dict,
    # They come back as plain dicts, which serve whoever made them: modules, and torch's MultiStepLR.
    OrderedDict: _Flattening._dict,
    Counter: _Flattening._dict,
}


def _decode(value: Any, tensors: Mapping[str, Tensor], depth: int) -> Any:
    if depth > DEPTH_LIMIT * 2:
        raise DamagedError(f"the state is nested deeper than {DEPTH_LIMIT} levels; it was not written by this program")
    if isinstance(value, list):
        return [_decode(item, tensors, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: _decode(item, tensors, depth + 1) for key, item in value.items()}
    try:
        return _DECODERS[value[TAG]](value, tensors, depth)
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(
            f"the state has {value!r:.120}, which is nothing that this program writes ({error!r})"
        ) from error


def _items(value: dict[str, Any], tensors: Mapping[str, Tensor], depth: int) -> list[Any]:
    items = value["items"]
    if not isinstance(items, list):
        raise TypeError("wanted a list of items")
    return [_decode(item, tensors, depth + 1) for item in items]


def _dict(value: dict[str, Any], tensors: Mapping[str, Tensor], depth: int) -> dict[Any, Any]:
    return dict(_items(value, tensors, depth))


def _complex(value: dict[str, Any], tensors: Mapping[str, Tensor], depth: int) -> complex:
    real, imaginary = _decode(value["parts"], tensors, depth + 1)
    return complex(real, imaginary)


def _size(value: dict[str, Any], _tensors: Mapping[str, Tensor], _depth: int) -> torch.Size:
    lengths = value["lengths"]
    if not all(type(length) is int and abs(length) < _SMALL_INT for length in lengths):
        raise TypeError("wanted a list of lengths")
    return torch.Size(lengths)


def _stored(value: dict[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    if value["name"] not in tensors:
        raise DamagedError(f"the state refers to the tensor {value['name']!r:.80}, which is in no tensor file")
    return tensors[value["name"]]


def _number(value: dict[str, Any], tensors: Mapping[str, Tensor], depth: int) -> Any:
    plain = _decode(value["value"], tensors, depth + 1)
    if type(plain) not in (bool, int, float, complex):
        raise TypeError("wanted a number")
    return _NUMPY_NUMBERS[value["dtype"]](plain)


_DECODERS: Mapping[str, Callable[[dict[str, Any], Mapping[str, Tensor], int], Any]] = {
    "int": lambda value, _, __: int(value["hex"], 16),
    "float": lambda value, _, __: _NOT_FINITE[value["value"]],
    "complex": _complex,
    "bytes": lambda value, _, __: base64.b64decode(value["base64"], validate=True),
    "tuple": lambda value, tensors, depth: tuple(_items(value, tensors, depth)),
    "dict": _dict,
    "size": _size,
    "dtype": lambda value, _, __: _DTYPES[value["name"]],
    "device": lambda value, _, __: torch.device(value["name"]),
    "tensor": lambda value, tensors, _: _stored(value, tensors),
    "array": lambda value, tensors, _: _stored(value, tensors).numpy(),
    "number": _number,
}


def _stem(path: str) -> str:
    """What the names of the parts of a value begin with."""
    return f"{path}." if path else ""


def _named(path: str) -> str:
    return f"state[{path!r}]" if path else "the state"
