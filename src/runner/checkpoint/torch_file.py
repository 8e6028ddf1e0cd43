"""A checkpoint as a file that `torch.load(weights_only=True)` opens: the members of a torch file that are not its own.

    archive/data.pkl       what torch shows: {name of a model's tensor: tensor, ..., "runner": ...}
    archive/data/NAME      the checkpoint's files, unchanged; each is one storage, and tensors are views into it

Under "runner" are `format`, `files` (each as a tensor of bytes, the manifest, the tree and the config among them), and
`tensors`: all tensors by file and name. A dtype that tensor files lack is shown as the one it is stored as.

The pickle is written here, opcode by opcode, and never read: a file is taken if its pickle is byte for byte the one
that belongs to its members. No torch here.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from runner.checkpoint.contents import FROZEN, MODEL, STATE, TENSOR_FILES, model_names
from runner.checkpoint.damage import read_header
from runner.checkpoint.files import FileRecord, Member
from runner.checkpoint.header import ITEM_BYTES, TORCH_NAMES, Entry
from runner.checkpoint.manifest import MANIFEST_NAME, Manifest

PREFIX = "archive/data/"
KEY = "runner"
PICKLE = "archive/data.pkl"
FRAME = frozenset({PICKLE, "archive/byteorder", "archive/version"})


def frame(
    manifest: Manifest, manifest_size: int, opened: Callable[[str, FileRecord], Member], where: Path
) -> dict[str, bytes]:
    """The members that make a torch file of a checkpoint's files, by name. Raises DamagedError."""
    tensors: dict[str, dict[str, Entry]] = {}
    for file in TENSOR_FILES:
        if file in manifest.files:
            with opened(file, manifest.files[file]) as member:
                tensors[file] = {name: e for name, e in read_header(member).entries.items() if _can_be_shown(e)}
    names: Mapping[str, str] = {}
    if STATE in manifest.files:
        with opened(STATE, manifest.files[STATE]) as member:
            names = model_names(member.read(), where / STATE)
    sizes = {MANIFEST_NAME: manifest_size, **{name: record.size for name, record in manifest.files.items()}}
    return {
        PICKLE: _pickle(manifest.format, sizes, tensors, names),
        "archive/byteorder": b"little",
        "archive/version": b"3\n",
    }


def _can_be_shown(entry: Entry) -> bool:
    """Whether it begins at a multiple of its elements, as torch wants it, and as this program writes it."""
    return entry.begin % ITEM_BYTES[entry.dtype] == 0


def _pickle(
    version: int, sizes: Mapping[str, int], tensors: Mapping[str, Mapping[str, Entry]], names: Mapping[str, str]
) -> bytes:
    shown: dict[str, bytes] = {}
    for name, stored in names.items():
        for file in (MODEL, FROZEN):
            if stored in tensors.get(file, {}) and name != KEY:
                shown[name] = _view(file, sizes[file], tensors[file][stored])
    files = {name: _view(name, size, Entry(name, "U8", (size,), 0, size)) for name, size in sizes.items()}
    by_file = {
        file: _dict({name: _view(file, sizes[file], entry) for name, entry in entries.items()})
        for file, entries in tensors.items()
    }
    ours = {"format": _int(version), "files": _dict(files), "tensors": _dict(by_file)}
    return b"\x80\x02" + _dict({**shown, KEY: _dict(ours)}) + b"."


def _view(file: str, size: int, entry: Entry) -> bytes:
    """A call of torch's that makes a tensor of part of a storage."""
    storage = _tuple(
        [_text("storage"), _name("torch.storage", "UntypedStorage"), _text(file), _text("cpu"), _int(size)]
    )
    strides = [math.prod(max(length, 1) for length in entry.shape[axis + 1 :]) for axis in range(len(entry.shape))]
    arguments = [
        storage + b"Q",
        _int(entry.begin // ITEM_BYTES[entry.dtype]),
        _tuple(map(_int, entry.shape)),
        _tuple(map(_int, strides)),
        b"\x89",
        _name("collections", "OrderedDict") + b")R",
        _name("torch", TORCH_NAMES[entry.dtype]),
    ]
    return _name("torch._utils", "_rebuild_tensor_v3") + _tuple(arguments) + b"R"


def _dict(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(_text(key) + value for key, value in items.items()) + b"u"


def _tuple(items: Iterable[bytes]) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + len(raw).to_bytes(4, "little") + raw


def _int(value: int) -> bytes:
    if value < 2**31:
        return b"J" + value.to_bytes(4, "little")
    return b"\x8a\x08" + value.to_bytes(8, "little")


def _name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode("ascii")
