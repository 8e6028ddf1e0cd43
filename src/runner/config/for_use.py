"""The config of a checkpoint for its use apart from its run: as it was saved, with a few values changed on top.

Of today's conf/ nothing is in it but an option of a group that is chosen anew.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.checkpoint.handle import Checkpoint
from runner.config.composing import Composition, compose, parse
from runner.config.documents import BUILT, COMPOSED, SavedConfig, resolved, saved_config
from runner.config.fitting import fitted
from runner.config.interpolation import dotted, leaves, replaced, value_at
from runner.config.kept_source import kept_sources
from runner.config.own_targets import check_own
from runner.config.saved_primary import NAME, saved_as_primary
from runner.config.secrets import REDACTED
from runner.config.sources import Sources, config_loader
from runner.config.targets import problems_of, target_nodes
from runner.config.words import Words, split_words
from runner.errors import ConfigError, FormatError, TrustError
from runner.trust import NODES, check_targets, is_harmless
from runner.trust_memory import TrustMemory

_MISSING = "???"
_ESCAPED = re.compile(r"(?<!\\)\\(?:\\\\)*\$\{")
"""How a text says that it has `${` in it and is no interpolation."""


def config_for_use(
    checkpoint: Checkpoint,
    keys: Collection[str],
    overrides: Sequence[str],
    *,
    trusted: Sequence[str],
    moved: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What stands under `keys` in the config of a checkpoint, resolved here and now, with `overrides` on top.

    A file may be anybody's: nothing is imported before every target under `keys` has been found to be this user's own,
    or under a root in `trusted` or in `+trust=[...]` among the overrides. `moved` says what a target of the file is
    called now.
    Raises ConfigError with every mistake; TrustError; CheckpointError.
    """
    words, overrides = split_words(overrides)
    if words != Words(trust=words.trust):
        raise ConfigError("+resume, +allow and +reset are for launches; leave them out")
    try:
        config = _trusted_config(checkpoint, keys, overrides, (*trusted, *words.trust), moved or {})
    except TrustError as error:
        raise TrustError("\n".join([str(error), *sources_of(checkpoint, keys)])) from error
    problems = _missing(config, keys) or [line for node in target_nodes(config) for line in problems_of(node)]
    if problems:
        told = [f"{checkpoint.path}: {problem}" for problem in problems]
        raise ConfigError([*told, *sources_of(checkpoint, keys)])
    return config


def sources_of(checkpoint: Checkpoint, keys: Collection[str]) -> list[str]:
    """A line for each module under `keys` that is not what the checkpoint was made with: likely causes of an error."""
    saved = checkpoint.config
    return kept_sources(checkpoint, {key: saved[key] for key in keys if key in saved})


def _trusted_config(
    checkpoint: Checkpoint,
    keys: Collection[str],
    overrides: Sequence[str],
    trusted: Sequence[str],
    moved: Mapping[str, str],
) -> dict[str, Any]:
    where, memory = checkpoint.path, TrustMemory()
    if not overrides:
        saved = _renamed(checkpoint.config, moved)
        wanted = {key: saved.get(key) for key in keys}
        check_targets(wanted, trusted=trusted, memory=memory, where=str(where))
        if any(isinstance(text, str) and "${" in text for _, text in leaves(wanted)):
            saved = _without_resolvers(saved)
        config = _resolved(saved, keys, where)
        # What is built is this one, with what came from the environment and from elsewhere in the file.
        check_targets(config, trusted=trusted, memory=memory, where=str(where))
    else:
        composition = _with_overrides(checkpoint, overrides, moved)
        config = _resolved(composition.config.composed, keys, where)
        check_own(config, overrides, trusted=trusted, memory=memory, sources=Sources(), where=where)
        # After that, because it imports the targets that were typed.
        config = _resolved(fitted(composition)[0].composed, keys, where)
    return config


def _resolved(tree: Mapping[str, Any], keys: Collection[str], where: Path) -> dict[str, Any]:
    try:
        return resolved(tree, keys)
    except FormatError as error:
        raise FormatError(f"{where}/{error}") from error


def _with_overrides(checkpoint: Checkpoint, overrides: Sequence[str], moved: Mapping[str, str]) -> Composition:
    """The saved config with overrides on top. ConfigError with every one that has no place in it."""
    saved = saved_config(checkpoint.document(COMPOSED), checkpoint.document(BUILT), where=checkpoint.path)
    loader = config_loader(Sources())
    typed = parse(overrides, loader)
    of_hydra = [one.input_line for one in typed if one.is_hydra_override()]
    if of_hydra:
        raise ConfigError(f"{' '.join(map(str, of_hydra))}: nothing is launched here for Hydra to do; leave it out")
    primary = saved_as_primary(_renamed(_following(saved), moved), saved.choices, typed, loader=loader)
    composition = compose(primary.line, sources=Sources(config_name=NAME), draw_seed=lambda: 0)
    if primary.problems or not composition.whole:
        raise ConfigError([*primary.problems, *composition.problems])
    return composition


def _renamed(tree: dict[str, Any], moved: Mapping[str, str]) -> dict[str, Any]:
    """A config whose targets have the names that they have now."""
    places = {path: value for path, value in leaves(tree) if path[-1:] == ("_target_",) and value in moved}
    renamed: dict[str, Any] = replaced(tree, {path: moved[value] for path, value in places.items()})
    return renamed


def _following(saved: SavedConfig) -> dict[str, Any]:
    """The config as it was composed, so that its values follow what they refer to; what else was computed stays."""
    computed = {
        path: value_at(saved.written, path, _MISSING)
        for path, value in leaves(saved.composed)
        if not _is_reference(value)
    }
    return _without_resolvers(replaced(saved.composed, computed))


def _without_resolvers(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree from a file without the texts that would have a resolver called, which may be any function."""
    missing = {path: _MISSING for path, value in leaves(tree) if not _is_reference(value)}
    without: dict[str, Any] = replaced(tree, missing)
    return without


def _is_reference(value: Any) -> bool:
    """Whether a value is at most a reference to others, or to the environment."""
    return not isinstance(value, str) or is_harmless(_ESCAPED.sub("", value))


def _missing(config: Mapping[str, Any], keys: Collection[str]) -> list[str]:
    """A line for each value that is not there, and for each node that cannot be built."""
    problems = [
        f"{key}: its config has {config.get(key)!r:.80}, wanted a node with a _target_"
        for key in keys
        if key in NODES and not (isinstance(config.get(key), Mapping) and "_target_" in config[key])
    ]
    for path, value in leaves(config):
        if value == _MISSING:
            problems.append(f"{dotted(path)}: no value; type {dotted(path)}=VALUE")
        elif isinstance(value, str) and REDACTED in value:
            problems.append(
                f"{dotted(path)}: left out when it was saved, because it looks like a secret; type {dotted(path)}=VALUE"
            )
    return problems
