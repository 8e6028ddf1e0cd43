"""A saved config in the place of the primary one, with overrides on top. From conf/ come only groups chosen anew."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from runner.config.composing import Composition, compose, parse
from runner.config.sources import Sources, config_loader
from runner.errors import ConfigError

_NAME = "runner_config_for_use"
_HYDRA_S = ("defaults", "hydra")
_OF_LAUNCHES = ("experiment", "debug")
"""Groups whose options set keys of all others, in the defaults list that is not there any more."""


def compose_over(saved: Mapping[str, Any], overrides: Sequence[str], *, sources: Sources) -> Composition:
    """`saved`, as it was composed, with `overrides` on top. ConfigError with every override that has no place in it."""
    loader = config_loader(sources)
    # Both would be Hydra's own here, and a file has no say in that.
    primary = {key: value for key, value in saved.items() if key not in _HYDRA_S}
    there = OmegaConf.create(primary)
    line = []
    for override in parse(overrides, loader):
        text, key = override.input_line or "", override.key_or_group
        if override.is_hydra_override():
            raise ConfigError(
                f"{text}: nothing is launched here, so that Hydra's own settings have no effect; leave it out"
            )
        options = loader.get_group_options(key)
        if options and override.is_delete():
            primary.pop(key, None)
            continue
        if options:
            if key in _OF_LAUNCHES:
                raise ConfigError(f"{text}: such a file is for launches; type what it sets, as in model.KEY=VALUE")
            if override.value() in options:
                primary.pop(key, None)
            text = f"+{text.lstrip('+')}"
        elif override.is_add() and OmegaConf.select(there, key, default=None) is not None:
            text = f"+{text}"
        line.append(text)
    store = ConfigStore.instance()
    store.store(_NAME, {**primary, "defaults": ["_self_"]})
    try:
        composition = compose(
            line, sources=Sources(sources.config_path, _NAME, sources.config_dir), draw_seed=lambda: 0
        )
    finally:
        del store.repo[f"{_NAME}.yaml"]
    if not composition.whole:
        raise ConfigError(composition.problems)
    return composition
