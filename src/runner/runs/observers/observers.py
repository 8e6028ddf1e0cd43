"""The observers of a run together: each gets every record, and one that fails is named once and left out."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from runner.records import Ended, Record, Saved, Started
from runner.runs.observers.memory import Memory

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Something that looks on. The first record of an attempt is `Started`, the last `Ended`."""

    def observe(self, record: Record) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class Maker(Protocol):
    """An observer that leaves files for the user, a picture say: the end of the run tells where they are."""

    made: Sequence[Path]


class Observers:
    """Hands records to several observers. A record is a fact: nothing that an observer does changes the training."""

    def __init__(self, observers: Mapping[str, Observer], memory: Memory) -> None:
        self._watching, self._memory = dict(observers), memory
        self.made: list[Path] = []
        """What those that are closed have made."""

    def observe(self, record: Record) -> None:
        """Show `record` to each observer that is still watching."""
        failed = []
        for name, observer in self._watching.items():
            try:
                if isinstance(record, Started):
                    self._memory.recall(name, observer)
                observer.observe(record)
                if isinstance(record, Started | Saved | Ended):
                    self._memory.keep(name, observer)
            except Exception as e:  # Whatever a tracker raises, the training it looks on must not end by it.
                log.warning("observer %s failed and is left out from now on: %s: %s", name, type(e).__name__, e)
                failed.append(name)
        for name in failed:
            self._close(name)

    def close(self) -> None:
        """Close those that are still watching."""
        for name in list(self._watching):
            self._close(name)

    def _close(self, name: str) -> None:
        observer = self._watching.pop(name)
        try:
            if isinstance(observer, Maker):
                self.made += observer.made
            observer.close()
        except Exception as e:  # See above.
            log.warning("observer %s could not be closed: %s: %s", name, type(e).__name__, e)
