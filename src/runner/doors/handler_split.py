"""A handler's file as split files: how they are written as one, read as one, and what each holds.

    final.pth               everything, or without it
    final.model.pth         weights, and how the model is made: a model's file on its own
    final.optimizer.pth     the optimizer's state
    final.scheduler.pth     the scheduler's state
    final.training.pth      all else: progress, history, averaged weights, scaler, generators; names the others

Each is a packed checkpoint that torch opens. They know which save they are of; a mix of two is refused.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.checkpoint.contents import STATE, TENSOR_FILES
from runner.checkpoint.durable import sync_directory
from runner.checkpoint.fresh import reported
from runner.checkpoint.handle import CONFIG, Checkpoint
from runner.checkpoint.single import check_target, save_file
from runner.errors import CheckpointError, MissingError, SaveError
from runner.records import Progress
from runner.runs.handed import documents_for

SUFFIX = ".pth"
REST = "training"
"""The part that names the others."""
_SET, _PART, _PARTS = "handler_set", "handler_part", "handler_parts"
_KEYS = {"model": ("model", "transient"), "optimizer": ("optimizer",), "scheduler": ("scheduler",)}


@dataclass(frozen=True)
class Content:
    """What stands in a file, or in the files of a set together."""

    where: Path
    state: Mapping[str, Any]
    config: Mapping[str, Any]
    documents: Mapping[str, bytes]
    """What was saved beside, such as the model's source."""
    facts: Mapping[str, Any]
    progress: Progress
    metrics: Mapping[str, float]
    file: Checkpoint | None = None
    """The one with the model in it; None where it is not written yet."""


def write_set(content: Content, path: Path) -> None:
    """The split files. Those that stood there stay until all new ones are written."""
    chosen = {name: {key: content.state[key] for key in keys if key in content.state} for name, keys in _KEYS.items()}
    split = {key for state in chosen.values() for key in state}
    # What names the others is the first to take its place: from then on, the new save is the one that is there.
    states = {REST: {key: value for key, value in content.state.items() if key not in split}}
    states |= {name: state for name, state in chosen.items() if state}
    common = {**content.facts, _SET: secrets.token_hex(8), _PARTS: list(states)}
    places = {name: place_of(path, name) for name in states}
    for place in places.values():
        check_target(place, overwrite=True)
    _finish(path)
    try:
        for name, state in states.items():
            config = {"door": content.config["door"], "model": content.config["model"]}
            documents = documents_for(content.config if name == REST else config)
            with _named(places[name]):
                save_file(
                    _hidden(places[name]),
                    state,
                    documents={**documents, **(content.documents if name == "model" else {})},
                    facts={**common, _PART: name},
                    progress=content.progress,
                    metrics=content.metrics,
                )
    except BaseException:
        for place in places.values():
            with suppress(OSError):
                _hidden(place).unlink()
        raise
    with reported(path, 0):
        for place in places.values():
            _take_place(_hidden(place), place)
            # One after the other, so that no power cut finds a part of the new save without the one that names it.
            sync_directory(path.parent)
    for name in _KEYS.keys() - states.keys():
        # Of an earlier save that had more.
        if part_of(place_of(path, name)) is not None:
            place_of(path, name).unlink()


@contextmanager
def _named(place: Path) -> Iterator[None]:
    """Let an error tell of the file that is meant, not of the one that is written in its stead for now."""
    try:
        yield
    except SaveError as error:
        raise type(error)(str(error).replace(str(_hidden(place)), str(place))) from error.__cause__


def _take_place(file: Path, place: Path) -> None:
    try:
        os.replace(file, place)  # noqa: PTH105
    except FileNotFoundError as error:
        raise SaveError(
            f"{place}: what was written for it is gone: another process saves split files of this name at the same "
            "time; let each save under a name of its own"
        ) from error


def _hidden(place: Path) -> Path:
    """Where a file of a set is written."""
    return place.with_name(f".{place.name}.new{SUFFIX}")


def _finish(path: Path) -> None:
    """Put in their places the files of a save that was broken off while they were put there."""
    with suppress(CheckpointError):
        for name, file in _files_of(Checkpoint.open(place_of(path, REST)), path).items():
            if file != place_of(path, name):
                with reported(file, 0):
                    _take_place(file, place_of(path, name))


def _files_of(rest: Checkpoint, path: Path) -> dict[str, Path]:
    """The files of a set: each in its place, or else, where a save was broken off, where it was written."""
    facts = rest.manifest.facts
    names, files = facts.get(_PARTS), {}
    for name in _KEYS:
        if isinstance(names, list) and name in names:
            place = place_of(path, name)
            of_set = (one for one in (place, _hidden(place)) if facts_of(one).get(_SET) == facts.get(_SET))
            files[name] = next(of_set, place)
    return files


def facts_of(file: Path) -> Mapping[str, Any]:
    """The facts in a file's manifest; none where no checkpoint is."""
    with suppress(CheckpointError):
        return Checkpoint.open(file).manifest.facts if file.is_file() else {}
    return {}


def place_of(path: Path, part: str) -> Path:
    """The file of one part of the set that is called `path`."""
    name = path.stem if path.suffix in (SUFFIX, ".pt", ".zip") else path.name
    return path.with_name(f"{name}.{part}{SUFFIX}")


def part_of(file: Path) -> str | None:
    """Which part of a set a file is, if it is one."""
    part = facts_of(file).get(_PART)
    return part if isinstance(part, str) else None


def set_at(path: Path) -> Path | None:
    """The name of the set that `path` stands for: its own, or that of the only set in a folder."""
    if path.is_dir():
        found = sorted(path.glob(f"*.{REST}{SUFFIX}"))
        if len(found) > 1:
            names = ", ".join(one.name.removesuffix(f".{REST}{SUFFIX}") for one in found)
            raise CheckpointError(f"{path}: holds several saves, {names}; name one of them: {path}/NAME")
        return path / found[0].name.replace(f".{REST}{SUFFIX}", SUFFIX) if found else None
    return path if not path.exists() and place_of(path, REST).is_file() else None


def read_set(path: Path) -> Content:
    """What stands in the split files of this name. Raises CheckpointError, MissingError."""
    rest = model = Checkpoint.open(place_of(path, REST))
    state, documents = dict(rest.state()), _documents(rest)
    for name, file in _files_of(rest, path).items():
        if not file.is_file():
            raise MissingError(f"{file}: is not there, and belongs to {rest.path}; put it back beside the others")
        part = Checkpoint.open(file)
        if part.manifest.facts.get(_SET) != rest.manifest.facts.get(_SET):
            raise CheckpointError(
                f"{file}: is of another save than {rest.path.name}; files were mixed; use the files of one save"
            )
        model = part if name == "model" else model
        state |= part.state()
        documents |= _documents(part)
    content = content_in(path, rest, state)
    facts = {key: value for key, value in content.facts.items() if key not in (_SET, _PART, _PARTS)}
    return replace(content, documents=documents, facts=facts, file=model)


def content_in(path: Path, file: Checkpoint, state: Mapping[str, Any]) -> Content:
    """What stands in a file, beside its state."""
    manifest = file.manifest
    return Content(
        path, state, file.config, _documents(file), manifest.facts, manifest.progress, manifest.metrics, file
    )


def _documents(checkpoint: Checkpoint) -> dict[str, bytes]:
    own = {STATE, CONFIG, *TENSOR_FILES}
    return {name: checkpoint.document(name) for name in checkpoint.manifest.files if name not in own}
