"""Trust in what a resumed launch names: a file's targets are let through only if they are this user's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from runner.config.composing import compose
from runner.config.sources import Sources
from runner.config.targets import target_nodes
from runner.errors import ConfigError, TrustError
from runner.trust import check_targets
from runner.trust_memory import TrustMemory


def check_own(
    config: Mapping[str, Any],
    overrides: Sequence[str],
    *,
    trusted: Sequence[str],
    memory: TrustMemory,
    sources: Sources,
    where: Path,
) -> None:
    """Raise TrustError if the resolved `config`, saved in `where`, names a target that is not this user's own.

    Targets in the `overrides` typed now are the user's own, and so are those in the conf/ that `sources` name.
    """
    memory.remember(_typed(overrides))
    try:
        check_targets(config, trusted=trusted, memory=memory, where=str(where))
    except TrustError:
        memory.remember(_of_own_conf(overrides, sources))
        check_targets(config, trusted=trusted, memory=memory, where=str(where))


def _typed(overrides: Sequence[str]) -> list[str]:
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [one.value() for one in parsed if one.key_or_group.endswith("._target_") and not one.is_delete()]
    return [value for value in values if isinstance(value, str) and "." in value]


def _of_own_conf(overrides: Sequence[str], sources: Sources) -> list[str]:
    """The targets that this launch would have without anything saved: they stand in conf/, ours or the user's own."""
    try:
        fresh = compose(overrides, sources=sources, draw_seed=lambda: 0)
    except ConfigError:
        return []
    names = [target.node["_target_"] for target in target_nodes(fresh.config.resolved)]
    return [name for name in names if isinstance(name, str) and "." in name]
