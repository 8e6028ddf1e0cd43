"""From a staged state to a checkpoint on the disk: which files it gets, and whether there is room for them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.checkpoint.commit import Linked, clean, commit, failed
from runner.checkpoint.contents import FROZEN, STATE, TENSOR_FILES
from runner.checkpoint.durable import Content, InMemory, free_bytes, make_directory
from runner.checkpoint.files import FileRecord, check_name
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.links import Links
from runner.checkpoint.manifest import MANIFEST_NAME, Manifest, parse_manifest, to_bytes
from runner.checkpoint.naming import name_of
from runner.quantities import size

if TYPE_CHECKING:
    from runner.checkpoint.staging import Staged

log = logging.getLogger(__name__)

SLACK_BYTES = 128 * 1024
"""What a save may need beyond its tensors and documents: the manifest, the directory, rounding up to blocks."""


class Writing:
    """Writes the checkpoints of one run. Knows nothing of the live state, so any thread may do it, one at a time."""

    def __init__(self, directory: Path, *, run: str, template: str, read_back: bool) -> None:
        self._directory, self._run, self._template, self._read_back = directory, run, template, read_back
        self._links = Links()
        self._warned_of_names: set[str] = set()
        self._warned_of_space = False

    def write(
        self,
        *,
        tree: bytes,
        staged: "Staged",
        documents: Mapping[str, bytes],
        manifest: Manifest,
        earlier: Sequence[Checkpoint],
    ) -> tuple[Checkpoint, int]:
        """Commit what was staged; the checkpoint, and how many bytes were written for it. Raises SaveError.

        `tree` is the text of state.json, `manifest` lacks only the files. What stands in one of the `earlier`
        checkpoints already, and does not change, is linked.
        """
        name = self._name(manifest)
        files = self._files(tree, staged, documents, earlier)
        wanted = sum(file.size for file in files.values() if not isinstance(file, Linked))

        def seal(records: Mapping[str, FileRecord]) -> bytes:
            return to_bytes(replace(manifest, files=dict(records)))

        try:
            make_directory(self._directory)
            clean(self._directory, owner=self._run)
        except OSError as error:
            raise failed(self._directory / name, error, wanted) from error
        self._warn_if_it_will_not_fit(wanted)
        path, records = commit(
            self._directory, name, owner=self._run, files=files, seal=seal, read_back=self._read_back
        )
        # As it reads from the disk, where a tuple among the facts is a list; the disk itself need not be asked.
        return Checkpoint(path, parse_manifest(seal(records), path / MANIFEST_NAME)), wanted

    def _name(self, manifest: Manifest) -> str:
        name, warnings = name_of(self._template, manifest.progress, manifest.metrics)
        for warning in warnings:
            if warning not in self._warned_of_names:
                self._warned_of_names.add(warning)
                log.warning("%s", warning)
        return name

    def _files(
        self, tree: bytes, staged: "Staged", documents: Mapping[str, bytes], earlier: Sequence[Checkpoint]
    ) -> dict[str, Content | Linked]:
        files: dict[str, Content | Linked] = {name: InMemory(data) for name, data in documents.items()}
        files[STATE] = InMemory(tree)
        for name, image in staged.files.items():
            files[name] = self._links.find(name, image, earlier) if name == FROZEN else image
        return files

    def _warn_if_it_will_not_fit(self, wanted: int) -> None:
        free = free_bytes(self._directory)
        if self._warned_of_space or free is None or wanted + SLACK_BYTES <= free:
            return
        self._warned_of_space = True
        log.warning(
            "%s: a checkpoint needs about %s and %s are free, so saving may fail; make room, or keep fewer",
            self._directory,
            size(wanted + SLACK_BYTES),
            size(free),
        )


def check_documents(documents: Mapping[str, bytes], where: Path) -> None:
    """Refuse documents whose names would lead out of the checkpoint, or stand in the place of its own files."""
    for name in documents:
        check_name(name, where)
        if name in (MANIFEST_NAME, STATE, *TENSOR_FILES):
            raise ValueError(f"a document cannot be called {name!r}: the checkpoint has a file of that name")
