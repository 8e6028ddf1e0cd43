"""Saved overrides, repeated under this launch's: what is left out, and what takes whose place."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode

from runner.config.secrets import REDACTED
from runner.config.words import LAUNCH_WORDS


def repeatable(saved: Sequence[str]) -> tuple[list[Override], list[str]]:
    """The saved overrides that may be repeated, and a note for each that may not.

    A file may be anybody's: nothing in it may reach Hydra's own configuration, which executes what it names, and
    nothing in it is a launch word, a flag or a sweep.
    """
    parser = OverridesParser.create()
    kept, notes = [], []
    for text in saved:
        try:
            override: Override | None = parser.parse_override(text)
        except HydraException:
            # A redacted value is no longer grammar; the check asks for it by its key.
            override = _quoted(text, parser)
        if override is None:
            notes.append(f"saved override {text!r}: cannot be read; left out")
        elif _touches_hydra(override):
            notes.append(f"saved override {text!r}: changes Hydra itself; left out")
        elif text.startswith("-") or override.is_sweep_override() or _is_word(override):
            notes.append(f"saved override {text!r}: no plain override; left out")
        else:
            kept.append(override)
    return kept, notes


def _quoted(text: str, parser: OverridesParser) -> Override | None:
    key, equals, value = text.partition("=")
    if not equals or REDACTED not in value:
        return None
    try:
        return parser.parse_override(f"{key}='{value}'" if value == REDACTED else key + "=" + _with_quotes(value))
    except HydraException:
        return None


def _with_quotes(value: str) -> str:
    return value.replace(REDACTED, f"'{REDACTED}'")


def _touches_hydra(override: Override) -> bool:
    package = override.package or ""
    parts = [*override.key_or_group.replace("/", ".").split("."), *package.replace(":", ".").split(".")]
    return "hydra" in parts


def _is_word(override: Override) -> bool:
    return override.is_add() and override.key_or_group in LAUNCH_WORDS


@dataclass(frozen=True)
class Combined:
    """Saved and new overrides in one list, which says what it says on its own: it is saved in its turn."""

    repeated: tuple[str, ...]
    """Those of the saved ones that still count."""
    added: tuple[str, ...]
    """The new ones, in the form that they need behind the others."""
    notes: tuple[str, ...]

    @property
    def overrides(self) -> tuple[str, ...]:
        return (*self.repeated, *self.added)


def combined(
    saved: Sequence[Override],
    new: Sequence[Override],
    *,
    switched: Mapping[str, str],
    is_group: Callable[[str], bool],
    exists: Callable[[str], bool],
) -> Combined:
    """The overrides of both, the new ones last and without what they replace.

    `switched` are the keys under which another option of a group stands now, with what was typed for that; `exists`
    tells whether a key is in the config without the new overrides.
    """
    notes = []
    repeated, added = list(saved), list[Override]()
    for package, typed in switched.items():
        gone = [one for one in repeated if one.key_or_group.startswith(f"{package}.")]
        repeated = [one for one in repeated if one not in gone]
        if gone:
            notes.append(f"{typed}: the earlier overrides {' '.join(texts(gone))} are left out")
    for override in new:
        group = is_group(override.key_or_group)
        replaced = [one for one in (*repeated, *added) if _is_replaced(one, override, is_group=group)]
        repeated = [one for one in repeated if one not in replaced]
        added = [one for one in added if one not in replaced]
        added.append(_behind(replaced, override, is_group=group, exists=exists))
    return Combined(tuple(texts(repeated)), tuple(texts(added)), tuple(notes))


def _is_replaced(earlier: Override, override: Override, *, is_group: bool) -> bool:
    """Whether an override need not be repeated before a new one. A mapping is merged into what was there before."""
    if (earlier.key_or_group, earlier.package) != (override.key_or_group, override.package):
        return False
    return is_group or earlier.is_delete() or not (override.is_delete() or isinstance(override.value(), dict))


def _behind(
    replaced: Sequence[Override], override: Override, *, is_group: bool, exists: Callable[[str], bool]
) -> Override:
    """A new override in the form that Hydra takes when those it has replaced are gone."""
    if override.is_delete():
        return override
    earlier = [one for one in replaced if not one.is_delete()]
    text = (override.input_line or "").lstrip("+")
    if is_group:
        key = earlier[0].get_key_element() if earlier else override.get_key_element()
        return _parsed(f"{key}={text.partition('=')[2]}")
    was_added = any(one.is_add() or one.is_force_add() for one in earlier)
    return _parsed(f"++{text}") if was_added or (override.is_add() and exists(override.key_or_group)) else override


def _parsed(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def texts(overrides: Iterable[Override]) -> list[str]:
    """Overrides as they are typed."""
    return [one.input_line or "" for one in overrides]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The option of a group that stands in a config."""

    option: str
    package: str
    """Under which key; a `@package _global_` option counts as standing under its group's name."""


def chosen(loader: ConfigLoader, config_name: str, overrides: Sequence[str]) -> dict[str, Chosen]:
    """The option of each group, by Hydra's defaults list. Raises what Hydra raises if there is no such list."""
    listed = loader.compute_defaults_list(config_name, list(overrides), RunMode.RUN)
    found = {}
    for default in listed.defaults:
        group, _, option = (default.config_path or "").rpartition("/")
        if group and not group.startswith("hydra"):
            found[group] = Chosen(option, default.package or group.replace("/", "."))
    return found


def in_directory(path: str) -> str:
    """The override that puts a run into this directory, whatever its name: nothing in it is an interpolation."""
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", path)
    return f"hydra.run.dir={as_text(literal)}"


def as_text(value: Any) -> str:
    """A plain value in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(as_text, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_text(inner)}" for key, inner in value.items()) + "}"
    return repr(value)
