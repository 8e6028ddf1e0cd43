"""What a handler writes, in one file or split, and how the one becomes the other.

    final.pth               everything
    final.model.pth         weights, and how the model is made: a model's file on its own
    final.optimizer.pth     the optimizer's state
    final.scheduler.pth     the scheduler's state
    final.training.pth      all else: progress, history, averaged weights, scaler, generators; names the others

Each is a packed checkpoint that torch opens. Split files know which save they are of; a mix of two is refused.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.checkpoint.contents import STATE, TENSOR_FILES
from runner.checkpoint.durable import sync_directory
from runner.checkpoint.fresh import reported
from runner.checkpoint.handle import CONFIG, Checkpoint
from runner.checkpoint.single import check_target, save_file
from runner.doors.handler_schedule import forget_rates, keep_rates
from runner.doors.handler_settings import Parts
from runner.doors.handler_world import from_all, together
from runner.errors import CheckpointError, MissingError
from runner.records import Progress
from runner.runs.handed import documents_for, facts_here
from runner.training import generators
from runner.training.module_state import transient

if TYPE_CHECKING:
    from runner.doors.handler import NNHandler

DOOR = "handler"
"""The fact in a file that says of which training it is."""
_SET, _PART, _PARTS = "handler_set", "handler_part", "handler_parts"
SUFFIX = ".pth"
_KEYS = {"model": ("model", "transient"), "optimizer": ("optimizer",), "scheduler": ("scheduler",)}
_REST = "training"


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


def state_of(parts: Parts, by_rank: Sequence[Any]) -> dict[str, Any]:
    """All of a training as a tree. `by_rank` are the random generators of all processes."""
    state = parts.state
    if state is None:
        tree: dict[str, Any] = {"model": parts.model.state_dict(), "transient": transient(parts.model)}
    else:
        if parts.scheduler_node is None:
            keep_rates(state.optimizer)
        tree = state.state_dict()
        if not state.own:
            # Between two trainings: what they had when the last one ended.
            tree["own"] = parts.own
            if parts.scheduler_node is None:
                forget_rates(state.optimizer)
        if parts.scheduler_state is not None:
            tree["scheduler"] = parts.scheduler_state
    if parts.generators is not None:
        tree["generators"] = parts.generators
    tree[DOOR] = {
        "history": [dict(row) for row in parts.history],
        "seed": parts.seed,
        "ema_decay": parts.ema_decay,
        "cut": parts.cut,
        "auto_save": None if parts.auto is None else asdict(parts.auto),
        "auto_saved": list(parts.auto_saved),
        "early_stopping": asdict(parts.early_stopping),
        "generators": list(by_rank) if parts.world.size > 1 else None,
    }
    return tree


def config_of(parts: Parts) -> dict[str, Any]:
    """How everything is made."""
    nodes = {"optimizer": parts.optimizer_node, "scheduler": parts.scheduler_node, "loss": parts.loss_node}
    made = {name: node for name, node in nodes.items() if node is not None}
    return {"door": "NNHandler", "model": parts.node, **made, "device": parts.device.type}


def content_of(
    parts: Parts, path: Path, by_rank: Sequence[Any], *, metrics: Mapping[str, float], save_model_code: bool
) -> Content:
    config, state = config_of(parts), state_of(parts, by_rank)
    source = documents_for(config, *([type(parts.model)] if save_model_code else []))
    documents = {name: text for name, text in source.items() if name != CONFIG}
    progress = Progress() if parts.state is None else parts.state.progress
    return Content(path, state, config, documents, {**facts_here(), DOOR: parts.run}, progress, metrics)


def write(
    parts: Parts,
    path: Path,
    *,
    metrics: Mapping[str, float],
    save_model_code: bool = False,
    single_file: bool = True,
) -> Checkpoint | None:
    """Save from rank 0, while the others wait; what fails there is raised on all. The file, on rank 0, if it is one."""
    written = None
    # Before anything can fail on one process alone: what the others wait for must be the same.
    by_rank = from_all(parts.world, generators.capture() if parts.generators is None else parts.generators)
    with together(parts.world):
        content = content_of(parts, path, by_rank, metrics=metrics, save_model_code=save_model_code)
        if parts.world.rank == 0 and single_file:
            written = write_one(content, path)
        elif parts.world.rank == 0:
            write_set(content, path)
    return written


def write_one(content: Content, path: Path) -> Checkpoint:
    """Everything in one file, in the place of what stood there."""
    return save_file(
        path,
        content.state,
        documents={**documents_for(content.config), **content.documents},
        facts=content.facts,
        progress=content.progress,
        metrics=content.metrics,
    )


def write_set(content: Content, path: Path) -> None:
    """The split files. Those that stood there stay until all new ones are written."""
    chosen = {name: {key: content.state[key] for key in keys if key in content.state} for name, keys in _KEYS.items()}
    split = {key for state in chosen.values() for key in state}
    states = {name: state for name, state in chosen.items() if state}
    states[_REST] = {key: value for key, value in content.state.items() if key not in split}
    common = {**content.facts, _SET: secrets.token_hex(8), _PARTS: list(states)}
    hidden: dict[str, Path] = {}
    try:
        for name, state in states.items():
            target = place_of(path, name)
            check_target(target, overwrite=True)
            hidden[name] = target.with_name(f".{target.name}.new{SUFFIX}")
            config = {"door": content.config.get("door"), "model": content.config["model"]}
            documents = documents_for(content.config if name == _REST else config)
            if name == "model":
                documents |= content.documents
            save_file(
                hidden[name],
                state,
                documents=documents,
                facts={**common, _PART: name},
                progress=content.progress,
                metrics=content.metrics,
            )
        with reported(path, 0):
            for name, file in hidden.items():
                os.replace(file, place_of(path, name))  # noqa: PTH105
            sync_directory(path.parent)
    finally:
        for file in hidden.values():
            file.unlink(missing_ok=True)
    for name in [*_KEYS, _REST]:
        if name not in states:
            # Of an earlier save that had more.
            _remove(place_of(path, name))


def _remove(path: Path) -> None:
    if path.is_file() and part_of(Checkpoint.open(path)) is not None:
        path.unlink()


def place_of(path: Path, part: str) -> Path:
    """The file of one part of the set that is called `path`."""
    name = path.stem if path.suffix in (SUFFIX, ".pt", ".zip") else path.name
    return path.with_name(f"{name}.{part}{SUFFIX}")


def part_of(checkpoint: Checkpoint) -> str | None:
    """Which part of a set a file is, if it is one."""
    part = checkpoint.manifest.facts.get(_PART)
    return part if isinstance(part, str) else None


def set_at(path: Path) -> Path | None:
    """The name of the set that `path` stands for: its own, or that of the only set in a folder."""
    if path.is_dir():
        found = sorted(path.glob(f"*.{_REST}{SUFFIX}"))
        if len(found) > 1:
            names = ", ".join(one.name.removesuffix(f".{_REST}{SUFFIX}") for one in found)
            raise CheckpointError(f"{path}: holds several saves, {names}; name one of them: {path}/NAME")
        return path / found[0].name.replace(f".{_REST}{SUFFIX}", SUFFIX) if found else None
    return path if not path.exists() and place_of(path, _REST).is_file() else None


def read(path: Path) -> Content:
    """What stands in a file, or in the split files of that name. Raises CheckpointError, MissingError."""
    of_set = set_at(path)
    if of_set is not None:
        return _read_set(of_set)
    if not path.exists():
        raise MissingError(
            f"{path}: is not there, and neither is {place_of(path, _REST).name}; give a file that a handler has saved, "
            "or the name of split files"
        )
    checkpoint = Checkpoint.open(path)
    part = part_of(checkpoint)
    if part not in (None, "model"):
        name = path.name.removesuffix(f".{part}{SUFFIX}")
        raise CheckpointError(f"{path}: holds the {part} part alone; give {path.with_name(name)}, which is all of them")
    return _content(path, checkpoint, checkpoint.state())


def _read_set(path: Path) -> Content:
    rest = Checkpoint.open(place_of(path, _REST))
    names = rest.manifest.facts.get(_PARTS)
    state: dict[str, Any] = {}
    documents: dict[str, bytes] = {}
    model = rest
    for name in names if isinstance(names, list) else [_REST]:
        file = place_of(path, name)
        if not file.is_file():
            raise MissingError(f"{file}: is not there, and belongs to {rest.path}; put it back beside the others")
        part = rest if name == _REST else Checkpoint.open(file)
        if part.manifest.facts.get(_SET) != rest.manifest.facts.get(_SET):
            raise CheckpointError(
                f"{file}: is of another save than {rest.path.name}; a save was broken off, or files were mixed; "
                "use the files of one save"
            )
        model = part if name == "model" else model
        state |= part.state()
        documents |= _documents(part)
    content = _content(path, rest, state)
    facts = {key: value for key, value in content.facts.items() if key not in (_SET, _PART, _PARTS)}
    return Content(path, state, content.config, documents, facts, content.progress, content.metrics, model)


def _content(path: Path, checkpoint: Checkpoint, state: Mapping[str, Any]) -> Content:
    manifest = checkpoint.manifest
    return Content(
        path,
        state,
        checkpoint.config,
        _documents(checkpoint),
        manifest.facts,
        manifest.progress,
        manifest.metrics,
        checkpoint,
    )


def _documents(checkpoint: Checkpoint) -> dict[str, bytes]:
    own = {STATE, CONFIG, *TENSOR_FILES}
    return {name: checkpoint.document(name) for name in checkpoint.manifest.files if name not in own}


def save_single_file(handler: "NNHandler", path: str | os.PathLike[str]) -> None:
    """Save everything to one file, as `handler.save(path)` does."""
    handler.save(path)


def save_multi_files(handler: "NNHandler", path: str | os.PathLike[str]) -> None:
    """Save to split files beside each other, as `handler.save(path, single_file=False)` does."""
    handler.save(path, single_file=False)


def save_multi_from_single(path: str | os.PathLike[str], target: str | os.PathLike[str] | None = None) -> None:
    """Split a file that was saved as one; the files get the name of `target`, by default its own. It stays."""
    write_set(read(Path(path)), Path(path if target is None else target))


def save_single_from_multi(path: str | os.PathLike[str], target: str | os.PathLike[str] | None = None) -> None:
    """Put split files into one, called `target`, by default by their common name. `path` is that, or their folder."""
    content = read(Path(path))
    file = content.where if target is None else Path(target)
    write_one(content, file if file.suffix else file.with_name(f"{file.name}{SUFFIX}"))
