"""Ways to break the world under a save: file calls that fail, processes that die, files that somebody has forged.

Shared by the test modules here; conftest.py makes fixtures of what needs one. The shims stand in for functions of `os`
in the whole process, so they reach calls made by any of its threads.
"""

import errno
import os
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.checkpoint.files import CHUNK_BYTES, record_of
from runner.checkpoint.manifest import MANIFEST_NAME, read_manifest, to_bytes
from runner.checkpoint.policies import KeepPolicy

Call = Callable[..., Any]
Act = Callable[[int, str, Call, tuple[Any, ...]], Any]

CALLS = tuple(
    name
    for name in (
        *("open", "write", "writev", "pwrite", "pwritev", "posix_fallocate", "truncate", "ftruncate"),
        *("copy_file_range", "sendfile", "fsync", "fdatasync", "sync"),
        *("mkdir", "rmdir", "rename", "replace", "link", "symlink", "unlink", "remove", "mkfifo", "mknod"),
        *("chmod", "fchmod", "utime"),
    )
    if hasattr(os, name)
)
"""The calls of `os` that can change files or make them last."""

DISK_FAILURES = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)

KILLED = 9
"""How a process ends that was killed at a file call."""


def keeping(last: int | None) -> KeepPolicy:
    """A policy that keeps the last few, or all."""
    return KeepPolicy(last=last, best=None, every_steps=None, every_hours=None)


class FileCalls:
    """Counts the calls of `os` that change files, and lets one of them, or all from one on, go wrong."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._lock = threading.Lock()

    @contextmanager
    def going_through(self, act: Act) -> Iterator[None]:
        """`act(number, name, call, arguments)` stands in for every call; numbers are from 0."""
        real = {name: getattr(os, name) for name in CALLS}

        def through(name: str) -> Call:
            def call(*args: Any, **kwargs: Any) -> Any:
                with self._lock:
                    self.log.append(name)
                    number = len(self.log) - 1
                return act(number, name, lambda *given: real[name](*given, **kwargs), args)

            return call

        for name in CALLS:
            setattr(os, name, through(name))
        try:
            yield
        finally:
            for name, call in real.items():
                setattr(os, name, call)

    @contextmanager
    def failing(self, at: int, code: int, *, ever_after: bool = False) -> Iterator[None]:
        def act(number: int, name: str, call: Call, args: tuple[Any, ...]) -> Any:
            if number == at or (ever_after and number > at):
                raise OSError(code, os.strerror(code))
            return unsynced(name, call, args)

        with self.going_through(act):
            yield

    @contextmanager
    def quick(self) -> Iterator[None]:
        """All goes well, and nobody waits for the disk."""
        with self.going_through(lambda number, name, call, args: unsynced(name, call, args)):
            yield


def unsynced(name: str, call: Call, args: tuple[Any, ...]) -> Any:
    """The call itself, without waiting for the disk: nothing in these tests outlives the machine."""
    return None if name in ("fsync", "fdatasync") else call(*args)


def dies(action: Callable[[], object], number: int, after: bool) -> bool:
    """Run an action in a child that dies at file call `number`, before or after it. False if it lived to its end."""

    def act(now: int, name: str, call: Call, args: tuple[Any, ...]) -> Any:
        if now == number and not after:
            os._exit(KILLED)
        result = unsynced(name, call, args)
        if now == number:
            os._exit(KILLED)
        return result

    def shimmed() -> None:
        with FileCalls().going_through(act):
            action()

    code = in_child(shimmed)
    assert code in (0, KILLED)
    return code == KILLED


def in_child(action: Callable[[], object], before: Callable[[], object] = lambda: None) -> int:
    """Run an action in a forked child; its exit code, negative for a signal. `before` is called in the child first."""
    with warnings.catch_warnings():
        # The child only writes files and leaves; it takes no lock that another thread may hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            before()
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def flip(path: Path, position: int, bits: int = 1) -> None:
    """Change a byte of a file, in a file of its own: what is linked to it elsewhere stays as it is."""
    raw = bytearray(path.read_bytes())
    raw[position] ^= bits
    path.unlink()
    path.write_bytes(raw)


def forge(checkpoint: Path, name: str, data: bytes, *, without: Collection[str] = ()) -> None:
    """Put `data` in the place of a file and seal the manifest for it with the right checksums, as an attacker would."""
    manifest = read_manifest(checkpoint)
    (checkpoint / name).unlink(missing_ok=True)
    (checkpoint / name).write_bytes(data)
    pieces = [data[begin : begin + CHUNK_BYTES] for begin in range(0, len(data), CHUNK_BYTES)]
    files = {kept: record for kept, record in manifest.files.items() if kept not in without}
    forged = replace(manifest, files={**files, name: record_of(pieces)})
    (checkpoint / MANIFEST_NAME).write_bytes(to_bytes(forged))
