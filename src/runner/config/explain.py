"""Hydra's own errors in one line each, with the nearest right name. Its advice to type `+key` is never passed on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config.names import did_you_mean, listed, nearest, shown
from runner.config.sources import groups, no_such_option
from runner.config.words import LAUNCH_WORDS


@dataclass(frozen=True)
class Mistake:
    """One thing that Hydra refused."""

    problem: str
    override: str = ""
    """The override that caused it, and without which the rest can be composed; empty if none did."""
    key: str | None = None
    """A key that does not exist. `describe` finds a near one, once the config is there."""


def explain(error: Exception, overrides: Sequence[str], loader: ConfigLoader) -> Mistake:
    """What `error`, raised while `overrides` were composed, is about."""
    if isinstance(error, MissingConfigException):
        return _missing_option(error, overrides, loader)
    text = str(error).strip() or str(error.__cause__ or type(error).__name__)
    if isinstance(error, ConfigCompositionException):
        if match := re.match(r"You must specify '(?P<key>[^']+)'", text):
            options = listed(loader.get_group_options(match["key"]))
            return Mistake(f"{match['key']}: no option chosen; type {match['key']}=OPTION, one of {options}")
        for pattern, build in _COMPOSITION:
            match = re.match(pattern, text)
            if match and (override := _typed(match["key"], overrides)) is not None:
                return build(override, match["key"], error, groups(loader))
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    first = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    for override in overrides:
        if override in text:
            return Mistake(f"{override}: {first}", override)
    return Mistake(_whole(error, text), "")


def describe(mistakes: Sequence[Mistake], node: DictConfig) -> list[str]:
    """The messages about what could not be composed into `node`."""
    config = cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))
    return [
        mistake.problem if mistake.key is None else _missing_key(mistake.key, mistake.override, config)
        for mistake in mistakes
    ]


def _missing_key(key: str, override: str, config: Mapping[str, Any]) -> str:
    node: Any = config
    if key in LAUNCH_WORDS:
        return f"{override}: a launch word; type +{override}"
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, Mapping):
            parent = ".".join(parts[:depth])
            return f"{override}: {parent} is {shown(node)}, which holds no {part!r}"
        if part not in node:
            added = f" (+{override} hands it to {node['_target_']} all the same)" if "_target_" in node else ""
            wrong = ".".join(parts[: depth + 1])
            return f"{override}: no key {wrong!r}{_near_key(parts[: depth + 1], node, config)}{added}"
        node = node[part]
    return f"{override}: no key {key!r}"


def _near_key(parts: Sequence[str], siblings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    prefix = "".join(f"{part}." for part in parts[:-1])
    if nearest(parts[-1], map(str, siblings)) is not None:
        return did_you_mean(parts[-1], map(str, siblings), prefix=prefix)
    own = (path for path in _paths(config) if not path.startswith("hydra."))
    elsewhere = [path for path in own if path.rpartition(".")[2] == parts[-1]]
    if elsewhere:
        return f"; did you mean {elsewhere[0]!r}?"
    return did_you_mean(parts[-1], (str(name) for name in siblings if name != "hydra"))


def _paths(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in config.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            found += _paths(value, f"{prefix}{key}.")
    return sorted(found, key=lambda path: path.count("."))


def _missing_option(error: MissingConfigException, overrides: Sequence[str], loader: ConfigLoader) -> Mistake:
    missing = error.missing_cfg_file if isinstance(error.missing_cfg_file, str) else ""
    group, _, option = missing.rpartition("/")
    for override in overrides:
        key, equals, value = override.lstrip("+").partition("=")
        if equals and key.partition("@")[0] == group and option in value:
            return Mistake(no_such_option(group, option, loader.get_group_options(group)), override)
    options = [name for name in loader.get_group_options(group) if not name.startswith("_")]
    where = str(error).splitlines()[0].partition(":")[0].strip("' ") if str(error).startswith("In ") else missing
    if where.startswith("In "):
        source = where.removeprefix("In ").strip("'")
        return Mistake(
            f"{source}: its defaults list names {missing}, which is not there{did_you_mean(option, options)}"
        )
    return Mistake(f"{missing}: no such config{did_you_mean(option, options)}")


def _typed(key: str, overrides: Sequence[str]) -> str | None:
    """The last override of a key, as it was typed."""
    for override in reversed(overrides):
        if override.lstrip("+~").partition("=")[0] == key:
            return override
    return None


Groups = Mapping[str, Sequence[str]]


def _unknown(override: str, key: str, error: Exception, known: Groups) -> Mistake:
    if isinstance(error.__cause__, OmegaConfBaseException):
        group = nearest(key, known) if "." not in key else None
        value = override.partition("=")[2]
        if group is not None and value in known[group]:
            return Mistake(f"{override}: no group {key!r}; did you mean {group + '=' + value!r}?", override)
        return Mistake("", override, key)
    return Mistake(f"{override}: {key} stands in no defaults list yet; type +{override} to add it", override)


def _there_already(override: str, key: str, _error: Exception, _known: Groups) -> Mistake:
    return Mistake(f"{override}: {key} is there already; type it without +", override)


def _not_deleted(override: str, key: str, _error: Exception, known: Groups) -> Mistake:
    return Mistake(f"{override}: nothing to leave out{did_you_mean(key, known, prefix='~')}", override)


def _not_merged(override: str, _key: str, error: Exception, _known: Groups) -> Mistake:
    reason = str(error.__cause__ or error).strip().splitlines()[0]
    return Mistake(f"{override}: {reason}", override)


_COMPOSITION = (
    (r"Could not override '(?P<key>[^']+)'", _unknown),
    (r"Could not append to config. An item is already at '(?P<key>[^']+)'", _there_already),
    (r"Could not delete from config. The value of '(?P<key>[^']+)'", _not_merged),
    (r"Could not delete(?: from config)?\. (?:No match for )?'?(?P<key>[^' ]+)'?", _not_deleted),
    (r"Error merging override (?P<override>\S*?)(?P<key>[\w./@-]+)=", _not_merged),
)


def _whole(error: Exception, text: str) -> str:
    """The first two lines of what nobody foresaw, without Hydra's advice."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "+" not in line]
    return f"{type(error).__name__}: {' '.join(lines[:2])}"
