"""Saved overrides, repeated under this launch's: what is left out, and what takes whose place."""

from collections.abc import Callable, Mapping, Sequence
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
    """Saved and new overrides in one list."""

    overrides: tuple[str, ...]
    notes: tuple[str, ...]
    switched: tuple[str, ...]
    """The keys under which another option of a group stands now."""


def combined(
    saved: Sequence[Override],
    new: Sequence[Override],
    *,
    choices: Mapping[str, str],
    exists: Callable[[str], bool],
    package_of: Callable[[str], str | None],
) -> Combined:
    """The overrides of both, the new ones last or in the place of what they replace.

    `choices` are the saved options of groups, `exists` tells whether a key is in the config without the new overrides,
    `package_of` under which key a group stands; None for what is no group.
    """
    result = list(saved)
    notes: list[str] = []
    switched: list[str] = []
    for override in new:
        package = package_of(override.key_or_group)
        if package is not None and (override.is_delete() or override.value() != choices.get(override.key_or_group)):
            switched.append(package)
            gone = [one for one in result if _under(one.key_or_group, package)]
            if gone:
                listed = " ".join(one.input_line or "" for one in gone)
                notes.append(f"{override.input_line}: the earlier overrides {listed} are left out")
            result = [one for one in result if one not in gone]
        result = _placed(result, override, is_group=package is not None, exists=exists)
    return Combined(tuple(one.input_line or "" for one in result), tuple(notes), tuple(switched))


def _under(key: str, package: str) -> bool:
    return key.startswith(f"{package}.")


def _placed(
    earlier: list[Override], override: Override, *, is_group: bool, exists: Callable[[str], bool]
) -> list[Override]:
    """The list with one more override, in the place of an earlier one of the same key if that is all it changes."""
    same_key = [
        one
        for one in earlier
        if (one.key_or_group, one.package) == (override.key_or_group, override.package)
        and (is_group or not isinstance(override.value(), dict))
    ]
    if override.is_delete() or not same_key or same_key[-1].is_delete():
        others = [one for one in earlier if not (one in same_key and (one.is_delete() or is_group))]
        return [*others, _forced(override) if override.is_add() and exists(override.key_or_group) else override]
    first = same_key[0]
    key = first.get_key_element()
    replacement = OverridesParser.create().parse_override(f"{key}={(override.input_line or '').partition('=')[2]}")
    return [replacement if one is first else one for one in earlier if one is first or one not in same_key]


def _forced(override: Override) -> Override:
    return OverridesParser.create().parse_override(f"+{override.input_line}")


def packages(loader: ConfigLoader, config_name: str, overrides: Sequence[str]) -> dict[str, str]:
    """Under which key each group stands. A `@package _global_` option counts as standing under its group's name."""
    listed = loader.compute_defaults_list(config_name, list(overrides), RunMode.RUN)
    found = {}
    for default in listed.defaults:
        group = (default.config_path or "").rpartition("/")[0]
        if group and not group.startswith("hydra"):
            found[group] = default.package or group.replace("/", ".")
    return found


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
