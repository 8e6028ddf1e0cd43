"""Run directories: find them, read them, and note the attempts that worked on them. Files only.

outputs/2026-11-22/17-05-09-123456/
  run.json         name, identity, created: facts that never change
  run.lock         who is working on it
  attempts.jsonl   one line when an attempt starts, one when it ends
  metrics.jsonl  runner.log  checkpoints/  observers/  code/  .hydra/
"""

import json
import logging
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from runner import jsonl
from runner.errors import ConfigError, ResumeError
from runner.lock import holder
from runner.records import Progress

log = logging.getLogger(__name__)

FORMAT = 1  # Of run.json.
OUTCOMES = ("finished", "stopped", "failed")
_SWEEP_FILES = ("multirun.yaml", "sweep.json")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process working on a run. What has not been recorded, because it goes on or has crashed, is None."""

    number: int
    started: datetime
    facts: Mapping[str, Any]
    ended: datetime | None = None
    outcome: str | None = None
    """`finished`, `stopped` or `failed`."""
    reason: str | None = None
    step: int | None = None
    """The step at which it ended."""


@dataclass(frozen=True, slots=True)
class RunDir:
    """One run's directory. Made by `create` or `open`, which check it."""

    path: Path
    id: str
    name: str
    identity: str
    created: datetime

    @classmethod
    def create(cls, path: Path, *, name: str, identity: str, created: datetime) -> Self:
        """Claim a directory for a new run. ConfigError if one is there already."""
        run_id = secrets.token_hex(8)
        facts = {"format": FORMAT, "id": run_id, "name": name, "identity": identity, "created": created.isoformat()}
        made = cls(path, run_id, name, identity, created)
        path.mkdir(parents=True, exist_ok=True)
        try:
            with (path / "run.json").open("x", encoding="utf-8") as file:
                file.write(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            again = shlex.quote(f"+resume={path}")
            raise ConfigError(
                f"{path}: holds a run already; go on with it by {again}, or choose another hydra.run.dir"
            ) from None
        except OSError:
            # Half a claim, on a full disk, would stand in the way of every later launch.
            made.take_back()
            raise
        return made

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a run that is there. ResumeError, saying what is there instead, if it is none."""
        file = path / "run.json"
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            _check_format(facts, file)
            texts = [facts[key] for key in ("id", "name", "identity", "created")]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("id, name, identity and created are not all texts")
            return cls(path, texts[0], texts[1], texts[2], _with_zone(datetime.fromisoformat(texts[3])))
        except (FileNotFoundError, NotADirectoryError):
            raise ResumeError(
                f"{path}: not a run ({_what_is_at(path)}); name a directory that holds run.json"
            ) from None
        except OSError as e:
            raise ResumeError(f"{file}: cannot be read ({e.strerror}); make it readable") from e
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise ResumeError(
                f"{file}: damaged ({type(e).__name__}: {e}); put it back from a copy; "
                f"the checkpoints in {path / 'checkpoints'} can still be loaded, and begun with by init_from"
            ) from e

    def take_back(self) -> None:
        """Undo `create`, while nothing else is in the directory that counts."""
        (self.path / "run.json").unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    @property
    def lock(self) -> Path:
        """The file of the run's lock."""
        return self.path / "run.lock"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def attempts_file(self) -> Path:
        return self.path / "attempts.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "runner.log"

    @property
    def hydra(self) -> Path:
        return self.path / ".hydra"

    @property
    def observers(self) -> Path:
        return self.path / "observers"

    @property
    def code(self) -> Path:
        return self.path / "code"

    def attempts(self) -> list[Attempt]:
        """Every attempt, the first one first."""
        found: dict[int, Attempt] = {}
        try:
            lines = jsonl.read(self.attempts_file)
        except OSError as e:
            raise ResumeError(f"{self.attempts_file}: cannot be read ({e.strerror}); make it readable") from e
        for line in lines:
            number, event, time = line.pop("attempt", None), line.pop("event", None), line.pop("time", None)
            at = _time(time)
            if not isinstance(number, int) or at is None:
                log.warning("%s: a line without attempt and time, left out", self.attempts_file)
            elif event == "start":
                found[number] = Attempt(number, at, line)
            elif event == "end" and number in found:
                start = found[number]
                found[number] = Attempt(
                    number, start.started, start.facts, at, line.get("outcome"), line.get("reason"), line.get("step")
                )
        return [found[number] for number in sorted(found)]

    def begin_attempt(self, facts: Mapping[str, Any]) -> int:
        """Note that an attempt starts, with facts about it, and return its number, from 1. Only under the lock."""
        # Also of those whose lines are lost: what they have written is not written over.
        traces = [name for place in (self.hydra / "attempts", self.code) for name in _names_in(place) if name.isdigit()]
        number = max([*(attempt.number for attempt in self.attempts()), *map(int, traces)], default=0) + 1
        self._note({"attempt": number, "event": "start", "time": _now(), **facts})
        return number

    def end_attempt(self, number: int, outcome: str, reason: str, progress: Progress) -> None:
        """Note how an attempt has ended. Only under the run's lock."""
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome {outcome!r}; one of {', '.join(OUTCOMES)} is wanted")
        self._note(
            {
                "attempt": number,
                "event": "end",
                "time": _now(),
                "outcome": outcome,
                "reason": reason,
                "step": progress.step,
            }
        )

    def status(self) -> str:
        """`running`, `finished`, `stopped` (also after a crash), `failed`, or `empty` if no attempt ever began."""
        if holder(self.lock) is not None:
            return "running"
        attempts = self.attempts()
        if not attempts:
            return "empty"
        return attempts[-1].outcome or "stopped"

    def _note(self, line: Mapping[str, Any]) -> None:
        with jsonl.Appender(self.attempts_file) as file:
            file.append(line)
            file.sync()


def find_runs(root: Path) -> list[RunDir]:
    """Every run at or under a directory, the oldest first. What cannot be read is named in a warning and left out."""
    return _opened(_run_paths(root, sweeps=True))


def single_runs(root: Path) -> list[RunDir]:
    """The same without the jobs of sweeps."""
    return _opened(_run_paths(root, sweeps=False))


def latest_run(root: Path) -> RunDir | None:
    """The newest run under a directory that began training; None if there is none. Jobs of a sweep are left aside."""
    for run in reversed(single_runs(root)):
        if run.attempts():
            return run
    return None


def worked_on_last(copies: Sequence[RunDir]) -> RunDir:
    """Of directories that hold the same run, because it was copied: the one in which the last attempt began."""
    began = {run.path: max((attempt.started for attempt in run.attempts()), default=run.created) for run in copies}
    return max(copies, key=lambda run: began[run.path])


def _opened(paths: Iterator[Path]) -> list[RunDir]:
    runs = []
    for path in paths:
        try:
            runs.append(RunDir.open(path))
        except ResumeError as e:
            log.warning("%s", e)
    return sorted(runs, key=lambda run: (run.created, run.path))


def _run_paths(root: Path, *, sweeps: bool) -> Iterator[Path]:
    """Directories that hold run.json, without looking inside them, into hidden directories or through links."""
    pending = [root]
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(directory) as entries:
                inside = {entry.name: entry for entry in entries}
        except OSError as e:
            if directory != root or not isinstance(e, FileNotFoundError | NotADirectoryError):
                log.warning("%s: cannot be read (%s), left out", directory, e.strerror)
            continue
        if "run.json" in inside:
            yield directory
        elif sweeps or directory == root or not any(name in inside for name in _SWEEP_FILES):
            pending += [
                directory / name
                for name, entry in inside.items()
                if not name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]


def _check_format(facts: Mapping[str, Any], file: Path) -> None:
    """Raise ResumeError where a newer version has written what this one would misread. Runs had no format at first."""
    if not isinstance(facts, dict):
        raise TypeError("not a mapping")
    if facts.get("format", FORMAT) > FORMAT:
        raise ResumeError(f"{file}: format {facts['format']}; this runner reads {FORMAT}; update runner")


def _names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []


def _what_is_at(path: Path) -> str:
    if not path.exists():
        return "nothing is there"
    if not path.is_dir():
        return "a file is there"
    if (path / "manifest.json").is_file():
        return "a checkpoint is there"
    names = _names_in(path)
    if "checkpoints" in names:
        return "its run.json is gone, so put it back from a copy, or resume one of its checkpoints by its own path"
    return (
        f"a directory with {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}" if names else "an empty directory"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _time(text: object) -> datetime | None:
    try:
        return _with_zone(datetime.fromisoformat(text)) if isinstance(text, str) else None
    except ValueError:
        return None


def _with_zone(time: datetime) -> datetime:
    # A time without a zone, written by hand, is taken as UTC.
    return time if time.tzinfo else time.replace(tzinfo=UTC)
