"""What no file can hold of how an object was made: it is said once, when the object is saved for the first time."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import ref

from torch import nn

from runner.config.calls import unavailable

log = logging.getLogger(__name__)

_TOLD: dict[int, tuple[ref[nn.Module], set[str]]] = {}
"""Of the models that there are, by their ids: a model of the user's own need not be hashable."""


def tell_lost(model: nn.Module, path: Path, node: Mapping[str, Any], advice: Callable[[str], str]) -> None:
    """Say of the call `node`, saved at `path` with `model`, what has to be passed when it is loaded.

    `advice` says for the name of an argument what to do then.
    """
    for name, why in unavailable(node).items():
        called = str(node["_target_"]).rpartition(".")[2]
        tell_once(model, f"{called}({name}=...) {why}: no file can hold that; {advice(name)}", path)


def tell_once(model: nn.Module, line: str, path: Path) -> None:
    """Say a line at the first save of a model alone."""
    number = id(model)
    if number not in _TOLD or _TOLD[number][0]() is not model:
        _TOLD[number] = (ref(model, lambda _: _TOLD.pop(number, None)), set())
    told = _TOLD[number][1]
    if line not in told:
        told.add(line)
        log.warning("%s: %s", path, line)
