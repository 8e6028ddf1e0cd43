"""Removing what a keep policy does not keep: judged anew after every save, by the manifests that are there."""

import logging
from collections.abc import Sequence

from runner.checkpoint.commit import remove
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import as_kept
from runner.checkpoint.policies import KeepPolicy, kept
from runner.checkpoint.tags import PREFIX
from runner.records import Monitor

log = logging.getLogger(__name__)


class Retention:
    """Removes one run's checkpoints, and nothing else. What it cannot remove it tries again after the next save."""

    def __init__(self, run: str, keep: KeepPolicy, monitor: Monitor | None) -> None:
        self._run, self._keep, self._monitor = run, keep, monitor
        self._protected: set[str] = set()
        self._warned_of: set[str] = set()

    def protect(self, checkpoint: Checkpoint) -> None:
        """Keep this one whatever the policy says."""
        self._protected.add(checkpoint.path.name)

    def remove_from(self, checkpoints: Sequence[Checkpoint]) -> set[str]:
        """Remove those that are not kept; the names of the directories that are gone."""
        own = [checkpoint for checkpoint in checkpoints if checkpoint.manifest.run == self._run]
        records = [as_kept(checkpoint, protected=checkpoint.path.name in self._protected) for checkpoint in own]
        keep = kept(self._keep, records, self._monitor)
        leaving = [checkpoint for checkpoint in own if checkpoint.generation not in keep]
        return {checkpoint.path.name for checkpoint in leaving if self._remove(checkpoint)}

    def _remove(self, checkpoint: Checkpoint) -> bool:
        """A failure is no reason to stop training: it is logged."""
        path = checkpoint.path
        try:
            strange = remove(path, checkpoint.manifest, owner=self._run)
        except OSError as error:
            log.warning("%s could not be removed (%s); it is tried again later", path, error.strerror)
            # It may have got its hidden name before that.
            return not path.exists()
        unknown = [name for name in strange if not name.startswith(PREFIX)]
        if unknown and path.name not in self._warned_of:
            self._warned_of.add(path.name)
            log.warning(
                "%s is kept: it holds what its manifest does not list (%s); move that away, or delete it yourself",
                path,
                ", ".join(unknown),
            )
        if not strange:
            log.info("removed %s", path)
        return not strange
