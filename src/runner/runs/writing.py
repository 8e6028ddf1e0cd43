"""What a run writes beside its checkpoints. That something cannot be written is said in one way."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.errors import SaveError


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
