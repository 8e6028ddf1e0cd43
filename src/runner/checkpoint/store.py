"""The checkpoints of one run: saving, keeping and listing them.

    checkpoints/
      step-000000450/     one checkpoint; step-000000450-2 when one stands there already
      aside/<attempt>/    what a resume from an older checkpoint left behind: never listed, never removed
      .tmp-...            being written or being removed; left by a writer that died, removed by the next

A store is its directory's only writer: whoever makes one holds the run's lock. To look at a run, use `Checkpoint.open`.

Saving has two halves. `save` copies the state into the arena (staging), which is all that the training waits for. A
background thread writes what was copied, commits it and removes what is not kept; while it does, it alone changes the
store, and whatever else would change it waits.
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

from runner.checkpoint.commit import Linked, clean, commit, failed
from runner.checkpoint.durable import Content, InMemory, again, free_bytes, make_directory, sync_directory, unused
from runner.checkpoint.files import FileRecord, check_name
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.links import Links
from runner.checkpoint.listing import list_checkpoints, step_in_name
from runner.checkpoint.manifest import MANIFEST_NAME, Manifest, parse_manifest, to_bytes
from runner.checkpoint.policies import KeepPolicy, best_rules
from runner.checkpoint.retention import Retention
from runner.checkpoint.saving import Saving
from runner.checkpoint.writer import Writer, patience
from runner.errors import CheckpointError, ConfigError, ResumeError, SaveError
from runner.records import Monitor, Progress, Saved

if TYPE_CHECKING:
    from runner.checkpoint.staging import Arena, Staged

log = logging.getLogger(__name__)

SLACK_BYTES = 4 * 1024 * 1024
"""What a save may need beyond its tensors and documents: the manifest, the directory, rounding up to blocks."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class CheckpointStore:
    """The checkpoints of one run. Making one removes what a writer that died left behind.

    `read_back`: every byte is read again from the disk, and compared, before a checkpoint counts as saved.
    """

    def __init__(
        self,
        directory: Path,
        *,
        run: str,
        keep: KeepPolicy,
        monitor: Monitor | None,
        read_back: bool = False,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        try:
            best_rules(keep, monitor)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.directory = directory
        self._run = run
        self._read_back = read_back
        self._now = now
        self._retention = Retention(run, keep, monitor)
        self._known: dict[str, Checkpoint] = {}
        self._damages: dict[Path, CheckpointError] = {}
        self._checkpoints: tuple[Checkpoint, ...] = ()
        self._links = Links()
        self._warned_of_space = False
        self._arena: Arena | None = None
        self._writer = Writer()
        self._saving: Saving | None = None
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
        self._retention.protect(checkpoint)

    def set_aside(self, after: Checkpoint, attempt: int) -> list[Path]:
        """Move every checkpoint newer than `after` to `aside/<attempt>/`; where they are now. Raises ResumeError."""
        self.wait()
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

    @property
    def busy(self) -> bool:
        """Whether something is being written."""
        return self._writer.busy

    def prepare(self, state: Mapping[str, Any], *, frozen: Collection[str] = ()) -> None:
        """Lay out memory for copies of such states and touch it in the background, so that the first save is quick too.

        Raises TypeError for what a checkpoint cannot hold, SaveError when there is not enough memory.
        """
        from runner.checkpoint.parts import take_apart

        self.wait()
        arena = self._memory()
        try:
            touch = arena.prepare(take_apart(state, frozen).tensors)
        except MemoryError as error:
            raise SaveError(f"{self.directory}: nothing can be saved: {error}; free some memory") from error
        self._writer.begin(touch, size=arena.size)

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
        parameters: Collection[str] = (),
        seconds: float = 0.0,
        before: Callable[[], object] | None = None,
    ) -> Saving:
        """Copy the state and begin to write it: whatever happens to it after this returns, the copy is what is saved.

        Waits first for a save that is under way, and raises what it failed with, if nobody has asked it.

        `documents` stand beside the state as files. `frozen` names the model's tensors that do not change, `parameters`
        those that only an optimizer's step changes. `seconds` is for how long the run has trained; `before` is called
        by the writing thread before anything is written. Raises SaveError, and TypeError for what a checkpoint cannot
        hold.
        """
        # Here, because looking at a store's checkpoints must not wait for torch.
        from runner.checkpoint.parts import OPTIMIZER, take_apart

        began = time.perf_counter()
        self.wait()
        self._check_documents(documents)
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
        # What is not plain JSON must show before anything is written.
        to_bytes(manifest)
        parts, arena = take_apart(state, frozen), self._memory()
        try:
            staged = arena.stage(parts.tensors, stepped=lambda file, name: file == OPTIMIZER or name in parameters)
        except MemoryError as error:
            raise SaveError(
                f"{self.directory}: step {progress.step} was not saved: {error}; free some memory; "
                "the checkpoints saved before are whole"
            ) from error

        def write(saving: Saving) -> Saved:
            if before is not None:
                before()
            return self._write(saving, parts.text, staged, documents, manifest)

        saving = self._saving = Saving(progress, staged, began)
        saving.begin(self._writer, write, size=arena.size)
        return saving

    def wait(self, timeout: float | None = None) -> None:
        """Return when nothing is being written any more. Raises what the last save failed with, if nobody has asked it.

        Raises SaveError when it takes longer than `timeout` seconds: by default a minute and what a very slow disk
        needs.
        """
        saving, limit = self._saving, timeout
        if limit is None:
            limit = patience(0 if self._arena is None else self._arena.size)
        if saving is not None and not saving.asked:
            saving.wait(limit)
        if not self._writer.idle(limit):
            raise SaveError(f"{self.directory}: memory for saving is still not there after {limit:.0f} s")

    def close(self) -> None:
        """Let the background thread end once it has written what was begun, and let go of the memory for copies."""
        self._writer.close()
        self._arena = None

    def _memory(self) -> "Arena":
        from runner.checkpoint.staging import Arena

        if self._arena is None:
            self._arena = Arena()
        return self._arena

    def _write(
        self,
        saving: Saving,
        tree: Callable[[], bytes],
        staged: "Staged",
        documents: Mapping[str, bytes],
        manifest: Manifest,
    ) -> Saved:
        """In the background: commit what was staged, then remove what is not kept. Knows nothing of the live state."""
        began = time.thread_time()
        staged.finish()
        files = self._files(tree(), staged, documents)

        def seal(records: Mapping[str, FileRecord]) -> bytes:
            return to_bytes(replace(manifest, files=dict(records)))

        name = f"step-{manifest.progress.step:09d}"
        wanted = _bytes_to_write(files)
        try:
            make_directory(self.directory)
            clean(self.directory, owner=self._run)
        except OSError as error:
            raise failed(self.directory / name, error, wanted) from error
        self._warn_if_it_will_not_fit(wanted)
        try:
            path, records = commit(
                self.directory, name, owner=self._run, files=files, seal=seal, read_back=self._read_back
            )
        except BaseException:
            with suppress(CheckpointError):
                self._read_directory()
            raise
        saving.became_durable(path)
        # As it reads from the disk, where a tuple among the facts is a list; the disk itself need not be asked.
        saved = Checkpoint(path, parse_manifest(seal(records), path / MANIFEST_NAME))
        self._known[path.name] = saved
        self._checkpoints = (*self._checkpoints, saved)
        self._remove_what_is_not_kept()
        cpu_seconds = time.thread_time() - began
        stats = saving.stats_of(size=saved.manifest.size, written=wanted, cpu_seconds=cpu_seconds)
        log.info(
            "saved %s (%s): %.3f s of waiting, durable after %.2f s",
            path,
            ", ".join(saved.reasons),
            stats.stall,
            stats.seconds,
        )
        return Saved(saved.progress, path, saved.reasons, saved.metrics, stats)

    def _check_documents(self, documents: Mapping[str, bytes]) -> None:
        from runner.checkpoint.parts import STATE, TENSOR_FILES

        for name in documents:
            check_name(name, self.directory)
            if name in (MANIFEST_NAME, STATE, *TENSOR_FILES):
                raise ValueError(f"a document cannot be called {name!r}: the checkpoint has a file of that name")

    def _files(self, tree: bytes, staged: "Staged", documents: Mapping[str, bytes]) -> dict[str, Content | Linked]:
        from runner.checkpoint.parts import FROZEN, STATE

        files: dict[str, Content | Linked] = {name: InMemory(data) for name, data in documents.items()}
        files[STATE] = InMemory(tree)
        for name, image in staged.files.items():
            files[name] = self._links.find(name, image, self._checkpoints) if name == FROZEN else image
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
        gone = self._retention.remove_from(self._checkpoints)
        for name in gone:
            del self._known[name]
        self._checkpoints = tuple(one for one in self._checkpoints if one.path.name not in gone)

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
