"""Where the files of a checkpoint are: in a directory, or packed into one file. What is there tells which. No torch."""

from pathlib import Path
from typing import Protocol

from runner.checkpoint import tags
from runner.checkpoint.files import FileRecord, Member, read_small
from runner.checkpoint.manifest import MANIFEST_NAME, SIZE_LIMIT, Manifest, read_manifest


class Place(Protocol):
    """The files of one checkpoint."""

    path: Path

    def manifest(self) -> Manifest:
        """As it is there now. Raises CheckpointError."""
        ...

    def manifest_bytes(self) -> bytes:
        """Its text as it is there now, not looked at."""
        ...

    def opened(self, name: str, record: FileRecord) -> Member:
        """A file that the manifest lists, to be used as a context."""
        ...

    def tags(self) -> tuple[str, ...]: ...

    def damages(self) -> list[str]:
        """What is wrong beside the files that the manifest lists, a line each."""
        ...


def place_at(path: Path) -> Place | None:
    """The place at `path`; None for what is no checkpoint itself. Raises CheckpointError for a file that is none."""
    if (path / MANIFEST_NAME).exists():
        return Directory(path)
    if not path.is_file():
        return None
    # Here, because most are directories, and opening one is quick.
    from runner.checkpoint.packed import Packed

    return Packed(path)


class Directory:
    """A checkpoint as it was saved."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def manifest(self) -> Manifest:
        return read_manifest(self.path)

    def manifest_bytes(self) -> bytes:
        return read_small(self.path / MANIFEST_NAME, SIZE_LIMIT)

    def opened(self, name: str, record: FileRecord) -> Member:
        return Member(self.path / name, record)

    def tags(self) -> tuple[str, ...]:
        return tags.tags_of(self.path)

    def damages(self) -> list[str]:
        return []
