"""What observers keep over the attempts of a run, as the number by which a tracker knows it: `observers/<name>.json`.

One that has `state_dict` and `load_state_dict` (of what JSON can hold: text, numbers, lists, mappings by text) is given
its state back before the first record of an attempt; it is asked for it after that record, after every save, and at the
end. Not a part of the training: a resume from an older checkpoint gives the newest state back, and a fork, being a run
of its own, begins without one.
"""

import json
import logging
import os
from pathlib import Path
from urllib.parse import quote

from runner.training.state import Stateful

log = logging.getLogger(__name__)


class Memory:
    """The states of a run's observers, in a directory that is made when there is one to write."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._kept: dict[str, bytes] = {}
        self._said: set[str] = set()

    def recall(self, name: str, observer: object) -> None:
        """Give `observer` back what it has kept, if it has."""
        if not isinstance(observer, Stateful):
            return
        file = self._file(name)
        try:
            data = file.read_bytes()
            state = json.loads(data)
            if not isinstance(state, dict):
                raise ValueError(f"it holds a {type(state).__name__}")
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s: cannot be read (%s), so observer %s begins anew; %s", file, error, name, _set_aside(file))
            return
        observer.load_state_dict(state)
        self._kept[name] = data

    def keep(self, name: str, observer: object) -> None:
        """Write what `observer` has to keep, if it has changed. That it cannot be is said once."""
        if not isinstance(observer, Stateful):
            return
        file = self._file(name)
        try:
            data = json.dumps(observer.state_dict(), indent=1, allow_nan=False).encode() + b"\n"
            if data != self._kept.get(name):
                self._write(file, data)
                self._kept[name] = data
        except (OSError, TypeError, ValueError) as error:
            if name not in self._said:
                self._said.add(name)
                log.warning(
                    "%s: the state of observer %s cannot be kept (%s: %s)", file, name, type(error).__name__, error
                )

    def _file(self, name: str) -> Path:
        return self.directory / f"{quote(name, safe='')}.json"

    def _write(self, file: Path, data: bytes) -> None:
        """Whole or not at all, also if the power goes."""
        self.directory.mkdir(exist_ok=True)
        unfinished = file.with_name(f".{file.name}")
        with unfinished.open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        unfinished.replace(file)


def _set_aside(file: Path) -> str:
    """Nothing is written over what may be mended by hand. Says where it is."""
    try:
        kept = file.rename(file.with_suffix(".damaged"))
    except OSError as error:
        return f"it stays there ({error.strerror})"
    return f"it is kept as {kept.name}"
