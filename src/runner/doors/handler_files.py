"""What a handler writes, in one file or split (handler_split.py), and how the one becomes the other."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.checkpoint.handle import CONFIG, Checkpoint
from runner.checkpoint.single import save_file
from runner.config.decoding import why_missing
from runner.doors.handler_schedule import forget_rates, keep_rates
from runner.doors.handler_settings import Parts
from runner.doors.handler_split import (
    REST,
    SUFFIX,
    Content,
    content_in,
    facts_of,
    part_of,
    place_of,
    read_set,
    set_at,
    write_set,
)
from runner.doors.handler_world import from_all, together
from runner.doors.not_stored import tell_lost, tell_once
from runner.doors.rebuilding import check_parameters, under_own_names
from runner.errors import CheckpointError, FormatError, MissingError
from runner.records import Progress
from runner.runs.handed import documents_for, facts_here
from runner.training import generators
from runner.training.module_state import transient

if TYPE_CHECKING:
    from runner.doors.handler import NNHandler

DOOR = "handler"
"""The fact in a file that says of which training it is."""


def state_of(parts: Parts, path: Path, by_rank: Sequence[Any]) -> dict[str, Any]:
    """All of a training as a tree, to be saved at `path`. `by_rank` are the random generators of all processes."""
    state = parts.state
    if state is None:
        tree: dict[str, Any] = {"transient": transient(parts.model)}
    else:
        check_parameters(state.optimizer, parts.model, path)
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
    return under_own_names(tree, parts.model, path)


def config_of(parts: Parts) -> dict[str, Any]:
    """How everything is made."""
    nodes = {"optimizer": parts.optimizer_node, "scheduler": parts.scheduler_node, "loss": parts.loss_node}
    made = {name: node for name, node in nodes.items() if node is not None}
    return {"door": "NNHandler", "model": parts.node, **made, "device": parts.device.type}


def content_of(
    parts: Parts, path: Path, by_rank: Sequence[Any], *, metrics: Mapping[str, float], save_model_code: bool
) -> Content:
    config, state = config_of(parts), state_of(parts, path, by_rank)
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
        if parts.world.rank == 0:
            _tell_lost(parts, path)
    return written


def _tell_lost(parts: Parts, path: Path) -> None:
    """What the file just written does not hold."""
    for node in (parts.node, parts.optimizer_node, parts.scheduler_node):
        if node is not None:
            tell_lost(
                parts.model, path, node, lambda name: f"pass it when it is loaded: NNHandler.load(path, {name}=...)"
            )
    if parts.loss_node is not None and (why := why_missing(parts.loss_node)) is not None:
        line = f"set_loss_fn: what it was given {why}: no file can hold that; call it again once this is loaded"
        tell_once(parts.model, line, path)


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


def read(path: Path) -> Content:
    """What stands in a file, or in the split files of that name. Raises CheckpointError, MissingError."""
    of_set = set_at(path)
    if of_set is not None:
        return read_set(of_set)
    if not path.exists():
        raise MissingError(
            f"{path}: is not there, and neither is {place_of(path, REST).name}; give a file that a handler has saved, "
            "or the name of split files"
        )
    checkpoint = Checkpoint.open(path)
    if not {"door", "model"} <= checkpoint.config.keys():
        raise FormatError(f"{path}: is of no Python door; give a file that a handler has saved")
    part = part_of(path)
    if part not in (None, "model"):
        name = path.name.removesuffix(f".{part}{SUFFIX}")
        raise CheckpointError(f"{path}: holds the {part} part alone; give {path.with_name(name)}, which is all of them")
    _tell_newer(checkpoint, place_of(path, REST))
    return content_in(path, checkpoint, checkpoint.state())


def _tell_newer(checkpoint: Checkpoint, rest: Path) -> None:
    """Warn where split files of the same name hold a later state than the one file."""
    path, one = checkpoint.path, checkpoint.manifest
    if facts_of(rest):
        other = Checkpoint.open(rest).manifest
        if other.created > one.created and other.progress != one.progress:
            warnings.warn(
                f"{path}: is of step {one.progress.step}, and the split files beside it, which are newer, of step "
                f"{other.progress.step}; to load those, give {path.with_suffix('')}",
                stacklevel=6,
            )


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
