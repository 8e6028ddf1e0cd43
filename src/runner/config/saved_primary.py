"""A saved config in the place of the primary one, for when conf/ no longer gives what was saved.

The groups that it was composed of stand in its defaults list without an option, so that the option of another group,
as those of `experiment` are, may choose among them. What is chosen anew comes from conf/, and takes the place of what
was saved under its key.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from runner.config.replay import chosen, texts

NAME = "runner_saved_config"
_QUIET = ({"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"})


@dataclass(frozen=True)
class Primary:
    """What has to be composed so that new overrides stand on top of a saved config."""

    line: tuple[str, ...]
    """The overrides, in the form that they need there."""
    switched: Mapping[str, str]
    """The groups that are chosen anew, and under which key each stands."""
    problems: tuple[str, ...]
    """What was typed and cannot be done any more."""


def saved_as_primary(
    composed: Mapping[str, Any], choices: dict[str, str], new: Sequence[Override], *, loader: ConfigLoader
) -> Primary:
    """Let Hydra find a saved config, composed of `choices`, by NAME, with `new` to come on top of it."""
    there = OmegaConf.create(dict(composed))
    # Hydra notes the last of a defaults list first; an option may choose among the groups that stand before its own.
    groups = [group for group in reversed(choices) if loader.get_group_options(group)]
    values, options, problems = list[str](), list[Override](), []
    for one in new:
        text, key = one.input_line or "", one.key_or_group
        if not isinstance(one.value(), dict) and loader.get_group_options(key):
            options.append(one)
        elif key in choices and isinstance(one.value(), str):
            problems.append(f"{text}: conf/ has no group {key} any more; leave this out, or type {key}.KEY=VALUE")
        else:
            exists = OmegaConf.select(there, key, default=None) is not None
            values.append(f"+{text}" if one.is_add() and exists else text)
    # What was chosen then stands in the saved config already.
    anew = [one for one in options if one.is_delete() or one.value() != choices.get(one.key_or_group)]
    line = [
        text.lstrip("+") if one.key_or_group in groups else text for one, text in zip(anew, texts(anew), strict=True)
    ]
    _store(composed, groups)
    good = [
        one.key_or_group for one in anew if one.is_delete() or one.value() in loader.get_group_options(one.key_or_group)
    ]
    switched = {group: group.replace("/", ".") for group in good}
    with suppress(HydraException):
        # What is wrong with an option is told when it is composed.
        switched |= {group: place.package for group, place in chosen(loader, NAME, line).items()}
    _store(_without(composed, switched.values()), groups)
    return Primary((*line, *values), switched, tuple(problems))


def _store(composed: Mapping[str, Any], groups: Sequence[str]) -> None:
    defaults = ["_self_", *({group: None} for group in groups), *_QUIET]
    ConfigStore.instance().store(NAME, {**composed, "defaults": defaults})


def _without(tree: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """A config without what stands under dotted keys."""
    kept = {}
    for name, value in tree.items():
        inner = [key.removeprefix(f"{name}.") for key in keys if key.startswith(f"{name}.")]
        if name not in keys:
            kept[name] = _without(value, inner) if inner and isinstance(value, Mapping) else value
    return kept
