"""How files become a checkpoint, whole or not at all, and how one is removed again.

Everything is written into a hidden directory beside its place: space is reserved, bytes are written and synced, the
manifest is written and synced last, then the directory. Renaming it makes it a checkpoint, and syncing the parent
makes that last. Nothing is written in place; nothing old is touched. Removing goes the other way: renamed to a hidden
name first, so that a checkpoint is never there in part.

Every call that changes something goes through `os`.
"""

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runner.checkpoint.durable import Content, InMemory, advice, again, sync_directory, unused, write_file
from runner.checkpoint.files import FileRecord, Member, digest_of
from runner.checkpoint.manifest import MANIFEST_NAME, Manifest, read_manifest
from runner.checkpoint.tags import tags_of
from runner.errors import CheckpointError, DamagedError, SaveError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Linked:
    """A file that stands unchanged in an earlier checkpoint. `content` is written where links do not work."""

    source: Path
    record: FileRecord
    content: Content


def commit(
    directory: Path,
    name: str,
    *,
    owner: str,
    files: Mapping[str, Content | Linked],
    seal: Callable[[Mapping[str, FileRecord]], bytes],
    read_back: bool = False,
) -> tuple[Path, dict[str, FileRecord]]:
    """Write a checkpoint `name` in `directory`; `seal` makes its manifest from what was written.

    Returns where it is and the records of its files. `owner` marks the hidden names, so that `clean` touches only what
    this owner left. With `read_back` every byte is read from the disk and compared before the checkpoint gets its name.
    Raises SaveError, or DamagedError for bytes that came back wrong; then nothing of it is left, unless removing fails
    too: then the next `clean` removes it.
    """
    hidden = unused(directory, hidden_name(owner, name))
    target = unused(directory, name)
    wanted = sum(file.size for file in files.values() if not isinstance(file, Linked))
    made: os.stat_result | None = None
    try:
        again(os.mkdir, hidden)
        made = os.lstat(hidden)
        records = {file: _place(hidden / file, content) for file, content in files.items()}
        write_file(hidden / MANIFEST_NAME, InMemory(seal(records)))
        sync_directory(hidden)
        if read_back:
            _read_back(hidden, records, target)
        # Writing may have taken minutes, in which somebody has put something there.
        target = unused(directory, name)
        again(os.rename, hidden, target)
        sync_directory(directory)
    except BaseException as error:
        # Also when interrupted: half a checkpoint must not wait for the next start to free its space.
        discard(hidden)
        if made is not None:
            _withdraw(target, hidden, made)
        if isinstance(error, OSError):
            raise failed(target, error, wanted) from error
        raise
    return target, records


def strangers(path: Path, manifest: Manifest) -> list[str]:
    """What stands in a checkpoint's place that this program did not write: it must not be removed."""
    if path.is_symlink():
        return ["a link in place of the directory"]
    listed = {*manifest.files, MANIFEST_NAME}
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.name not in listed or not _is_file(entry))


def remove(path: Path, manifest: Manifest, *, owner: str) -> list[str]:
    """Remove a checkpoint, unless it has `strangers`: they are returned, and it stays.

    Raises OSError; what is left over is removed by `clean`.
    """
    if strange := strangers(path, manifest):
        return strange
    hidden = unused(path.parent, hidden_name(owner, path.name))
    again(os.rename, path, hidden)
    # Somebody may have tagged it in between. Under its hidden name nobody can any more.
    if strange := strangers(hidden, manifest):
        again(os.rename, hidden, path)
        return strange
    # If power fails, a name that came back would stand for what is there in part.
    sync_directory(path.parent)
    discard(hidden)
    return []


def clean(directory: Path, *, owner: str) -> None:
    """Remove what a writer that died left in `directory` under this owner's hidden names.

    What somebody tagged before it was hidden, and its remover died before he saw that, gets its name back.
    """
    prefix = hidden_name(owner, "")
    # What is wrong with the place itself, whoever lists it says.
    with suppress(FileNotFoundError, NotADirectoryError):
        leftovers = [path for path in sorted(directory.iterdir()) if path.name.startswith(prefix)]
        try:
            if leftovers:
                # As in `remove`: whoever hid them may have died before he could make that durable.
                sync_directory(directory)
        except OSError as error:
            log.warning("%s has leftovers that are not removed yet (%s)", directory, error.strerror)
            return
        for path in leftovers:
            if not _bring_back(path, path.name.removeprefix(prefix)):
                discard(path)


def _bring_back(hidden: Path, name: str) -> bool:
    """Give a tagged checkpoint its name back; False if it is none, and nobody wants it any more."""
    try:
        if hidden.is_symlink() or not tags_of(hidden):
            return False
        read_manifest(hidden)
        again(os.rename, hidden, unused(hidden.parent, name))
        sync_directory(hidden.parent)
    except CheckpointError:
        return False
    except OSError as error:
        log.warning("%s is a tagged checkpoint that could not get its name back (%s)", hidden, error.strerror)
    return True


def discard(hidden: Path) -> None:
    """Remove a hidden directory and the files in it; with a manifest, only the files that it lists. Never raises."""
    if hidden.is_symlink() or not hidden.is_dir():
        return
    try:
        with os.scandir(hidden) as scanned:
            entries = list(scanned)
    except OSError as error:
        log.warning("%s is a leftover that could not be listed (%s); it can be deleted", hidden, error.strerror)
        return
    try:
        listed = {*read_manifest(hidden).files, MANIFEST_NAME}
    except CheckpointError:
        listed = {entry.name for entry in entries}
    # The manifest last, so that the list is there until nothing is left to remove.
    for entry in sorted(entries, key=lambda entry: entry.name == MANIFEST_NAME):
        if entry.name in listed and _is_file(entry):
            with suppress(OSError):
                again(os.unlink, entry.path)
    try:
        again(os.rmdir, hidden)
    except OSError as error:
        log.warning("%s is a leftover that could not be removed (%s); it can be deleted", hidden, error.strerror)


def hidden_name(owner: str, name: str) -> str:
    """The hidden name under which `owner` prepares or removes `name`."""
    return f".tmp-{digest_of(owner.encode())[:8]}-{name}"


def failed(path: Path, error: OSError, wanted: int) -> SaveError:
    """The error for a checkpoint that could not be written."""
    return SaveError(
        f"{path}: could not be saved ({error.strerror or error}); {advice(path.parent, error, wanted)}; "
        "what was saved before is whole"
    )


def _place(path: Path, file: Content | Linked) -> FileRecord:
    if not isinstance(file, Linked):
        return write_file(path, file)
    try:
        again(os.link, file.source, path, follow_symlinks=False)
    except OSError as error:
        log.debug("%s could not be linked (%s), so it is written again", file.source, error.strerror)
        return write_file(path, file.content)
    return file.record


def _read_back(hidden: Path, records: Mapping[str, FileRecord], target: Path) -> None:
    # Here, because few saves are read back, and starting is to be quick.
    from runner.checkpoint.damage import damages_in

    for name, record in records.items():
        _forget(hidden / name)
        with Member(hidden / name, record) as member:
            if damages := damages_in(member):
                raise DamagedError(
                    f"{target}: was not saved: what was read back is not what was written; check the disk and the "
                    f"memory ({damages[0]})"
                )


def _forget(path: Path) -> None:
    """Let go of what the system holds of a synced file, so that reading asks the disk. Only advice."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _withdraw(target: Path, hidden: Path, made: os.stat_result) -> None:
    """Take back a checkpoint whose name may not be durable: it was refused, so it must not be found.

    Only if it is the directory that was `made`: what somebody else has put there is his.
    """
    with suppress(OSError):
        if os.path.samestat(os.lstat(target), made):
            again(os.rename, target, hidden)
            discard(hidden)


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)
