"""Names that a user gives to checkpoints. Whatever has one is kept under every policy.

    step-000000450/
      tag.paper        an empty file for each; the manifest does not list it

A tag may be set while a run saves and removes. Whoever removes a checkpoint renames its directory first and only then
looks for tags: a tag that was set by the directory's own name was there before, and is seen. No torch here.
"""

import os
import re
from pathlib import Path

from runner.checkpoint.files import again
from runner.errors import CheckpointError

PREFIX = "tag."

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
_TAKEN = ("latest", "best", "step")


def tags_of(path: Path) -> tuple[str, ...]:
    """The tags of the checkpoint in a directory, sorted; none when it is not there. Raises OSError."""
    try:
        with os.scandir(path) as entries:
            names = [entry.name.removeprefix(PREFIX) for entry in entries if entry.name.startswith(PREFIX)]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return tuple(sorted(name for name in names if _NAME.fullmatch(name)))


def check_tag(name: str) -> None:
    """Raises CheckpointError for what cannot be a tag."""
    if not _NAME.fullmatch(name):
        raise CheckpointError(
            f"{name!r} cannot be a tag; wanted a letter or _ first, then letters, digits, '_', '.' or '-', 100 at most"
        )
    if name in _TAKEN:
        raise CheckpointError(f"{name!r} cannot be a tag: it chooses a checkpoint already; take another name")


def tag(path: Path, name: str) -> None:
    """Tag the checkpoint in a directory, durably. One that has the tag is left as it is. Raises CheckpointError."""
    # Here, because a listing reads tags and writes nothing.
    from runner.checkpoint.durable import sync_opened

    check_tag(name)
    try:
        directory = again(os.open, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _failed(path, name, "tagged", error) from error
    try:
        # By its path and not by the descriptor: this succeeds only while the directory bears its own name.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = again(os.open, path / f"{PREFIX}{name}", flags, 0o666)
        try:
            again(os.fsync, descriptor)
        finally:
            os.close(descriptor)
        sync_opened(directory)
    except OSError as error:
        raise _failed(path, name, "tagged", error) from error
    finally:
        os.close(directory)


def untag(path: Path, name: str) -> None:
    """Take a tag away, durably. Raises CheckpointError, also when there is none."""
    from runner.checkpoint.durable import sync_opened

    check_tag(name)
    there = tags_of(path)
    if name not in there:
        raise CheckpointError(f"{path}: is not tagged {name!r}; its tags are: {', '.join(there) or 'none'}")
    try:
        directory = again(os.open, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            again(os.unlink, path / f"{PREFIX}{name}")
            sync_opened(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _failed(path, name, "untagged", error) from error


def _failed(path: Path, name: str, done: str, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path}: could not be {done} {name!r} ({error.strerror}); wanted a checkpoint's directory that you may change"
    )
