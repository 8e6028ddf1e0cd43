"""A checkpoint saved straight into one file, without a run: what the Python doors write.

    .zip            the files of a checkpoint as members
    compressed      the same, each a zstd frame a chunk, whatever the file is called
    anything else   a torch file, which `torch.load(weights_only=True)` opens

What is written is whole and durable, or what stood there is still there.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.checkpoint.archive import write_archive
from runner.checkpoint.compressed import zstd
from runner.checkpoint.contents import STATE
from runner.checkpoint.durable import InMemory, advice, make_directory
from runner.checkpoint.files import FileRecord, Member, Source, record_of
from runner.checkpoint.fresh import new_file, replaced_file, reported
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.manifest import Manifest, to_bytes
from runner.checkpoint.packed import Packed
from runner.checkpoint.parts import take_apart
from runner.checkpoint.tensors import TensorFile
from runner.checkpoint.torch_file import PREFIX
from runner.checkpoint.writing import check_documents
from runner.errors import DamagedError, ExistsError, SaveError
from runner.records import Progress


def save_file(
    path: Path,
    state: Mapping[str, Any],
    *,
    documents: Mapping[str, bytes],
    facts: Mapping[str, Any],
    progress: Progress | None = None,
    metrics: Mapping[str, float] | None = None,
    seconds: float = 0.0,
    overwrite: bool = True,
    compress: bool = False,
) -> Checkpoint:
    """Save a state as a checkpoint in one file, durably; its folder is made. The handle that it opens with.

    `documents` stand beside the state as files. Raises ExistsError if something is there and `overwrite` is false,
    SaveError when it cannot be written or the state is none that a checkpoint can hold, and ConfigError where the
    library for `compress` is missing; then what stood there still does.
    """
    check_target(path, overwrite=overwrite)
    if compress:
        zstd()
    check_documents(documents, path)
    try:
        parts = take_apart(state, ())
    except TypeError as error:
        raise SaveError(f"{path}: not written: {error}") from error
    contents = {**documents, STATE: parts.text()}
    contents |= {file: b"".join(TensorFile(tensors).chunks()) for file, tensors in parts.tensors.items()}
    manifest = Manifest(
        run=secrets.token_hex(8),
        generation=1,
        progress=progress or Progress(),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        seconds=seconds,
        reasons=("asked",),
        metrics=dict(metrics or {}),
        parent=None,
        facts=dict(facts),
        files={name: record_of(InMemory(data).chunks()) for name, data in contents.items()},
    )
    text = to_bytes(manifest)
    place = _Prepared(path, manifest, text, contents)
    prefix = "" if compress or path.suffix.lower() == ".zip" else PREFIX
    with written(path, manifest.size, overwrite=overwrite) as descriptor:
        write_archive(descriptor, Checkpoint(path, manifest, place), text, prefix, compress=compress)
    # Not opened again: what is there now may be another's already.
    return Checkpoint(path, manifest, _Written(path, manifest))


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise ExistsError if something stands at `path` that is not to be overwritten, SaveError if it is a folder."""
    if path.is_dir():
        raise SaveError(f"{path}: is a folder; wanted the name of a file in it")
    if not overwrite and os.path.lexists(path):
        raise ExistsError(f"{path}: stands there already, and overwrite is False; choose another name")


@contextmanager
def written(path: Path, wanted: int, *, overwrite: bool) -> Iterator[int]:
    """A file to write, which is at `path` and durable afterwards, in the place of what stood there. Its folder is made.

    `wanted` counts its bytes. Raises SaveError and ExistsError as `save_file` does.
    """
    check_target(path, overwrite=overwrite)
    try:
        make_directory(path.parent)
    except (NotADirectoryError, FileExistsError) as error:
        raise SaveError(f"{path.parent}: the folder cannot be made: a file is in its place; choose another") from error
    except OSError as error:
        raise SaveError(
            f"{path.parent}: the folder cannot be made ({error.strerror}); {advice(path.parent, error, wanted)}"
        ) from error
    opened: Callable[[Path], AbstractContextManager[int]] = replaced_file if overwrite else new_file
    try:
        with reported(path, wanted), opened(path) as descriptor:
            yield descriptor
    except SaveError as error:
        if isinstance(error.__cause__, FileExistsError):
            # Somebody else was quicker.
            check_target(path, overwrite=False)
        raise


class _Written:
    """The files of a checkpoint that was written, opened when one of them is asked for."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self._manifest = manifest

    @cached_property
    def _packed(self) -> Packed:
        packed = Packed(self.path)
        if packed.manifest().run != self._manifest.run:
            raise DamagedError(f"{self.path}: was replaced since it was written; open it again")
        return packed

    def manifest(self) -> Manifest:
        return self._packed.manifest()

    def manifest_bytes(self) -> bytes:
        return self._packed.manifest_bytes()

    def opened(self, name: str, record: FileRecord) -> Member:
        return self._packed.opened(name, record)

    def tags(self) -> tuple[str, ...]:
        return self._packed.tags()

    def damages(self) -> list[str]:
        return self._packed.damages()


class _Prepared:
    """The files of a checkpoint that is about to be written, in memory."""

    def __init__(self, path: Path, manifest: Manifest, text: bytes, contents: Mapping[str, bytes]) -> None:
        self.path = path
        self._manifest, self._text, self._contents = manifest, text, contents

    def manifest(self) -> Manifest:
        return self._manifest

    def manifest_bytes(self) -> bytes:
        return self._text

    def opened(self, name: str, record: FileRecord) -> Member:
        return Member(self.path / name, record, _held(self._contents[name]))

    def tags(self) -> tuple[str, ...]:
        return ()

    def damages(self) -> list[str]:
        return []


@contextmanager
def _held(data: bytes) -> Iterator[Source]:
    yield _Held(data)


class _Held:
    """Bytes in memory, as the source of an opened file."""

    in_chunks = False

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.size = len(data)
        self.identity = (0, id(data))

    def read_into(self, memory: memoryview, offset: int) -> int:
        part = self._data[offset : offset + len(memory)]
        memory[: len(part)] = part
        return len(part)
