"""A disk that loses power: what may be on it after a cut at any point in a recording of file calls.

 * what was written to a file is safe once that file has been synced;
 * a name (made, linked, renamed, removed) is safe once the directory in which it changed has been synced;
 * of everything else any part may be lost, in any order: the strictest reading of POSIX, worse than any file system.

Only a single rename is taken to happen whole or not at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from recorded_calls import Named, Recording, Sized, Synced, Written

Tree = Mapping[str, "bytes | Tree"]


@dataclass(frozen=True, slots=True)
class Loss:
    """What a power cut does to each change that is not safe: keeps it, loses it, or (bytes) keeps it in part."""

    name: str
    keeps_name: Callable[[], bool]
    keeps_size: Callable[[], bool]
    keeps_share: Callable[[], float]


def _always(value: Any) -> Callable[[], Any]:
    return lambda: value


LOSSES = (
    Loss("names and bytes lost", _always(False), _always(False), _always(0)),
    Loss("names and bytes kept", _always(True), _always(True), _always(1)),
    Loss("names kept, files empty", _always(True), _always(False), _always(0)),
    Loss("names kept, files full of zeros", _always(True), _always(True), _always(0)),
    Loss("names kept, files without reserved space", _always(True), _always(False), _always(1)),
    Loss("names kept, writes cut short", _always(True), _always(True), _always(0.5)),
    Loss("names lost, bytes kept", _always(False), _always(True), _always(1)),
)


def mixed(seed: int) -> Loss:
    """Each change kept or lost by chance."""
    chance = Random(seed)
    return Loss(
        f"mix {seed}",
        lambda: chance.random() < 0.5,
        lambda: chance.random() < 0.5,
        lambda: chance.choice((0, 0, 0.3, 1, 1)),
    )


def in_order(seed: int) -> Loss:
    """Names are kept up to one and lost from there on, as a journal does; bytes by chance."""
    chance = Random(seed)
    left = [chance.randrange(12)]

    def keeps() -> bool:
        left[0] -= 1
        return left[0] >= 0

    return Loss(f"journal {seed}", keeps, lambda: chance.random() < 0.5, lambda: chance.choice((0, 0.5, 1)))


def on_disk(recording: Recording, moment: int, loss: Loss) -> Tree:
    """What stands below the root after a power cut before event `moment` of the log."""
    log = recording.log[:moment]
    safe: set[int] = set()
    certain = [False] * moment
    for index in range(moment - 1, -1, -1):
        event = log[index]
        if isinstance(event, Synced):
            safe.add(event.node)
        elif isinstance(event, Written | Sized):
            certain[index] = event.node in safe
        elif isinstance(event, Named):
            certain[index] = any(directory in safe for directory, _, _ in event.changes)
    files = {node: bytearray(data) for node, data in recording.files.items()}
    directories = {node: dict(names) for node, names in recording.directories.items()}
    for event, is_certain in zip(log, certain, strict=True):
        if isinstance(event, Written):
            _store(files[event.node], event, 1 if is_certain else loss.keeps_share())
        elif isinstance(event, Sized):
            if is_certain or loss.keeps_size():
                _resize(files[event.node], event)
        elif isinstance(event, Named) and (is_certain or loss.keeps_name()):
            for directory, name, node in event.changes:
                if node is None:
                    directories[directory].pop(name, None)
                else:
                    directories[directory][name] = node

    def tree(node: int) -> Any:
        if node in directories:
            return {name: tree(inner) for name, inner in sorted(directories[node].items())}
        return bytes(files[node])

    found: Tree = tree(recording.top)
    return found


def _store(file: bytearray, event: Written, share: float) -> None:
    data = event.data[: int(len(event.data) * share)]
    if data:
        file.extend(bytes(max(0, event.offset - len(file))))
        file[event.offset : event.offset + len(data)] = data


def _resize(file: bytearray, event: Sized) -> None:
    file.extend(bytes(max(0, event.size - len(file))))
    if not event.reserved:
        del file[event.size :]


def lay_out(tree: Tree, root: Path) -> None:
    """Make real files of it."""
    root.mkdir()
    for name, value in tree.items():
        if isinstance(value, bytes):
            (root / name).write_bytes(value)
        else:
            lay_out(value, root / name)
