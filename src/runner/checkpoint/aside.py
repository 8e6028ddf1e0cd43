"""What a resume from an older checkpoint leaves behind: moved to `aside/<attempt>/`, never listed or removed."""

import os
from collections.abc import Sequence
from pathlib import Path

from runner.checkpoint.durable import again, make_directory, sync_directory, unused
from runner.checkpoint.listing import ASIDE, list_checkpoints
from runner.errors import ResumeError


def move_aside(newer: Sequence[Path], directory: Path, attempt: int) -> list[Path]:
    """Move these checkpoints of `directory` out of the way; where they are now. Raises ResumeError."""
    aside = directory / ASIDE / str(attempt)
    moved: list[Path] = []
    try:
        make_directory(aside)
        # The newest first: if this is cut short, what remains is still a row without gaps.
        for path in reversed(newer):
            target = unused(aside, path.name)
            again(os.rename, path, target)
            moved.append(target)
        sync_directory(aside)
        sync_directory(directory)
    except OSError as error:
        raise ResumeError(
            f"{aside}: newer checkpoints could not be moved there ({error.strerror}); {len(moved)} of {len(newer)} "
            "were; make the directory writable, or resume from the newest"
        ) from error
    return moved


def generations_aside(directory: Path) -> list[int]:
    """The generations of what was moved aside: none of them is given out again."""
    aside = directory / ASIDE
    attempts = sorted(path for path in aside.iterdir() if path.is_dir()) if aside.is_dir() else []
    return [checkpoint.generation for path in attempts for checkpoint in list_checkpoints(path)[0]]
