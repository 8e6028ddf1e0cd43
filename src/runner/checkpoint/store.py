"""The checkpoints of one run: saving, keeping and listing them.

    checkpoints/
      step-000000450/     one checkpoint, named by a template; step-000000450-2 when one stands there already
      aside/<attempt>/    what a resume from an older checkpoint left behind: never listed, never removed
      .tmp-...            being written or being removed; left by a writer that died, removed by the next

A store is its directory's only writer: whoever makes one holds the run's lock. To look at a run, use `Checkpoint.open`.

Saving has two halves. `save` copies the state into the arena (staging), which is all that the training waits for. A
background thread writes what was copied, commits it and removes what is not kept; while it does, it alone changes the
store, and whatever else would change it waits.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.checkpoint.aside import generations_aside, move_aside
from runner.checkpoint.commit import clean
from runner.checkpoint.contents import OPTIMIZER
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import generation_of_damaged, list_checkpoints, step_of_damaged
from runner.checkpoint.manifest import Manifest, to_bytes
from runner.checkpoint.naming import check_template
from runner.checkpoint.policies import KeepPolicy, best_rules
from runner.checkpoint.retention import Retention
from runner.checkpoint.saving import Saving
from runner.checkpoint.writer import Writer, patience
from runner.checkpoint.writing import Writing, check_documents
from runner.collector import collector_paused
from runner.errors import CheckpointError, ConfigError, SaveError
from runner.records import Monitor, Progress, Saved

if TYPE_CHECKING:
    from runner.checkpoint.parts import Parts
    from runner.checkpoint.staging import Arena, Staged

log = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class CheckpointStore:
    """The checkpoints of one run. Making one removes what a writer that died left behind.

    `name` is the template for a checkpoint's directory; with `read_back` every byte is read again from the disk, and
    compared, before a checkpoint counts as saved.
    """

    def __init__(
        self,
        directory: Path,
        *,
        run: str,
        keep: KeepPolicy,
        monitor: Monitor | None,
        name: str = "step-{step:09d}",
        read_back: bool = False,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        try:
            best_rules(keep, monitor)
            check_template(name)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.directory = directory
        self._run = run
        self._now = now
        self._writing = Writing(directory, run=run, template=name, read_back=read_back)
        self._retention = Retention(run, keep, monitor)
        self._known: dict[str, Checkpoint] = {}
        self._damages: dict[Path, CheckpointError] = {}
        self._checkpoints: tuple[Checkpoint, ...] = ()
        self._arena: Arena | None = None
        self._writer = Writer()
        self._saving: Saving | None = None
        clean(directory, owner=run)
        self._read_directory()
        self._generations_aside = generations_aside(directory)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Those whose manifest can be read, the oldest first."""
        return self._checkpoints

    @property
    def newest(self) -> Checkpoint | None:
        """The one written last, not verified."""
        return self._checkpoints[-1] if self._checkpoints else None

    def protect(self, checkpoint: Checkpoint) -> None:
        """Keep this checkpoint whatever the policy says, as long as this store lives: it was resumed from."""
        self._retention.protect(checkpoint)

    def set_aside(self, after: Checkpoint, attempt: int) -> list[Path]:
        """Move every checkpoint newer than `after` to `aside/<attempt>/`; where they are now. Raises ResumeError."""
        self.wait()
        newer = [checkpoint.path for checkpoint in self._checkpoints if checkpoint.generation > after.generation]
        newer += [path for path in self._damages if step_of_damaged(path) > after.step]
        if not newer:
            return []
        try:
            return move_aside(newer, self.directory, attempt)
        finally:
            self._generations_aside = generations_aside(self.directory)
            self._read_directory()

    @property
    def busy(self) -> bool:
        """Whether something is being written."""
        return self._writer.busy

    @property
    def patience(self) -> float:
        """For how many seconds a save is waited for at most: a minute and what a very slow disk needs."""
        return patience(0 if self._arena is None else self._arena.size)

    def prepare(self, state: Mapping[str, Any], *, frozen: Collection[str] = ()) -> None:
        """Lay out memory for copies of such states and touch it in the background, so that the first save is quick too.

        Raises TypeError for what a checkpoint cannot hold, SaveError when there is not enough memory.
        """
        from runner.checkpoint.parts import take_apart

        self.wait()
        arena = self._memory()
        self._writer.begin(arena.prepare(take_apart(state, frozen).tensors), size=arena.size)

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
        from runner.checkpoint.parts import take_apart

        began = time.perf_counter()
        self.wait()
        check_documents(documents, self.directory)
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
        arena = self._memory()
        # Thousands of small objects are made, and a collection in their midst takes longer than all of them.
        with collector_paused():
            parts = take_apart(state, frozen)
            staged = arena.stage(
                parts.tensors,
                stepped=lambda file, name: file == OPTIMIZER or name in parameters,
                beside=lambda task: self._writer.begin(task, size=arena.size),
            )

        def write(saving: Saving) -> Saved:
            if before is not None:
                before()
            return self._write(saving, parts, staged, documents, manifest)

        saving = self._saving = Saving(progress, staged, began)
        saving.begin(self._writer, write, size=arena.size)
        return saving

    def wait(self, timeout: float | None = None) -> None:
        """Return when nothing is being written any more. Raises what the last save failed with, if nobody has asked it.

        Raises SaveError when it takes longer than `timeout` seconds, by default `patience`.
        """
        saving, limit = self._saving, self.patience if timeout is None else timeout
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
        parts: "Parts",
        staged: "Staged",
        documents: Mapping[str, bytes],
        manifest: Manifest,
    ) -> Saved:
        """In the background: commit what was staged, then remove what is not kept."""
        began = time.thread_time()
        staged.finish()
        try:
            saved, written = self._writing.write(
                tree=parts.text(),
                staged=staged,
                documents=documents,
                manifest=manifest,
                earlier=self._checkpoints,
            )
        except BaseException:
            with suppress(CheckpointError):
                self._read_directory()
            raise
        saving.became_durable(saved.path)
        self._known[saved.path.name] = saved
        self._checkpoints = (*self._checkpoints, saved)
        self._remove_what_is_not_kept()
        cpu_seconds = time.thread_time() - began
        stats = saving.stats_of(size=saved.manifest.size, written=written, cpu_seconds=cpu_seconds)
        log.info(
            "saved %s (%s): %.3f s of waiting, durable after %.2f s",
            saved.path,
            ", ".join(saved.reasons),
            stats.stall,
            stats.seconds,
        )
        return Saved(saved.progress, saved.path, saved.reasons, saved.metrics, stats)

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
        # Those that cannot be read have one, too, and may be read again when a disk has recovered.
        damaged = [generation_of_damaged(path) for path in self._damages]
        return max([*known, *self._generations_aside, *damaged], default=0) + 1

    def _read_directory(self) -> None:
        found, self._damages = list_checkpoints(self.directory, self._known)
        self._known = {checkpoint.path.name: checkpoint for checkpoint in found}
        self._checkpoints = tuple(found)
