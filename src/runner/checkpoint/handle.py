"""A checkpoint on disk, as a handle in Python: opened cheaply, its tensors and state read and verified when asked for.

torch is imported only where tensors are read, so that looking at configs and metrics stays quick.
"""

import difflib
import json
import logging
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.checkpoint.damage import damages_in
from runner.checkpoint.files import Member
from runner.checkpoint.manifest import MANIFEST_NAME, Manifest, read_manifest
from runner.checkpoint.policies import Kept, best_first
from runner.errors import CheckpointError, DamagedError, FormatError
from runner.records import Monitor, Progress

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

CONFIG = "config.json"

_NAME = re.compile(r"step-(\d+)(-\d+)?")


class Checkpoint:
    """A complete record of a run at one step."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], which: str | int = "latest") -> "Checkpoint":
        """The checkpoint at `path`: its own directory, or a run's (then `which`: "latest", "best" or a step).

        Reads manifests only. Raises CheckpointError.
        """
        if which not in ("latest", "best") and type(which) is not int:
            raise CheckpointError(
                f"{path}: no checkpoint is called {which!r}; wanted 'latest', 'best' or a step number"
            )
        place = Path(path)
        if (place / MANIFEST_NAME).exists():
            checkpoint = cls(place, read_manifest(place))
            if type(which) is int and which != checkpoint.step:
                raise CheckpointError(f"{path}: is the checkpoint of step {checkpoint.step}, not {which}; give the run")
            return checkpoint
        found, damages = list_checkpoints(_directory_of(place))
        for damage in damages.values():
            log.warning("passed over: %s", damage)
        if not found:
            raise next(
                iter(damages.values()),
                CheckpointError(f"{path}: has no checkpoint yet; train until one is saved"),
            )
        if which == "latest":
            return found[-1]
        return _best(found, place) if which == "best" else _of_step(found, which, place)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, step={self.step})"

    @property
    def generation(self) -> int:
        """Its number among the run's checkpoints, in the order of writing."""
        return self.manifest.generation

    @property
    def progress(self) -> Progress:
        """How far the training had come."""
        return self.manifest.progress

    @property
    def step(self) -> int:
        """Optimizer steps finished."""
        return self.manifest.progress.step

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return self.manifest.progress.epoch

    @property
    def metrics(self) -> Mapping[str, float]:
        """The scores of its own step."""
        return self.manifest.metrics

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was saved."""
        return self.manifest.reasons

    @property
    def config(self) -> dict[str, Any]:
        """What was built, resolved: a plain dict."""
        config: dict[str, Any] = self._document("config", dict)
        return config

    @property
    def overrides(self) -> list[str]:
        """What was typed behind `runner` when the run was launched."""
        overrides: list[str] = self._document("overrides", list)
        return overrides

    def document(self, name: str) -> bytes:
        """A file that was saved beside the state, such as config.yaml, verified."""
        record = self.manifest.files.get(name)
        if record is None:
            raise CheckpointError(f"{self.path}: has no {name!r}; it has {', '.join(self.manifest.files)}")
        with Member(self.path / name, record) as member:
            return member.read()

    def tensors(self, names: Collection[str] | None = None) -> dict[str, "Tensor"]:
        """The model's tensors by the keys of its state dict, or only those named, verified while read.

        Tied ones are the same tensor under each of their names. Raises DamagedError naming what is damaged.
        """
        from runner.checkpoint.parts import FROZEN, MODEL, STATE, model_names
        from runner.checkpoint.tensors import read_tensors

        stored = model_names(self.document(STATE), self.path / STATE)
        if names is not None:
            for name in names:
                if name not in stored:
                    raise CheckpointError(f"{self.path}: has no tensor {name!r}{_nearest(name, stored)}")
            stored = {name: stored[name] for name in stored if name in names}
        wanted = set(stored.values())
        read: dict[str, Tensor] = {}
        for file in (MODEL, FROZEN):
            if file in self.manifest.files:
                read |= read_tensors(self.path / file, self.manifest.files[file], wanted)
        lost = sorted(wanted - read.keys())
        if lost:
            raise DamagedError(f"{self.path}: the tensor {lost[0]!r} is in no tensor file; use another checkpoint")
        return {name: read[source] for name, source in stored.items()}

    def state(self) -> dict[str, Any]:
        """The whole state as it was saved, on the CPU, verified while read.

        Raises DamagedError naming the file and the tensors that are damaged.
        """
        from runner.checkpoint.parts import STATE, TENSOR_FILES, put_together
        from runner.checkpoint.tensors import read_tensors

        tree = self.document(STATE)
        files = self.manifest.files
        tensors = {file: read_tensors(self.path / file, files[file]) for file in TENSOR_FILES if file in files}
        return put_together(tree, tensors, self.path / STATE)

    def verify(self) -> list[str]:
        """Every damage, one line each; empty when all bytes of all files are those that were written."""
        damages: list[str] = []
        try:
            now = read_manifest(self.path)
            if (now.run, now.generation, now.files) != (
                self.manifest.run,
                self.manifest.generation,
                self.manifest.files,
            ):
                damages.append(f"{self.path / MANIFEST_NAME}: is another one than when it was opened; open it again")
        except CheckpointError as error:
            damages.append(str(error))
        for name, record in self.manifest.files.items():
            try:
                with Member(self.path / name, record) as member:
                    damages += damages_in(member)
            except CheckpointError as error:
                damages.append(str(error))
        return damages

    def _document(self, key: str, kind: type) -> Any:
        try:
            values = json.loads(self.document(CONFIG))
        except (ValueError, RecursionError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise FormatError(f"{self.path / CONFIG}: is not JSON ({error}); use another checkpoint") from error
        if not isinstance(values, dict) or not isinstance(values.get(key), kind):
            raise FormatError(f"{self.path / CONFIG}: has no {key!r} as a {kind.__name__}; use another checkpoint")
        return values[key]


def list_checkpoints(
    directory: Path, known: Mapping[str, Checkpoint] | None = None
) -> tuple[list[Checkpoint], dict[Path, CheckpointError]]:
    """The checkpoints in a `checkpoints/` directory, oldest first, and what is wrong with each that cannot be listed.

    Those in `known` (by directory name) are not read again. Manifests only: their files are not verified.
    """
    found: list[Checkpoint] = []
    damages: dict[Path, CheckpointError] = {}
    for path in _listed(directory):
        if known is not None and path.name in known:
            found.append(known[path.name])
            continue
        try:
            found.append(Checkpoint(path, read_manifest(path)))
        except CheckpointError as error:
            if not path.exists():
                # Retention removed it meanwhile, so a newer one is there that the listing may have missed.
                return list_checkpoints(directory, known)
            damages[path] = error
    return sorted(found, key=lambda checkpoint: (checkpoint.generation, checkpoint.step)), damages


def _listed(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name) and entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(
            f"{directory}: cannot be listed ({error.strerror}); wanted a directory of checkpoints; "
            "give a run's directory that you may read"
        ) from error
    return [directory / name for name in names]


def step_in_name(name: str) -> int | None:
    """The step in a checkpoint's directory name, for those whose manifest cannot be read; None for other names."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def as_kept(checkpoint: Checkpoint, *, protected: bool) -> Kept:
    """A checkpoint as the policies see it."""
    manifest = checkpoint.manifest
    return Kept(manifest.generation, manifest.progress, manifest.metrics, manifest.seconds, protected)


def _directory_of(place: Path) -> Path:
    """Where the checkpoints of a run (or of its `checkpoints/` directory) are."""
    if not place.exists():
        raise CheckpointError(f"{place}: is not there; give a run's directory or a checkpoint's")
    if not place.is_dir():
        raise CheckpointError(f"{place}: is a file; give a run's directory or a checkpoint's")
    if (place / "checkpoints").is_dir():
        return place / "checkpoints"
    names = sorted(path.name for path in place.iterdir())
    if place.name == "checkpoints" or any(step_in_name(name) is not None for name in names):
        return place
    if step_in_name(place.name) is not None:
        raise DamagedError(f"{place}: has no {MANIFEST_NAME}, so it is no complete checkpoint; use another one")
    there = ", ".join(names[:5]) if names else "nothing"
    raise CheckpointError(f"{place}: is neither a run nor a checkpoint; it holds {there}; give a run's directory")


def _best(found: list[Checkpoint], place: Path) -> Checkpoint:
    monitor = found[-1].config.get("monitor")
    if not isinstance(monitor, dict) or not isinstance(monitor.get("metric"), str):
        raise CheckpointError(f"{place}: its config names no monitor.metric to judge by; use 'latest' or a step number")
    judge = Monitor(monitor["metric"], str(monitor.get("mode")))
    ranked = best_first([as_kept(checkpoint, protected=False) for checkpoint in found], judge)
    if not ranked:
        raise CheckpointError(
            f"{place}: no checkpoint has a finite {judge.metric} of its own step; use 'latest' or a step number"
        )
    return next(checkpoint for checkpoint in found if checkpoint.generation == ranked[0].generation)


def _of_step(found: list[Checkpoint], step: int | str, place: Path) -> Checkpoint:
    matching = [checkpoint for checkpoint in found if checkpoint.step == step]
    if not matching:
        steps = ", ".join(str(checkpoint.step) for checkpoint in found[-10:])
        raise CheckpointError(f"{place}: has no checkpoint of step {step}; the newest are of steps {steps}")
    return matching[-1]


def _nearest(name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(list(names)[:5])}"
