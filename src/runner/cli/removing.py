"""Delete a run: what lies in its directory, and the folders above it that this leaves empty."""

import os
import shutil
from pathlib import Path

from runner.errors import RunnerError
from runner.lock import RunLock
from runner.rundir import RunDir

OUTPUTS_NAME = "outputs"


def remove_run(run: RunDir) -> None:
    """Delete a run under its lock; LockedError if it is running.

    `run.json` goes last, so that a run that could be deleted only in part is still a run and can be deleted again. No
    link is followed. Above the run, empty folders are deleted up to one that is called `outputs`; without one, none.
    """
    try:
        with RunLock(run.lock):
            last = ("run.json", run.lock.name)
            with os.scandir(run.path) as entries:
                inside = [entry for entry in entries if entry.name not in last]
            for entry in inside:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    Path(entry.path).unlink()
            (run.path / "run.json").unlink()
        run.path.rmdir()
    except OSError as e:
        if isinstance(e, RunnerError):
            raise
        raise RunnerError(
            f"{e.filename or run.path}: cannot be deleted ({e.strerror}); mend that and delete {run.path} again"
        ) from e
    _remove_empty_parents(run.path.absolute())


def _remove_empty_parents(path: Path) -> None:
    above = list(path.parents)
    names = [parent.name for parent in above]
    if OUTPUTS_NAME not in names:
        return
    for parent in above[: names.index(OUTPUTS_NAME)]:
        try:
            parent.rmdir()
        except OSError:
            return  # Not empty, or not ours: it stays, and so does what is above it.
