"""The directory of a new run, claimed: made under a name of its own, with run.json in it, and locked."""

from datetime import UTC, datetime
from pathlib import Path

from runner.config.composing import Composition, Config
from runner.config.documents import written
from runner.config.identity import identity
from runner.config.secrets import redact
from runner.errors import ConfigError, LockedError, ResumeError
from runner.lock import RunLock
from runner.rundir import RunDir


def identity_of(config: Config) -> str:
    """The name of what a config computes."""
    return identity(written(config), config.composed)


def claimed_directory(composition: Composition) -> Path:
    """The run directory, made now: under another name if somebody was faster, unless the name was typed."""
    wanted = composition.run_dir.absolute()
    return _typed_directory(wanted) if is_typed(composition) else _new_directory(wanted)


def is_typed(composition: Composition) -> bool:
    """Whether the run directory was named on the command line."""
    return any(override.key_or_group == "hydra.run.dir" for override in composition.typed)


def begin_run(directory: Path, config: Config, name: str) -> tuple[RunDir, RunLock]:
    """A new run in a directory, locked. ConfigError if there is one already, or it cannot be written."""
    try:
        run = RunDir.create(directory, name=redact(name), identity=identity_of(config), created=datetime.now(UTC))
    except OSError as error:
        raise _unwritable(directory, error) from error
    lock = RunLock(run.lock)
    try:
        lock.acquire()
    except LockedError:
        # Somebody goes on with what has just been made.
        raise
    except ResumeError:
        run.take_back()
        raise
    return run, lock


def _typed_directory(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _new_directory(wanted: Path) -> Path:
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
    except OSError as error:
        raise _unwritable(wanted, error) from error
    raise ConfigError(f"{wanted}: taken, and so are 998 names after it; type another hydra.run.dir")


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: the run directory cannot be made ({error.strerror}); type hydra.run.dir=DIRECTORY")
