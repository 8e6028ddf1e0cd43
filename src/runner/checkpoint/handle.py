"""A checkpoint on disk, as a handle in Python: opened cheaply, its tensors and state read and verified when asked for.

torch is imported only where tensors are read, so that looking at configs and metrics stays quick.
"""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.checkpoint.contents import FROZEN, MODEL, STATE, TENSOR_FILES, model_names, parse_document
from runner.checkpoint.files import Member
from runner.checkpoint.manifest import MANIFEST_NAME, Manifest
from runner.checkpoint.places import Directory, Place, place_at
from runner.errors import CheckpointError, DamagedError, FormatError
from runner.records import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)

CONFIG = "config.json"


class Checkpoint:
    """A complete record of a run at one step."""

    def __init__(self, path: Path, manifest: Manifest, place: Place | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self.place = Directory(path) if place is None else place
        """Where its files are."""

    @classmethod
    def open(cls, path: str | os.PathLike[str], which: str | int = "latest") -> "Checkpoint":
        """The checkpoint at `path`, a directory or packed; or of a run ("latest", "best", the one of a step, a tag).

        Reads manifests only. Raises CheckpointError.
        """
        from runner.checkpoint.listing import choose, directory_of, list_checkpoints

        if not isinstance(which, str) and type(which) is not int:
            raise CheckpointError(
                f"{path}: no checkpoint is called {which!r}; wanted 'latest', 'best', a step number or a tag"
            )
        try:
            found_at = place_at(Path(path))
            directory = directory_of(Path(path)) if found_at is None else None
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be looked at ({error.strerror}); give a run's directory or a checkpoint's that you "
                "may read"
            ) from error
        if found_at is not None:
            checkpoint = cls(found_at.path, found_at.manifest(), found_at)
            if type(which) is int and which != checkpoint.step:
                raise CheckpointError(f"{path}: is the checkpoint of step {checkpoint.step}, not {which}; give the run")
            if isinstance(which, str) and which not in ("latest", "best", *checkpoint.tags):
                raise CheckpointError(f"{path}: is one checkpoint, and is not tagged {which!r}; give the run")
            return checkpoint
        assert directory is not None
        found, damages = list_checkpoints(directory)
        for damage in damages.values():
            log.warning("passed over: %s", damage)
        if not found:
            raise next(
                iter(damages.values()),
                CheckpointError(f"{path}: has no checkpoint yet; train until one is saved"),
            )
        try:
            return choose(found, which, Path(path))
        except CheckpointError:
            if found[-1].path.exists():
                raise
            # Retention removed it meanwhile, so a newer one is there.
            return cls.open(path, which)

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
    def tags(self) -> tuple[str, ...]:
        """The names that were given to it."""
        return self.place.tags()

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
        if name not in self.manifest.files:
            raise CheckpointError(f"{self.path}: has no {name!r}; it has {', '.join(self.manifest.files)}")
        with self._opened(name) as member:
            return member.read()

    def tensors(
        self,
        names: Collection[str] | None = None,
        *,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        device: "str | torch.device" = "cpu",
        dtype: "torch.dtype | None" = None,
    ) -> dict[str, "Tensor"]:
        """The model's tensors by the keys of its state dict, verified while read; or some of them, read alone.

        `names` are whole names; `include` and `exclude` are patterns, such as "encoder.*". With `dtype` real numbers
        are cast; counts and truths stay what they are. Tied ones are the same tensor under each of their names.
        Raises DamagedError naming what is damaged.
        """
        from fnmatch import fnmatchcase

        from runner.checkpoint.matching import is_chosen
        from runner.checkpoint.tensors import check_dtype, placed, tensors_in

        if dtype is not None:
            check_dtype(dtype)
        stored = model_names(self.document(STATE), self.path / STATE)
        if names is not None:
            for name in names:
                if name not in stored:
                    raise CheckpointError(f"{self.path}: has no tensor {name!r}{_nearest(name, stored)}")
            stored = {name: stored[name] for name in stored if name in names}
        for pattern in (*(include or ()), *(exclude or ())):
            if not any(fnmatchcase(name, pattern) for name in stored):
                raise CheckpointError(f"{self.path}: has no tensor like {pattern!r}{_nearest(pattern, stored)}")
        stored = {name: stored[name] for name in stored if is_chosen(name, include, exclude)}
        wanted = set(stored.values())
        read: dict[str, Tensor] = {}
        for file in (MODEL, FROZEN):
            if file in self.manifest.files:
                with self._opened(file) as member:
                    read |= tensors_in(member, wanted)
        lost = sorted(wanted - read.keys())
        if lost:
            raise DamagedError(f"{self.path}: the tensor {lost[0]!r} is in no tensor file; use another checkpoint")
        read = {source: placed(tensor, device, dtype) for source, tensor in read.items()}
        return {name: read[source] for name, source in stored.items()}

    def state(self, keys: Collection[str] | None = None) -> dict[str, Any]:
        """The whole state as it was saved, on the CPU, verified while read; or what stands under some of its keys.

        With `keys` only the files that hold them are read. Raises DamagedError naming the file and the tensors that are
        damaged.
        """
        from runner.checkpoint.parts import files_of, put_together
        from runner.checkpoint.tensors import tensors_in

        tree = self.document(STATE)
        tensors: dict[str, dict[str, Tensor]] = {}
        for file in TENSOR_FILES if keys is None else files_of(keys):
            if file in self.manifest.files:
                with self._opened(file) as member:
                    tensors[file] = tensors_in(member)
        return put_together(tree, tensors, self.path / STATE, keys)

    def verify(self) -> list[str]:
        """Every damage, one line each; empty when all bytes of all files are those that were written."""
        return [str(error) for error in self.damages()]

    def damages(self) -> list[CheckpointError]:
        """What `verify` tells, as errors: a DamagedError where bytes are not those that were written.

        Any other error says that the bytes are not to be had, say because of their permissions.
        """
        from runner.checkpoint.damage import damages_in

        damages: list[CheckpointError] = []
        try:
            now = self.place.manifest()
            if (now.run, now.generation, now.files) != (
                self.manifest.run,
                self.manifest.generation,
                self.manifest.files,
            ):
                damages.append(
                    DamagedError(f"{self.path / MANIFEST_NAME}: is another one than when it was opened; open it again")
                )
        except CheckpointError as error:
            damages.append(error)
        for name in self.manifest.files:
            try:
                with self._opened(name) as member:
                    damages += [DamagedError(line) for line in damages_in(member)]
            except CheckpointError as error:
                damages.append(error)
        return damages or [DamagedError(line) for line in self.place.damages()]

    def _opened(self, name: str) -> Member:
        return self.place.opened(name, self.manifest.files[name])

    def _document(self, key: str, kind: type) -> Any:
        values = parse_document(self.document(CONFIG), self.path / CONFIG)
        if not isinstance(values, dict) or not isinstance(values.get(key), kind):
            raise FormatError(f"{self.path / CONFIG}: has no {key!r} as a {kind.__name__}; use another checkpoint")
        return values[key]


def _nearest(name: str, names: Collection[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(list(names)[:5])}"
