"""Files of `torch.save`, read without running anything that is in them.

A zip file is looked at first: every entry stored, none larger than the file, every CRC right. Then torch reads it with
`weights_only=True`, which builds tensors, numbers, texts and containers of these, and calls nothing else. What else is
in such a file, say the arguments of a training program beside its weights, is replaced by empty containers.
"""

import builtins
import os
import pickletools
import stat
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from struct import error as StructError  # noqa: N812
from typing import IO, Any

import torch

from runner.errors import CheckpointError, DamagedError, FormatError

ZIP = b"PK\x03\x04"
PICKLE = b"\x80"

_BLOCK = 1024 * 1024

# Modules of the standard library whose classes only hold values. All others that a file may name do something.
_HOLD_VALUES = frozenset(
    {"argparse", "collections", "copyreg", "datetime", "decimal", "enum", "fractions", "pathlib", "types", "typing"}
    | {"uuid"}
)

# What a state dict is made of.
_OF_WEIGHTS = ("torch._utils._rebuild_", "torch.storage.", "collections.OrderedDict", "torch.FloatStorage")
_MOST_OPCODES = 10**6

# What torch and the zip reader raise for bytes that make no sense: whatever their parsers stumble over.
_UNREADABLE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError),
    *(RuntimeError, StructError, TypeError, UnpicklingError, ValueError, zipfile.BadZipFile),
)


class _Inert(OrderedDict[Any, Any]):
    """Stands for a class that is named in a file and is not weights. It takes everything and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        # Exactly this type is what torch lets a file put things into.
        return OrderedDict()


class _Opaque:
    """The same for what gets its content in one piece, as NumPy's numbers and arrays do."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_pickled(path: Path) -> tuple[Any, tuple[str, ...]]:
    """What a file of `torch.save` holds, on the CPU, and the names of what in it was not built.

    Raises DamagedError or FormatError, after which nothing has been run.
    """
    with opened(path) as file:
        start = file.read(512)
        if start.startswith(ZIP):
            check_zip(file, path)
        elif not start.startswith(PICKLE):
            raise FormatError(f"{path}: is no file of torch.save; wanted weights: {WANTED}")
        try:
            return _load(file), ()
        except _UNREADABLE as error:
            return _load_around(file, path, error)


WANTED = (
    "a file of torch.save or safetensors with a state dict in it, a Hugging Face folder, a Lightning .ckpt, "
    "or a run or checkpoint of this program"
)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A regular file, opened for reading. Raises CheckpointError. Links are followed: model caches consist of them."""
    try:
        # Non-blocking, so that a pipe that stands in the file's place cannot hang the reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened ({error.strerror}); wanted a readable file") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FormatError(f"{path}: is no regular file; wanted weights: {WANTED}")
        yield file


def check_no_module(value: Mapping[Any, Any], unknown: Sequence[str], path: Path) -> None:
    """Raise FormatError if what `read_pickled` gave is a whole pickled model, or has one under a key."""
    place = next((key for key, item in value.items() if _was_module(item)), None)
    if not _was_module(value) and place is None:
        return
    holds = "is a whole pickled model" if place is None else f"holds a whole pickled model under {place!r:.80}"
    names = [name for name in unknown if not name.startswith("torch.")] or unknown
    raise FormatError(
        f"{path}: {holds} ({', '.join(names[:3])}), whose classes would have to be run to read it; nothing was run; in "
        "the program that made it: torch.save(model.state_dict(), FILE), or @save_load for its class"
    )


def _was_module(value: Any) -> bool:
    """Whether a value stands for a module. What is left of an object that was not built is its attributes."""
    return "_modules" in getattr(value, "__dict__", {})


def check_zip(file: IO[bytes], path: Path) -> None:
    """Raise DamagedError or FormatError unless a zip file is what `torch.save` writes, with every byte as written.

    Nothing in it is unpacked that is larger than the file itself. Leaves the file at its start.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(entries, size, path)
            for entry in entries:
                with archive.open(entry) as content:
                    while content.read(_BLOCK):
                        pass
    except CheckpointError:
        raise
    except (*_UNREADABLE, NotImplementedError) as error:
        raise DamagedError(f"{path}: is damaged or cut short ({_reason(error)}); get it again") from error
    file.seek(0)


def _check_entries(entries: Sequence[zipfile.ZipInfo], size: int, path: Path) -> None:
    names = [entry.filename for entry in entries]
    if not any(name.endswith("/data.pkl") for name in names):
        there = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "") if names else "nothing"
        raise FormatError(f"{path}: is a zip file of something else (it holds {there}); wanted weights: {WANTED}")
    if any(name.endswith("/constants.pkl") for name in names):
        raise FormatError(
            f"{path}: is a TorchScript program, which would have to be run; in the program that made it: "
            "torch.save(model.state_dict(), FILE)"
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"{path}: holds {twice!r:.80} twice, as torch.save never writes it; do not use it")
    for entry in entries:
        if entry.flag_bits & 1 or entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise FormatError(
                f"{path}: holds {entry.filename!r:.80} compressed or encrypted, as torch.save never writes it; "
                "unpack it and save the weights again with torch.save"
            )
    total = sum(entry.file_size for entry in entries)
    if total > size:
        raise FormatError(f"{path}: says it holds {total} bytes, in a file of {size}; do not use it")


def _load(file: IO[bytes]) -> Any:
    file.seek(0)
    with warnings.catch_warnings():
        # About old formats and protocols: nothing that whoever starts from the weights could change.
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True)


def _load_around(file: IO[bytes], path: Path, refusal: Exception) -> tuple[Any, tuple[str, ...]]:
    """Read what `weights_only` refused because of classes that it does not know, with empty containers for these."""
    # No error has torch's as its cause: that advises to run what is in the file.
    file.seek(0)
    if file.read(4) != ZIP:
        raise _refused(path, [name for name in _named(file) if not name.startswith(_OF_WEIGHTS)], refusal) from None
    file.seek(0)
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except _UNREADABLE as error:
        raise _refused(path, (), error) from None
    acting = [name for name in names if _does_something(name)]
    if acting or not names:
        raise _refused(path, acting, refusal) from None
    try:
        stand_ins: list[Any] = [(_Opaque if name.startswith("numpy.") else _Inert, name) for name in names]
        with torch.serialization.safe_globals(stand_ins):
            return _load(file), tuple(names)
    except _UNREADABLE as error:
        raise _refused(path, names, error) from None


def _named(file: IO[bytes]) -> list[str]:
    """What the pickles at the start of a file name, as far as they can be followed. Nothing of them is built."""
    file.seek(0)
    names: dict[str, None] = {}
    # A file of before zip files begins with five: a number, a version, the system, the content, the storages' names.
    with suppress(*_UNREADABLE):
        for _ in range(5):
            texts: list[str] = []
            memo: dict[int, str] = {}
            top = ""
            for opcode, value, _ in islice(pickletools.genops(file), _MOST_OPCODES):
                if opcode.name == "MEMOIZE":
                    memo[len(memo)] = top
                elif value is not None and opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
                    memo[int(value)] = top
                elif value is not None and opcode.name == "GLOBAL":
                    names[value.replace(" ", ".", 1)] = None
                elif opcode.name == "STACK_GLOBAL":
                    names[".".join(texts)] = None
                else:
                    got = value
                    if isinstance(value, int) and opcode.name in ("GET", "BINGET", "LONG_BINGET"):
                        got = memo.get(value)
                    top = got if isinstance(got, str) else ""
                    texts = [*texts[-1:], top] if top else texts
    return list(names)


def _does_something(name: str) -> bool:
    """Whether the standard library's `name` is more than a class that holds values."""
    module, _, attribute = name.rpartition(".")
    # Pickles of protocol 2 have the names of Python 2.
    module, attribute = NAME_MAPPING.get((module, attribute), (IMPORT_MAPPING.get(module, module), attribute))
    if module == "builtins":
        return not isinstance(getattr(builtins, attribute, None), type)
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names and root not in _HOLD_VALUES


def _refused(path: Path, names: Sequence[str], error: Exception) -> FormatError:
    what = f"names {', '.join(names[:5])}" + (", ..." if len(names) > 5 else "") if names else _reason(error)
    return FormatError(
        f"{path}: holds something else than weights ({what}), and reading that could run a program; nothing was run; "
        "in the program that made it: torch.save(model.state_dict(), FILE)"
    )


def _reason(error: Exception) -> str:
    """The one sentence of torch's explanations that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    told = [line.partition("WeightsUnpickler error:")[2].strip() for line in lines if "WeightsUnpickler error:" in line]
    text = next((line for line in (*told, *lines) if line), "a pickle of something else")
    if text.startswith(("Unsupported operand", "Invalid magic number")):
        return "a pickle that torch.save did not write"
    return text.partition(" Please use `torch")[0].rstrip(".")[:200]
