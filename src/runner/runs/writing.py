"""What a run writes beside its checkpoints. That something cannot be written is said in one way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.errors import ResumeError, SaveError
from runner.rundir import RunDir


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Raises SaveError, saying where and what to do, for an OSError from inside. `path` is what is being written."""
    try:
        yield
    except OSError as error:
        raise SaveError(
            f"{error.filename or path}: cannot be written ({error.strerror}); free some space or make it writable, "
            "then resume the run"
        ) from error


def check_writable(run: RunDir) -> None:
    """Raise ResumeError where this user may not write to what is there: the first save would fail, hours later."""
    directories = [run.path, run.checkpoints, run.hydra, run.hydra / "attempts", run.code, run.observers]
    files = [run.attempts_file, run.metrics, run.log]
    closed = [path for path in directories if path.is_dir() and not os.access(path, os.W_OK | os.X_OK)]
    closed += [path for path in files if path.is_file() and not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        raise ResumeError(
            f"{', '.join(map(str, closed))}: may not be written by you; change the permissions, or copy the run to "
            "where you can write"
        )
