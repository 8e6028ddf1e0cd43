"""The version that a class says it has, beside the one that a file was saved by."""

import warnings
from typing import Any

from runner.errors import CheckpointError, ConfigError
from runner.runs.saved import SavedModel

VERSIONS = ("warn", "error", "silent")
"""What may be made of a file of another version than its class has now."""
SETTINGS = "_runner_save_load"
"""The attribute in which a decorated class keeps its settings, its version among them."""


def compare_versions(saved: SavedModel, cls: type, versions: str = "warn", *, stacklevel: int) -> None:
    """Say that a file is of another version than the class has now, in the way that was asked for.

    `stacklevel` counts from the caller, which is 1. Raises CheckpointError where `versions` is "error".
    """
    if versions not in VERSIONS:
        raise ConfigError(f"versions is {versions!r}; wanted one of {', '.join(map(repr, VERSIONS))}")
    settings: Any = getattr(cls, SETTINGS, None)
    version = None if settings is None else settings.version
    if versions == "silent" or saved.version is None or version is None or saved.version == version:
        return
    said = f"{saved.where}: was saved by version {saved.version!r} of {cls.__qualname__}, and this is {version!r}"
    if versions == "error":
        raise CheckpointError(f'{said}; use that version, or load(path, versions="warn") to load it all the same')
    warnings.warn(said, stacklevel=stacklevel + 1)
