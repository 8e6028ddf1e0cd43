"""Weights out of any file that holds some: what it is, is seen from what is in it, never from its name.

a run, a checkpoint                     its model's tensors, raw or averaged
a folder with *.safetensors.index.json  Hugging Face, in several files; or with one *.safetensors, or *.bin
a file in the safetensors format
a file of torch.save                    a state dict, or a dict with one under `state_dict` (Lightning), ...
"""

import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from runner.checkpoint.files import CHUNK_BYTES, DIGEST_LENGTH, FileRecord, Member
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.manifest import MANIFEST_NAME
from runner.checkpoint.pickled import PICKLE, WANTED, ZIP, check_no_module, opened, read_pickled
from runner.checkpoint.tensors import can_store, tensors_in
from runner.checkpoint.torch_file import PREFIX
from runner.errors import CheckpointError, DamagedError, FormatError

INDEX_LIMIT = 256 * 1024 * 1024
"""Bytes of the largest index that is read."""

_UNDER = ("state_dict", "model_state_dict", "model")
"""Where programs keep a state dict beside other things, the most telling first."""
_FILE_NAME = re.compile(r"[^/\\\0]+")


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and where they come from."""

    tensors: Mapping[str, Tensor]
    what: str
    """`the safetensors file PATH`"""
    notes: tuple[str, ...] = ()
    """What else was there."""
    others: Mapping[str, Any] = field(default_factory=dict)
    """What stands beside the state dict in a file of torch.save, by its keys."""


def read_weights(path: Path, which: str | int = "latest", *, weights: str = "raw") -> Weights:
    """The weights at `path`, on the CPU. `which` and `weights` ("raw" or "averaged") choose within a run of ours.

    Runs nothing that is in a file. Raises CheckpointError saying what is there instead.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: is not there; wanted {WANTED}")
    if _is_ours(path):
        return _of_checkpoint(path, which, weights)
    if which != "latest":
        raise CheckpointError(f"{path}: is no run, so {which!r} cannot be chosen in it; leave '@{which}' out")
    found = _of_folder(path) if path.is_dir() else _of_file(path)
    if found is None:
        return _of_checkpoint(path, which, weights)
    if weights != "raw":
        raise CheckpointError(f"{found.what}: has no averaged weights that are known as such; use the raw ones")
    if not found.tensors:
        raise FormatError(f"{found.what}: holds no tensor; wanted weights: {WANTED}")
    return found


def look(path: Path, which: str | int = "latest") -> None:
    """Raise CheckpointError where it can be seen without reading tensors that `read_weights` will refuse."""
    if not path.exists():
        raise CheckpointError(f"{path}: is not there; wanted {WANTED}")
    if _is_ours(path):
        Checkpoint.open(path, which)
    elif path.is_dir():
        _weights_in(path)
    else:
        _kind_of(path)


def has_checksums(path: Path) -> bool:
    """Whether a file of another program, which has been read, is one whose every byte is checked on the way."""
    if not path.is_file():
        return False
    with opened(path) as file:
        return file.read(len(ZIP)) == ZIP


def is_ours(path: Path) -> bool:
    """Whether `path` is a run, or a checkpoint of any form. It is checked where it is read."""
    if path.is_file():
        return _kind_of(path) == "ours"
    return _is_ours(path)


def _is_ours(path: Path) -> bool:
    marks = (MANIFEST_NAME, "run.json", "checkpoints")
    return path.is_dir() and (path.name == "checkpoints" or any((path / mark).exists() for mark in marks))


def _of_checkpoint(path: Path, which: str | int, weights: str) -> Weights:
    checkpoint = Checkpoint.open(path, which)
    what = f"{weights} weights of the checkpoint {checkpoint.path}"
    return Weights(model_tensors(checkpoint, weights), what)


def model_tensors(checkpoint: Checkpoint, weights: str) -> Mapping[str, Tensor]:
    """The model's tensors in a checkpoint, `raw` or `averaged`. Raises CheckpointError if it has none of that kind."""
    check_kind(weights)
    if weights == "raw":
        return checkpoint.tensors()
    averaged = checkpoint.state(["averaged"]).get("averaged")
    if averaged is None:
        raise CheckpointError(f"{checkpoint.path}: has no averaged weights; use the raw ones")
    tensors: Mapping[str, Tensor] = averaged["model"]
    return tensors


def check_kind(weights: str) -> None:
    """Raise CheckpointError unless it is `raw` or `averaged`."""
    if weights not in ("raw", "averaged"):
        raise CheckpointError(f"weights is {weights!r}; wanted 'raw' or 'averaged'")


def _of_file(path: Path) -> Weights | None:
    """The weights in a file of another program; None for one of ours."""
    kind = _kind_of(path)
    if kind == "torch":
        return _chosen(*read_pickled(path), path)
    if kind == "safetensors":
        return Weights(_read_safetensors(path), f"the safetensors file {path}")
    return _of_index(path) if kind == "index" else None


def _kind_of(path: Path) -> str:
    """`torch`, `safetensors`, `index` or `ours`, by how a file begins. Raises FormatError if it is none of these."""
    with opened(path) as file:
        start = file.read(512)
        size = os.fstat(file.fileno()).st_size
    if start.startswith(ZIP):
        return "ours" if _is_packed(path) else "torch"
    if start.startswith(PICKLE):
        return "torch"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        return "safetensors"
    if path.name.endswith(".index.json"):
        return "index"
    if start[257:262] == b"ustar":
        raise FormatError(
            f"{path}: is a tar file, as torch saved before version 0.4, and cannot be read without running what is in "
            "it; load it with the program that made it and save its state dict again"
        )
    raise FormatError(f"{path}: holds no weights ({_beginning(start)}); wanted {WANTED}")


def _is_packed(path: Path) -> bool:
    """Whether a zip file says that it is a checkpoint of ours. It is checked where it is read."""
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            return not {MANIFEST_NAME, f"{PREFIX}{MANIFEST_NAME}"}.isdisjoint(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise DamagedError(f"{path}: is damaged or cut short ({error}); get it again") from error


def _chosen(value: Any, unknown: tuple[str, ...], path: Path) -> Weights:
    """The state dict in what a file of torch.save holds."""
    notes = [f"beside the weights are {', '.join(unknown)}; they were not built"] if unknown else []
    if not isinstance(value, Mapping):
        raise FormatError(f"{path}: holds a {type(value).__name__}; wanted weights: {WANTED}")
    what = f"the file {path}"
    place = next((key for key in _UNDER if isinstance(value.get(key), Mapping) and _tensors(value[key])), None)
    tensors = _tensors(value if place is None else value[place])
    if not tensors:
        check_no_module(value, unknown, path)
        there = ", ".join(repr(key) for key in list(value)[:8]) or "nothing"
        raise FormatError(
            f"{path}: holds {there}, and none of them is a state dict; wanted weights: {WANTED}"
            + (f"; what needs {', '.join(unknown[:3])} was not built" if unknown else "")
        )
    if place is not None:
        lightning = "pytorch-lightning_version" in value
        what = f"{place!r} in the {'Lightning checkpoint' if lightning else 'file'} {path}"
    others = [str(key) for key in (value if place is None else value[place]) if key not in tensors]
    if others:
        notes.append(f"no tensors, and passed over: {', '.join(others[:5])}" + (", ..." if len(others) > 5 else ""))
    if "n_averaged" in tensors and all(name.startswith("module.") for name in tensors.keys() - {"n_averaged"}):
        # How many weights an AveragedModel has averaged: no tensor of the model.
        del tensors["n_averaged"]
    beside = {} if place is None else {key: item for key, item in value.items() if key != place}
    return Weights(tensors, what, tuple(notes), beside)


def _tensors(values: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {
        name: value.detach()
        for name, value in values.items()
        if isinstance(name, str) and isinstance(value, Tensor) and can_store(value)
    }


def _of_folder(folder: Path) -> Weights | None:
    return _of_file(_weights_in(folder))


def _weights_in(folder: Path) -> Path:
    """The file in a folder as Hugging Face lays it out that holds the weights, or says which files do."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be listed ({error.strerror}); name a folder you may read") from error
    for ending in (".safetensors.index.json", ".safetensors", ".bin.index.json", ".bin"):
        found = [name for name in names if name.endswith(ending)]
        if len(found) > 1:
            raise CheckpointError(f"{folder}: holds {', '.join(found[:4])}; name one of them")
        if found:
            return folder / found[0]
    there = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
    raise FormatError(f"{folder}: holds no weights (there is {there}); wanted {WANTED}")


def _of_index(path: Path) -> Weights:
    """The weights in the files that a Hugging Face index names."""
    tensors: dict[str, Tensor] = {}
    by_file: dict[str, list[str]] = {}
    for name, file in _weight_map(path).items():
        by_file.setdefault(file, []).append(name)
    notes = []
    for file, names in by_file.items():
        place = path.parent / file
        if not place.exists():
            raise DamagedError(f"{place}: is not there, and {path.name} names it; get the folder again")
        part = _of_file(place)
        there: Mapping[str, Tensor] = {} if part is None else part.tensors
        lost = [name for name in names if name not in there]
        if lost:
            raise DamagedError(f"{place}: has no tensor {lost[0]!r}, and {path.name} says so; get the folder again")
        tensors |= {name: there[name] for name in names}
        if len(there) > len(names):
            notes.append(f"{file}: {len(there) - len(names)} tensors that {path.name} does not list are passed over")
    return Weights(tensors, f"the {len(by_file)} files of {path}", tuple(notes))


def _weight_map(path: Path) -> dict[str, str]:
    """Which file of an index holds which tensor. Raises FormatError for names that could lead out of its folder."""
    with opened(path) as file:
        raw = file.read(INDEX_LIMIT + 1)
    try:
        if len(raw) > INDEX_LIMIT:
            raise ValueError(f"more than {INDEX_LIMIT} bytes")
        values = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is not JSON ({error}); wanted a Hugging Face index; get it again") from error
    names = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
        raise FormatError(f"{path}: has no 'weight_map' of tensors to files; wanted a Hugging Face index; get it again")
    for name, file in names.items():
        if not _FILE_NAME.fullmatch(file) or file in (".", ".."):
            raise FormatError(
                f"{path}: puts {name!r:.80} into {file!r:.120}; wanted the name of a file in the same folder; "
                "do not use it"
            )
    return names


class _WithoutSums(Member):
    """A file of another program: nobody has recorded checksums of it, so its bytes are taken as they are."""

    def __init__(self, path: Path, size: int) -> None:
        chunks = -(-size // CHUNK_BYTES)
        super().__init__(path.resolve(), FileRecord(size, "", CHUNK_BYTES, " " * DIGEST_LENGTH * chunks))

    def fill(self, index: int, into: memoryview) -> bool:
        super().fill(index, into)
        return True


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        size = path.stat().st_size
        with _WithoutSums(path, size) as member:
            tensors = tensors_in(member)
        if path.stat().st_size != size:
            raise DamagedError(f"{path}: has changed while it was read; wait until it is complete")
        return tensors
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); wanted a readable file") from error
    except (MemoryError, RuntimeError) as error:
        raise FormatError(f"{path}: cannot be read ({error}); get it again") from error


def _beginning(start: bytes) -> str:
    return f"it begins with {start[:16]!r}" if start else "it is empty"
