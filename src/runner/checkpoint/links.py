"""Files that need not be written again, because an earlier checkpoint holds the same bytes."""

import logging
from collections.abc import Sequence
from pathlib import Path

from runner.checkpoint.commit import Linked
from runner.checkpoint.durable import Content
from runner.checkpoint.files import FileRecord, Member, record_of
from runner.checkpoint.handle import Checkpoint
from runner.errors import CheckpointError

log = logging.getLogger(__name__)


class Links:
    """Finds files to link to. Each is read once before it is trusted: links must not spread damage."""

    def __init__(self) -> None:
        self._sound: set[tuple[int, int]] = set()

    def find(self, name: str, content: Content, checkpoints: Sequence[Checkpoint]) -> Content | Linked:
        """The file `name` of the newest checkpoint that holds these bytes there; else the content itself."""
        record = record_of(content.chunks())
        for checkpoint in reversed(checkpoints):
            if checkpoint.manifest.files.get(name) == record:
                source = checkpoint.path / name
                return Linked(source, record, content) if self._is_sound(source, record) else content
        return content

    def _is_sound(self, source: Path, record: FileRecord) -> bool:
        # Here, because few runs have frozen parameters, and starting is to be quick.
        from runner.checkpoint.damage import damages_in

        try:
            with Member(source, record) as member:
                if member.identity in self._sound:
                    return True
                damages = damages_in(member)
                if not damages:
                    self._sound.add(member.identity)
        except CheckpointError as error:
            damages = [str(error)]
        if damages:
            log.warning("written again instead of linked: %s", damages[0])
        return not damages
