"""A handler's files of its own accord: when, under which name, and which of them stay."""

import inspect
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.naming import LONGEST, name_of
from runner.checkpoint.policies import SavePolicy, Spending
from runner.doors.handler_files import DOOR, write
from runner.doors.handler_settings import AutoSave, Parts, auto_save_of
from runner.errors import CheckpointError
from runner.records import Evaluation, Progress, Record, Saved, SaveStats

log = logging.getLogger(__name__)

SUFFIX = ".pth"


class AutoSaves:
    """The one who saves, as the loop sees it: each save is a file of its own, written at once."""

    spending = Spending(0.0, None, 0.0)
    seconds_since_saved = 0.0
    seconds_to_save = 0.0

    def __init__(self, parts: Parts, observe: Callable[[Record], None]) -> None:
        self.parts, self.observe = parts, observe
        assert parts.state is not None
        self.state = parts.state
        # What is due is counted from here: a training that goes on saves nothing at once.
        self.begun: Progress | None = self.state.progress
        self.saved = self.begun
        if parts.auto is None and parts.elsewhere is not None:
            warnings.warn(
                f"train: nothing is saved automatically: the file that this was loaded from would have it saved in "
                f"{parts.elsewhere}, where that file is not; call auto_save",
                stacklevel=4,
            )
        self.settings = parts.auto or auto_save_of(None, ".", "none", overwrite=False, save_model_code=False)
        self.written: Path | None = None
        """The file of the state as it is now."""
        self._at_end = False
        self._told: set[str] = set()

    def policy(self, *, at_end: bool) -> SavePolicy:
        """When to save. `at_end` also stands for an end before its time."""
        self._at_end = at_end
        return self.settings.policy(at_end=at_end)

    def improves(self, evaluation: Evaluation | None) -> bool:
        return False

    def collect(self, *, wait: bool = False) -> None:
        """Nothing is ever under way."""

    def finish(self) -> None:
        """Nothing is ever under way."""

    def save(self, reasons: tuple[str, ...], metrics: Mapping[str, float]) -> None:
        """Save the state under its name; then the one before is removed, if only the newest is to be kept."""
        settings, self.written = self.settings, None
        if settings.interval is None or (reasons == ("signal",) and not self._at_end):
            return
        began = time.perf_counter()
        progress = self.state.progress
        metrics = self._metrics(metrics)
        path = self._free(Path(settings.folder) / self._name(metrics))
        before = self.parts.auto_saved
        here = self.parts.came_from
        # A copy that somebody keeps elsewhere is not what is replaced here.
        moved = [str(here)] if here is not None and here.parent == path.absolute().parent else []
        earlier = [name for name in dict.fromkeys([*before, *moved]) if Path(name).absolute() != path.absolute()]
        # The file says itself which one it is: who goes on from it knows what it may remove.
        self.parts.auto_saved = [*earlier, str(path.absolute())] if settings.overwrite else []
        try:
            checkpoint = write(self.parts, path, metrics=metrics, save_model_code=settings.save_model_code)
        except BaseException:
            self.parts.auto_saved = before
            raise
        self.begun, self.saved, self.written = progress, progress, path
        if settings.overwrite:
            self._remove(earlier)
            self.parts.auto_saved = [str(path.absolute())]
        if checkpoint is not None:
            seconds, size = time.perf_counter() - began, checkpoint.manifest.size
            self.observe(Saved(progress, path, reasons, metrics, SaveStats(size, size, seconds, seconds, seconds)))

    def _metrics(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What is known of this step: the epoch's train metrics too, at its end."""
        row = self.parts.history[-1] if self.parts.history and not self.state.progress.batch else {}
        return {**{name: value for name, value in row.items() if name not in ("epoch", "lr")}, **metrics}

    def _name(self, metrics: Mapping[str, float]) -> str:
        names = []
        template = self.settings.name.removesuffix(SUFFIX)
        for part in template.split("/"):
            name, lines = name_of(part, self.state.progress, metrics, key="auto_save(name=...)")
            for line in lines:
                if line not in self._told:
                    self._told.add(line)
                    _warn(line)
            names.append(name)
        at = self.state.progress
        if at.batch and "{step" not in template:
            # Of a name for the end of an epoch, what is of the middle of the next would be taken for that.
            names[-1] += f"_step{at.step}"
        return "/".join(names)[: LONGEST * len(names)] + SUFFIX

    def _free(self, path: Path) -> Path:
        """`path`, or with a number behind it if a file stands there that is to be kept."""
        if self.settings.overwrite or self.parts.world.rank != 0 or not path.exists():
            return path
        number = 2
        while path.with_name(f"{path.stem}_{number}{SUFFIX}").exists():
            number += 1
        free = path.with_name(f"{path.stem}_{number}{SUFFIX}")
        _warn(f"auto_save: {path} stands there already, and overwrite is False; saved as {free.name}")
        return free

    def _remove(self, names: list[str]) -> None:
        """Remove what this training has saved before, once the new file is complete. Nothing of anybody else."""
        if self.parts.world.rank != 0:
            return
        for name in names:
            path = Path(name)
            with suppress(CheckpointError, FileNotFoundError):
                if Checkpoint.open(path).manifest.facts.get(DOOR) == self.parts.run:
                    path.unlink()


def _warn(line: str) -> None:
    """Warn at the line of the user's own that trains, however deep in the loop it is found out."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("runner."):
        frame, level = frame.f_back, level + 1
    warnings.warn(line, stacklevel=level)


def restore_settings(parts: Parts, saved: Mapping[str, Any] | None, file: Path) -> None:
    """The settings in a file. A file may be anybody's: into folders elsewhere it does not have anything written."""
    if saved is None:
        return
    folder = Path(saved["folder"])
    inside = not folder.is_absolute() and ".." not in folder.parts
    if not inside and not file.resolve().is_relative_to(folder.resolve()):
        parts.elsewhere = folder
        return
    parts.auto = auto_save_of(
        saved["interval"],
        folder,
        saved["name"],
        overwrite=saved["overwrite"],
        save_model_code=saved["save_model_code"],
    )
    if parts.auto.interval is not None:
        # Of what removes files, whoever only looks at one should hear, too.
        log.log(logging.WARNING if parts.auto.overwrite else logging.INFO, "%s: %s", file, _goes_on(parts.auto))


def _goes_on(auto: AutoSave) -> str:
    """What `train` will do that nobody has asked for here."""
    every = {-1: "at the end of a training", 1: "every epoch"}.get(auto.interval or 0, f"every {auto.interval} epochs")
    place = Path(auto.folder) / f"{auto.name.removesuffix(SUFFIX)}{SUFFIX}"
    kept = (
        "overwriting: the file before, this one too, is removed once the next is complete"
        if auto.overwrite
        else "keeping all"
    )
    return f"auto_save goes on when it is trained: {every}, to {place}, {kept}; auto_save(None) ends that"
