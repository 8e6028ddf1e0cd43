"""`run.lock`: at most one process works on a run.

The file names its holder: host, boot, process, when that process began, and a heartbeat that the holder renews. On the
same host the process table says whether the holder lives; on another only the heartbeat can tell, so it is watched for
a few intervals. A dead holder's lock is taken over, and of several takers exactly one wins:

    place    a complete file under a temporary name is linked to `run.lock`, which fails if it exists
    take     the taker first places `run.lock.<token of the dead holder>` in the same way, looks again whether that dead
             holder's lock still stands, and only then renames its own file over it. If a taker dies in between, its
             claim is a dead holder's lock like any other.
    renew    in place, through the descriptor that wrote the file: a lock that has been taken over is another file, so
             its former holder can never overwrite it
"""

import errno
import json
import logging
import os
import secrets
import threading
import time
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import xxhash

from runner.errors import LockedError, ResumeError
from runner.processes import ThisProcess, is_alive, this_process

log = logging.getLogger(__name__)

INTERVAL = 5.0  # Seconds between two heartbeats.
PATIENCE = 4.0  # Heartbeats that may be missed before a holder on another host counts as dead.
_SIZE = 1024
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_LONGEST_INTERVAL = 60.0
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, as its file says."""

    token: str
    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    process_start: str
    since: str
    interval: float
    beats: int
    beat_time: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class RunLock:
    """The lock of a run, as a context manager. A forked child neither renews nor releases what its parent holds."""

    def __init__(self, path: Path, *, interval: float = INTERVAL, patience: float = PATIENCE) -> None:
        self.path = path
        self._interval = float(interval)
        self._patience = patience
        self._mine: Holder | None = None
        self._file = -1
        self._owner = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """This very process holds the lock."""
        return self._mine is not None and self._owner == os.getpid() and _is_at(self.path, self._file)

    def acquire(self) -> None:
        """Take the lock, or raise LockedError naming the holder. May watch another host's heartbeat first."""
        if self.held:
            raise LockedError(f"{self.path}: this process already holds it")
        me = this_process()
        mine = _holder(me, self._interval)
        try:
            self._file = _take(self.path, mine, patience=self._patience)
        except OSError as e:
            raise ResumeError(
                f"{self.path}: the lock cannot be written ({e.strerror}); "
                f"make {self.path.parent} writable, free some space, or copy the run to where you can write"
            ) from e
        self._mine = mine
        self._owner = me.pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, args=(mine, self._stop), name="run-lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lock back. Does nothing in a forked child, or if it is not held."""
        if self._mine is None or self._owner != os.getpid():
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if _is_at(self.path, self._file):
            self.path.unlink()
        os.close(self._file)
        self._mine, self._file, self._thread = None, -1, None

    def _renew(self, mine: Holder, stop: threading.Event) -> None:
        while not stop.wait(self._interval):
            mine = replace(mine, beats=mine.beats + 1, beat_time=time.time())
            try:
                os.pwrite(self._file, _to_bytes(mine), 0)
                # Another host sees what has been synced only.
                os.fsync(self._file)
            except OSError as e:
                log.warning("%s: the heartbeat could not be written (%s)", self.path, e.strerror)
            if not _is_at(self.path, self._file):
                log.error("%s: no longer the lock of this process; another may be working on the run", self.path)
                return

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder(path: Path) -> Holder | None:
    """The live process that holds the lock, without waiting: a holder on another host is judged by its heartbeat's age.

    None if nobody holds it. To be sure, acquire the lock.
    """
    found = _parsed(_content(path) or b"")
    if found is None:
        return None
    known = _lives(found, this_process())
    alive = _is_fresh(found) if known is None else known
    return found if alive else None


def _take(path: Path, mine: Holder, *, patience: float) -> int:
    """Place `mine` as the lock and return its open file; LockedError if someone lives who holds it."""
    temporary = path.with_name(f"{path.name}.tmp-{mine.token}")
    file = _written(temporary, mine)
    try:
        while not _placed(temporary, file, path):
            content = _dead_content(path, mine.interval, patience)
            if content is None:
                continue  # Released a moment ago.
            claim = path.with_name(f"{path.name}.{_token(content)}")
            os.close(_take(claim, replace(mine, token=secrets.token_hex(8)), patience=patience))
            try:
                if _content(path) == content:
                    temporary.rename(path)
                    log.info("%s: taken over from a process that is gone", path)
                    break
            finally:
                claim.unlink(missing_ok=True)
    except BaseException:
        os.close(file)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return file


def _written(path: Path, mine: Holder) -> int:
    file = os.open(path, _NEW, 0o666)
    try:
        os.pwrite(file, _to_bytes(mine), 0)
        os.fsync(file)
    except OSError:
        os.close(file)
        path.unlink(missing_ok=True)
        raise
    return file


def _placed(temporary: Path, file: int, path: Path) -> bool:
    """Give the open file the name `path` unless that name is taken. The descriptor stays good for it."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        # A network file system may repeat a request that has succeeded, and then report the name as taken.
        return _is_at(path, file)
    except OSError as e:
        if e.errno not in _NO_LINKS:
            raise
        return _placed_without_links(file, path)
    return True


def _placed_without_links(file: int, path: Path) -> bool:
    try:
        other = os.open(path, _NEW, 0o666)
    except FileExistsError:
        return False
    try:
        os.pwrite(other, os.pread(file, _SIZE, 0), 0)
        os.fsync(other)
        os.dup2(other, file, inheritable=False)
    finally:
        os.close(other)
    return True


def _dead_content(path: Path, interval: float, patience: float) -> bytes | None:
    """The lock file of a holder that is gone; None if there is no file. LockedError if its holder lives."""
    content = _content(path)
    if content is None:
        return None
    found = _parsed(content)
    alive = None if found is None else _lives(found, this_process())
    if alive is None:
        wait = patience * min(max(interval, found.interval if found else 0.0), _LONGEST_INTERVAL)
        log.warning("%s: watching its heartbeat for up to %.0f s (%s)", path, wait, found or "not readable")
        end = time.monotonic() + wait
        while time.monotonic() < end:
            time.sleep(min(wait / 50, 0.5))
            now = _content(path)
            if now is None:
                return None
            if now != content:
                found, alive = _parsed(now) or found, True
                break
    if alive:
        raise LockedError(
            f"{path.parent}: another process is working on this run ({found or 'unknown'}); "
            "wait until it has ended, or stop it there"
        )
    return content


def _lives(found: Holder, me: ThisProcess) -> bool | None:
    """Whether the holder lives; None if this host cannot tell."""
    if found.host != me.host:
        return None
    if found.boot_id != me.boot_id:
        # This host has been started anew since, unless another one of the same name shares the file.
        return None if _is_fresh(found) else False
    if found.pid_namespace != me.pid_namespace:
        return None
    return is_alive(found.pid, found.process_start)


def _is_fresh(found: Holder) -> bool:
    return abs(time.time() - found.beat_time) <= PATIENCE * found.interval


def _is_at(path: Path, file: int) -> bool:
    """The open file is the one under this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except OSError:
        return False


def _holder(me: ThisProcess, interval: float) -> Holder:
    return Holder(
        token=secrets.token_hex(8),
        **asdict(me),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        interval=interval,
        beats=0,
        beat_time=time.time(),
    )


def _to_bytes(mine: Holder) -> bytes:
    # Of one size always, because it is renewed in place.
    return json.dumps(asdict(mine)).encode().ljust(_SIZE - 1) + b"\n"


def _parsed(content: bytes) -> Holder | None:
    try:
        found = Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None
    return found if all(type(getattr(found, field.name)) is field.type for field in fields(Holder)) else None


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_SIZE)
    except FileNotFoundError:
        return None


def _token(content: bytes) -> str:
    found = _parsed(content)
    if found is not None and found.token.isalnum() and len(found.token) <= 32:
        return found.token
    return xxhash.xxh3_64_hexdigest(content)
