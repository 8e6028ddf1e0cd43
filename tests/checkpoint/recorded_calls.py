"""What file calls did to the files below one directory, written down call by call while they happen."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import FileCalls, unsynced


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes that went into a file at a place."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Sized:
    """A file that was cut or grown to a size; `reserved` never makes it shorter."""

    node: int
    size: int
    reserved: bool


@dataclass(frozen=True, slots=True)
class Named:
    """Names that changed together: (directory, name, what it stands for from now on)."""

    changes: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Synced:
    """A file or directory whose changes are safe from now on."""

    node: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that the test wants to find again in the log."""

    text: str


Event = Written | Sized | Named | Synced | Mark


@dataclass
class Recording:
    """The log of what happens below `root`, and what stood there before."""

    root: Path
    log: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files: dict[int, bytes] = {}
        self.directories: dict[int, dict[str, int]] = {}
        self._live: dict[int, dict[str, int]] = {}
        self._descriptors: dict[int, int] = {}
        self._lock = threading.RLock()
        self._count = 0
        self.top = self._read(self.root)
        self._live = {node: dict(names) for node, names in self.directories.items()}

    def mark(self, text: str) -> None:
        self.log.append(Mark(text))

    @contextmanager
    def running(self, longest_write: int) -> Iterator[None]:
        """Record. No write takes more than `longest_write` bytes, so that files are written in several."""

        def act(number: int, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
            with self._lock:
                if name == "write":
                    args = (args[0], memoryview(args[1]).cast("B")[:longest_write])
                # Resolved beforehand: afterwards an old name may be gone.
                places = [self._place(path) for path in args[:2] if isinstance(path, str | os.PathLike)]
                result = unsynced(name, call, args)
                getattr(self, f"_{name}", self._unknown(name))(args, places, result)
                return result

        with FileCalls().going_through(act):
            yield

    def _read(self, path: Path) -> int:
        node = self._new()
        if path.is_dir():
            self.directories[node] = {entry.name: self._read(entry) for entry in sorted(path.iterdir())}
        else:
            self.files[node] = path.read_bytes()
        return node

    def _new(self) -> int:
        self._count += 1
        return self._count

    def _place(self, path: str | os.PathLike[str]) -> tuple[int, str, int | None] | None:
        """(directory, name, what stands there), for a path below the root."""
        try:
            parts = Path(path).absolute().relative_to(self.root).parts
        except ValueError:
            return None
        if not parts:
            return 0, "", self.top
        directory = self.top
        for part in parts[:-1]:
            if part not in self._live.get(directory, {}):
                return None
            directory = self._live[directory][part]
        return directory, parts[-1], self._live.get(directory, {}).get(parts[-1])

    def _unknown(self, name: str) -> Callable[..., None]:
        def unknown(args: Any, places: Sequence[Any], result: Any) -> None:
            raise AssertionError(f"os.{name} was called, which this recording does not understand")

        return unknown

    def _change(self, *changes: tuple[int, str, int | None]) -> None:
        for directory, name, node in changes:
            if node is None:
                self._live[directory].pop(name, None)
            else:
                self._live[directory][name] = node
        self.log.append(Named(changes))

    def _open(self, args: Any, places: Sequence[Any], descriptor: int) -> None:
        self._descriptors.pop(descriptor, None)
        if not places or places[0] is None:
            return
        directory, name, node = places[0]
        if node is None:
            node = self._new()
            self.files[node] = b""
            self._change((directory, name, node))
        elif args[1] & os.O_TRUNC:
            self.log.append(Sized(node, 0, reserved=False))
        self._descriptors[descriptor] = node

    def _write(self, args: Any, places: Sequence[Any], count: int) -> None:
        offset = os.lseek(args[0], 0, os.SEEK_CUR) - count
        self._store(args[0], offset, bytes(args[1][:count]))

    def _writev(self, args: Any, places: Sequence[Any], count: int) -> None:
        offset = os.lseek(args[0], 0, os.SEEK_CUR) - count
        self._store(args[0], offset, b"".join(args[1])[:count])

    def _pwrite(self, args: Any, places: Sequence[Any], count: int) -> None:
        self._store(args[0], args[2], bytes(memoryview(args[1]).cast("B")[:count]))

    def _pwritev(self, args: Any, places: Sequence[Any], count: int) -> None:
        self._store(args[0], args[2], b"".join(args[1])[:count])

    def _store(self, descriptor: int, offset: int, data: bytes) -> None:
        if descriptor in self._descriptors:
            self.log.append(Written(self._descriptors[descriptor], offset, data))

    def _posix_fallocate(self, args: Any, places: Sequence[Any], result: Any) -> None:
        if args[0] in self._descriptors:
            self.log.append(Sized(self._descriptors[args[0]], args[1] + args[2], reserved=True))

    def _ftruncate(self, args: Any, places: Sequence[Any], result: Any) -> None:
        if args[0] in self._descriptors:
            self.log.append(Sized(self._descriptors[args[0]], args[1], reserved=False))

    def _fsync(self, args: Any, places: Sequence[Any], result: Any) -> None:
        if args[0] in self._descriptors:
            self.log.append(Synced(self._descriptors[args[0]]))

    _fdatasync = _fsync

    def _mkdir(self, args: Any, places: Sequence[Any], result: Any) -> None:
        if places[0] is not None:
            node = self._new()
            self.directories[node], self._live[node] = {}, {}
            self._change((*places[0][:2], node))

    def _unlink(self, args: Any, places: Sequence[Any], result: Any) -> None:
        if places[0] is not None:
            self._change((*places[0][:2], None))

    _rmdir = _remove = _unlink

    def _rename(self, args: Any, places: Sequence[Any], result: Any) -> None:
        if places[0] is not None:
            self._change((*places[0][:2], None), (*places[1][:2], places[0][2]))

    _replace = _rename

    def _link(self, args: Any, places: Sequence[Any], result: Any) -> None:
        if places[0] is not None:
            self._change((*places[1][:2], places[0][2]))
