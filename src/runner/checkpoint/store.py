"""The checkpoints of one run: saving, keeping and listing them.

    checkpoints/
      step-000000450/     one checkpoint; step-000000450-2 when one stands there already
      aside/<attempt>/    what a resume from an older checkpoint left behind: never listed, never removed
      .tmp-...            being written or being removed; left by a writer that died, removed by the next

A store is its directory's only writer: whoever makes one holds the run's lock. To look at a run, use `Checkpoint.open`.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.checkpoint.commit import (
    Content,
    Linked,
    Text,
    again,
    clean,
    commit,
    failed,
    free_bytes,
    make_directory,
    remove,
    strangers,
    sync_directory,
    unused,
)
from runner.checkpoint.files import FileRecord, check_name
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.links import Links
from runner.checkpoint.listing import as_kept, list_checkpoints, step_in_name
from runner.checkpoint.manifest import MANIFEST_NAME, Manifest, parse_manifest, to_bytes
from runner.checkpoint.policies import KeepPolicy, best_rules, kept
from runner.errors import CheckpointError, ConfigError, ResumeError
from runner.records import Monitor, Progress, Saved

if TYPE_CHECKING:
    from runner.checkpoint.parts import Parts

log = logging.getLogger(__name__)

SLACK_BYTES = 4 * 1024 * 1024
"""What a save may need beyond its tensors and documents: the manifest, the directory, rounding up to blocks."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class CheckpointStore:
    """The checkpoints of one run. Making one removes what a writer that died left behind."""

    def __init__(
        self,
        directory: Path,
        *,
        run: str,
        keep: KeepPolicy,
        monitor: Monitor | None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        try:
            best_rules(keep, monitor)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.directory = directory
        self._run = run
        self._keep = keep
        self._monitor = monitor
        self._now = now
        self._protected: set[str] = set()
        self._known: dict[str, Checkpoint] = {}
        self._damages: dict[Path, CheckpointError] = {}
        self._checkpoints: tuple[Checkpoint, ...] = ()
        self._links = Links()
        self._warned_of_space = False
        self._warned_of_strangers: set[str] = set()
        self._read_directory()
        clean(directory, owner=run)
        set_aside = [list_checkpoints(path)[0] for path in _subdirectories(directory / "aside")]
        self._generations_aside = [checkpoint.generation for listed in set_aside for checkpoint in listed]

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Those whose manifest can be read, the oldest first."""
        return self._checkpoints

    @property
    def newest(self) -> Checkpoint | None:
        """The one written last, not verified."""
        return self._checkpoints[-1] if self._checkpoints else None

    def newest_whole(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint of which every byte is right, and a line for each newer one that was passed over."""
        damages: list[str] = []
        for checkpoint in reversed(self._checkpoints):
            found = checkpoint.verify()
            if not found:
                return checkpoint, [*self._unlisted(since=checkpoint.step), *damages]
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            damages.append(f"{found[0]}{more}")
        return None, [*self._unlisted(since=0), *damages]

    def protect(self, checkpoint: Checkpoint) -> None:
        """Keep this checkpoint whatever the policy says, as long as this store lives: it was resumed from."""
        self._protected.add(checkpoint.path.name)

    def set_aside(self, after: Checkpoint, attempt: int) -> list[Path]:
        """Move every checkpoint newer than `after` to `aside/<attempt>/`; where they are now. Raises ResumeError."""
        newer = [checkpoint.path for checkpoint in self._checkpoints if checkpoint.generation > after.generation]
        newer += [path for path in self._damages if _step_of(path) > after.step]
        if not newer:
            return []
        aside = self.directory / "aside" / str(attempt)
        moved = []
        try:
            make_directory(aside)
            # The newest first: if this is cut short, what remains is still a row without gaps.
            for path in reversed(newer):
                target = unused(aside, path.name)
                again(os.rename, path, target)
                moved.append(target)
            sync_directory(aside)
            sync_directory(self.directory)
        except OSError as error:
            raise ResumeError(
                f"{aside}: newer checkpoints could not be moved there ({error.strerror}); {len(moved)} of {len(newer)} "
                "were; make the directory writable, or resume from the newest"
            ) from error
        finally:
            self._generations_aside += [
                checkpoint.generation for checkpoint in self._checkpoints if checkpoint.generation > after.generation
            ]
            self._read_directory()
        return moved

    def save(
        self,
        state: Mapping[str, Any],
        *,
        progress: Progress,
        reasons: tuple[str, ...],
        metrics: Mapping[str, float],
        documents: Mapping[str, bytes],
        facts: Mapping[str, Any],
        frozen: Collection[str] = (),
        seconds: float = 0.0,
    ) -> Saved:
        """Write a checkpoint, and then remove what the keep policy does not keep. Durable when it returns.

        `documents` stand beside the state as files; `frozen` names the model's tensors that do not change, `seconds`
        is for how long the run has trained. Raises SaveError, and TypeError for what a checkpoint cannot hold.
        """
        # Here, because looking at a store's checkpoints must not wait for torch.
        from runner.checkpoint.parts import take_apart

        began = time.perf_counter()
        parts = take_apart(state, frozen)
        newest = self.newest
        manifest = Manifest(
            run=self._run,
            generation=self._next_generation(),
            progress=progress,
            created=self._now().astimezone(UTC).isoformat(timespec="microseconds"),
            seconds=seconds,
            reasons=tuple(reasons),
            metrics=dict(metrics),
            parent=newest.generation if newest else None,
            facts=dict(facts),
            files={},
        )
        saved = self._write(parts, documents, manifest)
        self._known[saved.path.name] = saved
        self._checkpoints = (*self._checkpoints, saved)
        self._remove_what_is_not_kept()
        took = time.perf_counter() - began
        log.info("saved %s (%s) in %.2f s", saved.path, ", ".join(reasons), took)
        return Saved(progress, saved.path, saved.reasons, saved.metrics, saved.manifest.size, took)

    def _write(self, parts: "Parts", documents: Mapping[str, bytes], manifest: Manifest) -> Checkpoint:
        """Commit parts that nobody changes any more. Knows nothing of the live state."""
        files = self._files(parts, documents)

        def seal(records: Mapping[str, FileRecord]) -> bytes:
            return to_bytes(replace(manifest, files=dict(records)))

        # What is not plain JSON must show before anything is written.
        seal({})
        name = f"step-{manifest.progress.step:09d}"
        try:
            make_directory(self.directory)
            clean(self.directory, owner=self._run)
        except OSError as error:
            raise failed(self.directory / name, error, _bytes_to_write(files)) from error
        self._warn_if_it_will_not_fit(_bytes_to_write(files))
        try:
            path, records = commit(self.directory, name, owner=self._run, files=files, seal=seal)
        except BaseException:
            with suppress(CheckpointError):
                self._read_directory()
            raise
        # As it reads from the disk, where a tuple among the facts is a list; the disk itself need not be asked.
        return Checkpoint(path, parse_manifest(seal(records), path / MANIFEST_NAME))

    def _files(self, parts: "Parts", documents: Mapping[str, bytes]) -> dict[str, Content | Linked]:
        from runner.checkpoint.parts import FROZEN, STATE, TENSOR_FILES
        from runner.checkpoint.tensors import TensorFile

        for name in documents:
            check_name(name, self.directory)
            if name in (MANIFEST_NAME, STATE, *TENSOR_FILES):
                raise ValueError(f"a document cannot be called {name!r}: the checkpoint has a file of that name")
        files: dict[str, Content | Linked] = {name: Text(data) for name, data in documents.items()}
        files[STATE] = Text(parts.tree)
        for name, tensors in parts.tensors.items():
            content = TensorFile(tensors)
            files[name] = self._links.find(name, content, self._checkpoints) if name == FROZEN else content
        return files

    def _warn_if_it_will_not_fit(self, wanted: int) -> None:
        free = free_bytes(self.directory)
        if self._warned_of_space or free is None or wanted + SLACK_BYTES <= free:
            return
        self._warned_of_space = True
        log.warning(
            "%s: a checkpoint needs about %d bytes and %d are free, so saving may fail; make room, or keep fewer",
            self.directory,
            wanted + SLACK_BYTES,
            free,
        )

    def _remove_what_is_not_kept(self) -> None:
        try:
            self._read_directory()
        except CheckpointError as error:
            log.warning("nothing is removed after this save: %s", error)
            return
        own = [checkpoint for checkpoint in self._checkpoints if checkpoint.manifest.run == self._run]
        records = [as_kept(checkpoint, protected=checkpoint.path.name in self._protected) for checkpoint in own]
        keep = kept(self._keep, records, self._monitor)
        leaving = [checkpoint for checkpoint in own if checkpoint.generation not in keep]
        for checkpoint in leaving:
            self._remove(checkpoint)

    def _remove(self, checkpoint: Checkpoint) -> None:
        """A failure is no reason to stop training: it is logged, and tried again after the next save."""
        try:
            strange = strangers(checkpoint.path, checkpoint.manifest)
            if not strange:
                remove(checkpoint.path, owner=self._run)
                del self._known[checkpoint.path.name]
                self._checkpoints = tuple(other for other in self._checkpoints if other is not checkpoint)
                log.info("removed %s", checkpoint.path)
            elif checkpoint.path.name not in self._warned_of_strangers:
                self._warned_of_strangers.add(checkpoint.path.name)
                log.warning(
                    "%s is kept: it holds what its manifest does not list (%s); move that away, or delete it yourself",
                    checkpoint.path,
                    ", ".join(strange),
                )
        except OSError as error:
            log.warning("%s could not be removed (%s); it is tried again later", checkpoint.path, error.strerror)

    def _next_generation(self) -> int:
        known = [checkpoint.generation for checkpoint in self._checkpoints]
        return max([*known, *self._generations_aside], default=0) + 1

    def _read_directory(self) -> None:
        found, self._damages = list_checkpoints(self.directory, self._known)
        self._known = {checkpoint.path.name: checkpoint for checkpoint in found}
        self._checkpoints = tuple(found)

    def _unlisted(self, since: int) -> list[str]:
        """What is wrong with those that could not be listed, of the steps from `since`; the newest first."""
        return [str(self._damages[path]) for path in sorted(self._damages, reverse=True) if _step_of(path) >= since]


def _step_of(path: Path) -> int:
    return step_in_name(path.name) or 0


def _bytes_to_write(files: Mapping[str, Content | Linked]) -> int:
    return sum(file.size for file in files.values() if not isinstance(file, Linked))


def _subdirectories(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
