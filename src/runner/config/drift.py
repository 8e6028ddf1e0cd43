"""Where conf/ has drifted since a run was launched, and the pins that hold the run to what was saved."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.config.composing import Config
from runner.config.diff import NOT_THERE, differing
from runner.config.documents import SavedConfig
from runner.config.interpolation import Path, leaves, replaced, value_at
from runner.config.replay import as_text
from runner.config.schema import SCHEMAS
from runner.config.secrets import REDACTED, redact
from runner.config.targets import GROUP_LEVEL

_NOW = "${now:"
_PLAIN = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)


@dataclass(frozen=True)
class Pin:
    """A value that conf/ no longer gives, held to what was saved."""

    path: Path
    saved: Any
    """NOT_THERE: the key is left out of the config again."""

    @property
    def key(self) -> str:
        return ".".join(map(str, self.path))

    @property
    def typeable(self) -> bool:
        """Whether an override can name the key. One with a dot in it, of a file that means harm, could name another."""
        return all(isinstance(part, str) and _PLAIN.fullmatch(part) for part in self.path)

    @property
    def override(self) -> str:
        """As it would be typed."""
        return f"~{self.key}" if self.saved is NOT_THERE else f"++{self.key}={as_text(self.saved)}"

    @property
    def line(self) -> list[str]:
        """As Hydra takes it: it finds nothing to leave out where the value is null, so that it gets another first."""
        return [f"++{self.key}=false", self.override] if self.saved is NOT_THERE else [self.override]


def pins(saved: Mapping[str, Any], today: Mapping[str, Any], *, keep_new: Callable[[Path], bool]) -> Iterator[Pin]:
    """What has to be pinned so that `today` becomes `saved`; both composed, unresolved and redacted.

    Keys that are new today are left out of the config again, unless `keep_new` wants them.
    """
    for path, was, _ in differing(saved, today):
        if not (keep_new(path) if was is NOT_THERE else isinstance(was, str) and REDACTED in was):
            yield Pin(path, was)


def pins_of_launch(saved: SavedConfig, base: Config, now: Config, *, switched: Collection[str]) -> list[Pin]:
    """The pins of a launch: what conf/ gives differently today, without what the launch changes itself.

    `base` is composed of the saved overrides alone, `now` of those of the launch too. Under the keys `switched` another
    option stands now.
    """
    today, typed = redact(base.composed), redact(now.composed)
    # A time that was interpolated has passed.
    passed = {
        path: value_at(saved.written, path, NOT_THERE) for path, text in leaves(saved.composed) if _NOW in str(text)
    }
    return [
        pin
        for pin in pins(replaced(saved.composed, passed), today, keep_new=is_setting)
        if not any(f"{pin.key}.".startswith(f"{key}.") for key in switched)
        and value_at(today, pin.path, NOT_THERE) == value_at(typed, pin.path, NOT_THERE)
    ]


def is_setting(path: Path) -> bool:
    """Whether a key is read by the runner, or by other values. A new one elsewhere would change what is built."""
    group = str(path[0])
    return len(path) == 1 or group in SCHEMAS or (group in GROUP_LEVEL and path[1] in GROUP_LEVEL[group])


def with_new_settings(saved: Mapping[str, Any], today: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config with the settings that have come since, as conf/ has them."""
    completed = dict(saved)
    for path, was, new in differing(saved, today):
        if was is NOT_THERE and is_setting(path):
            completed = _with(completed, path, new)
    return completed


def _with(tree: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    first = str(path[0])
    return {**tree, first: value if len(path) == 1 else _with(tree[first], path[1:], value)}


def without_pins(overrides: Sequence[str], pins: Sequence[Pin], base: Config) -> list[str]:
    """New overrides as they are recorded: they have to compose without the pins, too, which are not.

    A key that conf/ no longer has, and only a pin gives, is added; or need not be left out.
    """
    lost = [f"{pin.key}." for pin in pins if value_at(base.composed, pin.path, NOT_THERE) is NOT_THERE]
    recorded = []
    for text in overrides:
        key = f"{text.lstrip('+~').partition('=')[0]}."
        if not any(key.startswith(one) for one in lost):
            recorded.append(text)
        elif not text.startswith("~"):
            recorded.append(f"++{text.lstrip('+')}")
    return recorded


def is_drift(pin: Pin, base: Config, *, typed: Collection[str]) -> bool:
    """Whether a pin tells of a change of conf/; some are needed although it is what it was.

    With a target that was `typed` (a key), arguments of its option were left out; a time that was interpolated has
    passed.
    """
    if pin.saved is NOT_THERE:
        targets = [key.removesuffix("_target_") for key in typed if key.endswith("._target_")]
        return not any(pin.key.startswith(target) for target in targets)
    return _NOW not in str(value_at(base.composed, pin.path, NOT_THERE))
