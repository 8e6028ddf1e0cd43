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
    anew, values, problems = list[Override](), list[str](), []
    for one in new:
        text, key = one.input_line or "", one.key_or_group
        if not isinstance(one.value(), dict) and loader.get_group_options(key):
            # What was chosen then stands in the saved config already.
            anew += [one] if one.is_delete() or one.value() != choices.get(key) else []
        elif key in choices and isinstance(one.value(), str):
            problems.append(f"{text}: conf/ has no group {key} any more; leave this out, or type {key}.KEY=VALUE")
        else:
            exists = OmegaConf.select(there, key, default=None) is not None
            values.append(f"+{text}" if one.is_add() and exists else text)
    pairs = zip(anew, texts(anew), strict=True)
    line = [text.lstrip("+") if one.key_or_group in groups else text for one, text in pairs]
    _store(composed, above=(), below=groups)
    switched = _switched(anew, choices, line, loader)
    # An option that is chosen once more, as by an experiment that names it, does not win over what was saved of it.
    above, below = ([group for group in groups if (group in switched) is later] for later in (False, True))
    _store(_without(composed, switched.values()), above=above, below=below)
    return Primary((*line, *values), switched, tuple(problems))


def _switched(
    anew: Sequence[Override], choices: Mapping[str, str], line: Sequence[str], loader: ConfigLoader
) -> dict[str, str]:
    """The groups of which another option stands under NAME now, and under which key each stands."""
    found = {}
    for one in anew:
        group = one.key_or_group
        if one.is_delete() or one.value() in loader.get_group_options(group):
            found[group] = group.replace("/", ".")
    # What is wrong with an option is told when it is composed.
    with suppress(HydraException):
        for group, place in chosen(loader, NAME, line).items():
            if place.option != choices.get(group):
                found[group] = place.package
    return found


def _store(composed: Mapping[str, Any], *, above: Sequence[str], below: Sequence[str]) -> None:
    """Put a config in the place of the primary one: it wins over the groups above it, and those below win over it."""
    defaults = [*({group: None} for group in above), "_self_", *({group: None} for group in below), *_QUIET]
    ConfigStore.instance().store(NAME, {**composed, "defaults": defaults})


def _without(tree: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """A config without what stands under dotted keys."""
    kept = {}
    for name, value in tree.items():
        inner = [key.removeprefix(f"{name}.") for key in keys if key.startswith(f"{name}.")]
        if name not in keys:
            kept[name] = _without(value, inner) if inner and isinstance(value, Mapping) else value
    return kept
