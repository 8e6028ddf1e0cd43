"""Files and directories that are new, whole and durable, or not there: what packing and exporting write.

Nothing is overwritten, but where that is asked for. A hidden name beside the target is being written; its writer holds
a lock on it, so what a writer that died left is seen and removed.
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner.checkpoint.durable import advice, again, sync_directory
from runner.checkpoint.files import digest_of
from runner.errors import ConfigError, SaveError

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def in_the_way(target: Path) -> ConfigError:
    """The error for a target that stands there already."""
    return ConfigError(f"{target}: stands there already, and nothing is overwritten; choose another name")


@contextmanager
def new_file(target: Path) -> Iterator[int]:
    """A file to write, which has its name and is durable afterwards."""
    with _written(target, _name_without_overwriting, undone=(target,)) as descriptor:
        yield descriptor


@contextmanager
def replaced_file(target: Path) -> Iterator[int]:
    """The same in the place of what stands there: that stays as it is until the new one is whole."""
    # Once it has its name it stays, whatever fails then: what stood there is gone.
    with _written(target, _replace, undone=()) as descriptor:
        yield descriptor


@contextmanager
def _written(target: Path, name: Callable[[Path, Path], None], *, undone: tuple[Path, ...]) -> Iterator[int]:
    hidden, descriptor = _locked(target)
    try:
        yield descriptor
        again(os.fsync, descriptor)
        name(hidden, target)
        sync_directory(target.parent)
    except BaseException:
        for path in (hidden, *undone):
            with suppress(OSError):
                # What somebody else has put there meanwhile is his.
                if os.path.samestat(os.lstat(path), os.fstat(descriptor)):
                    again(os.unlink, path)
        raise
    finally:
        os.close(descriptor)


def _locked(target: Path) -> tuple[Path, int]:
    """A new hidden file for `target`, and its descriptor, which holds the lock."""
    while True:
        hidden = _hidden(target)
        descriptor = again(os.open, hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            again(fcntl.flock, descriptor, fcntl.LOCK_EX)
            # Before it was locked, another writer of this target may have taken it for a dead one's, and removed it.
            if os.fstat(descriptor).st_nlink:
                return hidden, descriptor
        except BaseException:
            os.close(descriptor)
            _discard(hidden)
            raise
        os.close(descriptor)


def _replace(hidden: Path, target: Path) -> None:
    again(os.rename, hidden, target)


def _name_without_overwriting(hidden: Path, target: Path) -> None:
    try:
        again(os.link, hidden, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        again(os.rename, hidden, target)
        return
    again(os.unlink, hidden)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to write files into, which has its name and is durable afterwards."""
    hidden = _hidden(target)
    again(os.mkdir, hidden)
    named = False
    try:
        descriptor = again(os.open, hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except BaseException:
        _discard(hidden)
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield hidden
        sync_directory(hidden)
        again(os.rename, hidden, target)
        named = True
        sync_directory(target.parent)
    except BaseException:
        _discard(target if named else hidden)
        raise
    finally:
        os.close(descriptor)


def _hidden(target: Path) -> Path:
    """A hidden name beside the target, after what dead writers of that target left has been removed."""
    start = f".tmp-pack-{digest_of(os.fsencode(target.name))[:8]}-"
    for path in target.parent.glob(f"{start}*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _discard(path)
        except OSError:
            continue  # Its writer lives.
        finally:
            os.close(descriptor)
    return target.with_name(f"{start}{secrets.token_hex(4)}")


def _discard(path: Path) -> None:
    """Remove what was being written here. Never raises OSError: what cannot be removed is removed by the next."""
    with suppress(OSError):
        if not path.is_dir():
            again(os.unlink, path)
            return
        for file in path.iterdir():
            again(os.unlink, file)
        again(os.rmdir, path)


@contextmanager
def reported(target: Path, wanted: int) -> Iterator[None]:
    """Raises SaveError, saying where and what to do, for an OSError from inside. `wanted` counts bytes."""
    try:
        yield
    except SaveError:
        raise
    except OSError as error:
        raise SaveError(
            f"{target}: could not be written ({error.strerror or error}); {advice(target.parent, error, wanted)}, or "
            "choose another place; nothing of it is left"
        ) from error
