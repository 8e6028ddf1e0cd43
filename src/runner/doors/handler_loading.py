"""A handler out of a file, whoever wrote it."""

import secrets
from pathlib import Path

import torch
from torch import nn

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.interop import is_ours
from runner.doors.handler_files import read
from runner.doors.handler_restoring import Asked, Restoring, fitted, tell_other
from runner.doors.handler_settings import Parts
from runner.doors.handler_split import Content, place_of, set_at
from runner.doors.handler_world import placed, together
from runner.doors.rebuilding import as_written, call_of_config
from runner.runs.saved import SavedModel, read_saved, rebuild


def load(path: Path, device: str | torch.device | None, asked: Asked) -> Parts:
    """What `path` holds, on `device` (None: where it was, if that is here). All processes load; one error is all's."""
    _, world = placed("cpu" if device is None else device)
    loaded: list[Parts] = []
    with together(world):
        loaded.append(_load(path, device, asked))
    return loaded[0]


def _load(path: Path, device: str | torch.device | None, asked: Asked) -> Parts:
    if set_at(path) is None and not _is_of_door(path):
        return _of_other(read_saved(path), device, asked)
    content = read(path)
    here, _ = placed(_device_of(content) if device is None else device)
    with as_written(content.where):
        return Restoring(content, here, asked).parts()


def _is_of_door(path: Path) -> bool:
    return path.exists() and is_ours(path) and "door" in Checkpoint.open(path).config


def load_weights(model: nn.Module, path: Path, *, strict: bool) -> None:
    """The weights of any file into a model that is there. What does not fit is named; nothing at all is an error."""
    of_set = set_at(path)
    saved = read_saved(path if of_set is None else place_of(of_set, "model"))
    fitted(model, saved.tensors, saved.where, strict=strict)


def _of_other(saved: SavedModel, device: str | torch.device | None, asked: Asked) -> Parts:
    """The model of a run, or of another program's file that says how it is made."""
    here, world = placed("cpu" if device is None else device)
    model = rebuild(saved, arguments=asked.arguments, moved=asked.moved, trust=asked.trust).to(here).eval()
    tell_other(saved.where)
    return Parts(model, call_of_config(saved.config["model"]), here, world, model, run=secrets.token_hex(8))


def _device_of(content: Content) -> str:
    kind = str(content.config.get("device"))
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return kind if here.get(kind) else "cpu"
