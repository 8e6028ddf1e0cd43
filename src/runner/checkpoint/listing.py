"""The checkpoints in a directory: which there are, and which of them is meant.

A checkpoint is any directory in `checkpoints/` that holds a manifest, whatever its name; hidden names are a writer's,
and `aside` holds what was left behind. Only manifests are read; no torch here.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.checkpoint.files import read_small
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.manifest import MANIFEST_NAME, SIZE_LIMIT, read_manifest
from runner.errors import CheckpointError, DamagedError
from runner.records import Monitor

if TYPE_CHECKING:
    from runner.checkpoint.policies import Kept

ASIDE = "aside"

_STEP_NAME = re.compile(r"step-(\d+)(-\d+)?")
_GENERATION = re.compile(rb'"generation": (\d{1,18}),')
_STEP = re.compile(rb'"progress": \{\s*"step": (\d{1,18}),')
_CHOICE = re.compile(r"(?P<path>.*)@(?:step=(?P<step>\d+)|(?P<word>[A-Za-z_][A-Za-z0-9_.-]*))", re.DOTALL)


def list_checkpoints(
    directory: Path, known: Mapping[str, Checkpoint] | None = None
) -> tuple[list[Checkpoint], dict[Path, CheckpointError]]:
    """The checkpoints in a `checkpoints/` directory, oldest first, and what is wrong with each that cannot be listed.

    Those in `known` (by directory name) are not read again. Manifests only: their files are not verified.
    """
    while True:
        found: list[Checkpoint] = []
        damages: dict[Path, CheckpointError] = {}
        vanished = False
        for path in _directories(directory):
            if known is not None and path.name in known:
                found.append(known[path.name])
                continue
            try:
                found.append(Checkpoint(path, read_manifest(path)))
            except CheckpointError as error:
                if _is_gone(path):
                    # Retention removed it meanwhile, so a newer one is there that the listing may have missed.
                    vanished = True
                    break
                if looks_like_checkpoint(path):
                    damages[path] = error
        if not vanished:
            return sorted(found, key=lambda checkpoint: (checkpoint.generation, checkpoint.step)), damages


def looks_like_checkpoint(path: Path) -> bool:
    """Whether a directory is a checkpoint or what is left of one: by its name, or by what it holds.

    One that may not be looked into counts as a checkpoint, so that it is named and not passed over.
    """
    try:
        with os.scandir(path) as entries:
            names = {entry.name for entry in entries}
    except PermissionError:
        return True
    except OSError:
        return False
    # The names of files that a manifest lists are not known without it, these are the ones that all of ours have.
    held = MANIFEST_NAME in names or "state.json" in names or any(name.endswith(".safetensors") for name in names)
    return held or step_in_name(path.name) is not None


def step_of_damaged(path: Path) -> float:
    """The step of a checkpoint whose manifest is no good, by its name or by what that still says.

    Infinite if neither tells: it counts as the newest, so that it is named and not passed over.
    """
    by_name = step_in_name(path.name)
    if by_name is not None:
        return by_name
    try:
        match = _STEP.search(read_small(path / MANIFEST_NAME, SIZE_LIMIT))
    except CheckpointError:
        return math.inf
    return int(match[1]) if match else math.inf


def generation_of_damaged(path: Path) -> int:
    """The generation of a checkpoint whose manifest is no good, by what that still says; 0 if it does not."""
    try:
        match = _GENERATION.search(read_small(path / MANIFEST_NAME, SIZE_LIMIT))
    except CheckpointError:
        return 0
    return int(match[1]) if match else 0


def newest_whole(
    checkpoints: Sequence[Checkpoint], damages: Mapping[Path, CheckpointError]
) -> tuple[Checkpoint | None, list[str]]:
    """Of what `list_checkpoints` gave: the newest of which every byte is right, and a line for each newer one."""
    whole, passed_over = newest_and_passed_over(checkpoints, damages)
    return whole, [str(error) for error in passed_over]


def newest_and_passed_over(
    checkpoints: Sequence[Checkpoint], damages: Mapping[Path, CheckpointError]
) -> tuple[Checkpoint | None, list[CheckpointError]]:
    """The same with the errors themselves: a DamagedError for what is damaged, another for what cannot be read."""
    passed_over: list[CheckpointError] = []
    whole = None
    for checkpoint in reversed(checkpoints):
        found = checkpoint.damages()
        if not found:
            whole = checkpoint
            break
        # What may be whole comes before what is not.
        first = next((error for error in found if not isinstance(error, DamagedError)), found[0])
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        passed_over.append(type(first)(f"{first}{more}"))
    since = 0 if whole is None else whole.step
    unlisted = [damages[path] for path in sorted(damages, reverse=True) if step_of_damaged(path) >= since]
    return whole, [*unlisted, *passed_over]


def step_in_name(name: str) -> int | None:
    """The step in a directory name that was made without a template; None for other names."""
    match = _STEP_NAME.fullmatch(name)
    return int(match[1]) if match else None


def as_kept(checkpoint: Checkpoint, *, protected: bool) -> "Kept":
    """A checkpoint as the policies see it."""
    from runner.checkpoint.policies import Kept

    manifest = checkpoint.manifest
    return Kept(manifest.generation, manifest.progress, manifest.metrics, manifest.seconds, protected)


def expanded(text: str) -> Path:
    """A path as it was typed: `~` is a home directory, unless something is called so."""
    return Path(text if os.path.lexists(text) else os.path.expanduser(text))  # noqa: PTH111


def split_choice(text: str) -> tuple[str, str | int]:
    """A path, and which checkpoint there is meant: of `PATH@step=N` the number, of `PATH@best` or `PATH@TAG` the word.

    Without one, "latest". A path that really ends in such words wins.
    """
    match = _CHOICE.fullmatch(text)
    # Neither raises, whatever the text or whoever owns the place; pathlib's do.
    if match is None or expanded(text).exists():
        return text, "latest"
    return match["path"], match["word"] if match["step"] is None else int(match["step"])


def choose(found: Sequence[Checkpoint], which: str | int, place: Path) -> Checkpoint:
    """Of a run's checkpoints (oldest first, at least one): "latest", "best", that of a step, or the newest so tagged.

    `place` is named in errors. Raises CheckpointError.
    """
    if which == "latest":
        return found[-1]
    if which == "best":
        return _best(found, place)
    return _of_step(found, which, place) if isinstance(which, int) else _tagged(found, which, place)


def directory_of(place: Path) -> Path:
    """Where the checkpoints of a run (or of its `checkpoints/` directory) are. Raises CheckpointError."""
    if not place.exists():
        path, which = split_choice(str(place))
        chosen = "" if which == "latest" else f"; which={which!r} chooses in {path}"
        raise CheckpointError(f"{place}: is not there; give a run's directory or a checkpoint's{chosen}")
    if not place.is_dir():
        raise CheckpointError(f"{place}: is a file; give a run's directory or a checkpoint's")
    if (place / "checkpoints").is_dir() or (place / "run.json").is_file():
        return place / "checkpoints"
    if place.name != "checkpoints" and looks_like_checkpoint(place):
        raise DamagedError(f"{place}: has no {MANIFEST_NAME}, so it is no complete checkpoint; use another one")
    names = sorted(path.name for path in place.iterdir())
    if place.name == "checkpoints" or any(looks_like_checkpoint(place / name) for name in names):
        return place
    there = ", ".join(names[:5]) if names else "nothing"
    raise CheckpointError(f"{place}: is neither a run nor a checkpoint; it holds {there}; give a run's directory")


def _directories(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.name != ASIDE and entry.is_dir()
            )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(
            f"{directory}: cannot be listed ({error.strerror}); wanted a directory of checkpoints; "
            "give a run's directory that you may read"
        ) from error
    return [directory / name for name in names]


def _is_gone(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _best(found: Sequence[Checkpoint], place: Path) -> Checkpoint:
    monitor = found[-1].config.get("monitor")
    if not isinstance(monitor, dict) or not isinstance(monitor.get("metric"), str):
        raise CheckpointError(f"{place}: its config names no monitor.metric to judge by; use 'latest' or a step number")
    from runner.checkpoint.policies import best_first

    judge = Monitor(monitor["metric"], str(monitor.get("mode")))
    ranked = best_first([as_kept(checkpoint, protected=False) for checkpoint in found], judge)
    if not ranked:
        raise CheckpointError(
            f"{place}: no checkpoint has a finite {judge.metric} of its own step; use 'latest' or a step number"
        )
    return next(checkpoint for checkpoint in found if checkpoint.generation == ranked[0].generation)


def _of_step(found: Sequence[Checkpoint], step: int, place: Path) -> Checkpoint:
    matching = [checkpoint for checkpoint in found if checkpoint.step == step]
    if not matching:
        steps = ", ".join(str(checkpoint.step) for checkpoint in found[-10:])
        raise CheckpointError(f"{place}: has no checkpoint of step {step}; the newest are of steps {steps}")
    return matching[-1]


def _tagged(found: Sequence[Checkpoint], tag: str, place: Path) -> Checkpoint:
    tags = {name: checkpoint for checkpoint in found for name in checkpoint.tags}
    if tag not in tags:
        there = ", ".join(sorted(tags)) or "there are none"
        raise CheckpointError(
            f"{place}: no checkpoint is called {tag!r}; wanted 'latest', 'best', a step number or a tag ({there})"
        )
    return tags[tag]
