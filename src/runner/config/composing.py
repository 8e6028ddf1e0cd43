"""From overrides to a config: Hydra's composition, with every mistake found at once instead of the first only."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml  # type: ignore[import-untyped]
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from runner.config.explain import Mistake, describe, explain
from runner.config.sources import Sources, config_loader
from runner.errors import ConfigError

FORCED = ("hydra.output_subdir=null",)
"""Overrides that stand before all others: .hydra/ is written by the runner, whatever the primary config says."""


@dataclass(frozen=True)
class Config:
    """A composed config as plain values: nothing of Hydra or OmegaConf is left in it."""

    composed: dict[str, Any]
    """As Hydra composed it, interpolations unresolved, without the node `hydra`."""
    resolved: dict[str, Any]
    overrides: tuple[str, ...]
    """The overrides as they were typed: on a resume those of the earlier attempts too, less those taken back."""
    choices: dict[str, str]
    """The chosen option of every group, Hydra's own left out."""
    hydra: dict[str, Any] = field(repr=False, default_factory=dict)
    """The node `hydra`, unresolved."""


@dataclass(frozen=True)
class Composition:
    """What Hydra composed, and what was wrong on the way."""

    config: Config
    node: DictConfig
    """The whole as Hydra made it: what its launchers take."""
    typed: tuple[Override, ...]
    loader: ConfigLoader
    problems: tuple[str, ...] = ()
    whole: bool = True
    """Every override found its place. An interpolation that leads nowhere is a problem of another kind."""

    @property
    def run_dir(self) -> Path:
        return Path(str(self.node.hydra.run.dir))


def compose(
    overrides: Sequence[str],
    *,
    sources: Sources,
    draw_seed: Callable[[], int],
    recorded: Sequence[str] | None = None,
) -> Composition:
    """Compose one run. Mistakes that leave something to go on with are in the result; others raise ConfigError.

    A `seed` of null is replaced by a drawn one. `recorded` are the overrides that `Config.overrides` holds, where they
    are not those of the command line. Makes nothing.
    """
    loader = config_loader(sources)
    parsed = parse(overrides, loader)
    node, mistakes = _load(loader, sources, [override.input_line or "" for override in parsed])
    problems = describe(mistakes, node)
    _draw_seed(node, draw_seed)
    try:
        config, unresolved = _config(node, recorded)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        key = error.full_key if isinstance(error, OmegaConfBaseException) else None
        reason = str(error).splitlines()[0]
        raise ConfigError([*problems, f"{key}: {reason}; type {key}=VALUE" if key else reason]) from error
    return Composition(config, node, tuple(parsed), loader, (*problems, *unresolved), whole=not mistakes)


def parse(overrides: Sequence[str], loader: ConfigLoader, *, sweep: bool = False) -> list[Override]:
    """Read overrides one by one. ConfigError with every one that cannot be read, or that would need a sweep."""
    parser = OverridesParser.create(config_loader=loader)
    parsed: list[Override] = []
    problems = []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except (OverrideParseException, HydraException) as error:
            problems.append(_unreadable(text, error))
            continue
        if not override.key_or_group:
            problems.append(f"{text}: no key; type KEY=VALUE")
            continue
        override.config_loader = loader
        parsed.append(override)
        if override.is_sweep_override() and not sweep:
            problems.append(
                f"{text}: several values; add -m to sweep over them, or type [a,b] for a list, or quote the value"
            )
        elif not override.is_sweep_override() and loader.get_group_options(override.key_or_group):
            problems += _not_an_option(override)
    if problems:
        raise ConfigError(problems)
    return parsed


def composed_by_hydra(task_config: DictConfig, *, draw_seed: Callable[[], int]) -> Composition:
    """The composition of a job that Hydra has launched: what its task gets. HydraConfig has to be set."""
    node = deepcopy(task_config)
    with read_write(node), open_dict(node):
        node.hydra = deepcopy(HydraConfig.get())
    OmegaConf.copy_cache(from_config=task_config, to_config=node)
    _draw_seed(node, draw_seed)
    config, unresolved = _config(node, None)
    typed = OverridesParser.create().parse_overrides(list(config.overrides))
    return Composition(config, node, tuple(typed), config_loader(Sources()), tuple(unresolved))


def _draw_seed(node: DictConfig, draw_seed: Callable[[], int]) -> None:
    with read_write(node), open_dict(node):
        if "seed" in node and not OmegaConf.is_missing(node, "seed") and node.seed is None:
            node.seed = draw_seed()


@contextmanager
def hydra_config(node: DictConfig) -> Iterator[None]:
    """Make `${hydra:...}` resolve to `node.hydra`, for as long as the context lasts."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(node)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _unreadable(text: str, error: Exception) -> str:
    if "=" not in text and not text.startswith("~"):
        return f"{text or repr(text)}: no override; type KEY=VALUE"
    key, _, value = text.partition("=")
    # The shell takes its own quotes off, so that those around the value have to stand inside of them.
    literal = bool(value) and value[0] not in "[{" and not set(value) & set("\"'\\$")
    example = f'{key}="{value}"' if literal else 'key="a, b"'
    return f"{text}: cannot be read ({str(error).splitlines()[0]}); quote what is special: '{example}'"


def _not_an_option(override: Override) -> list[str]:
    """What is wrong with the value of an override of a group, which Hydra would show as a bare TypeError."""
    value, text, group = override.value(), override.input_line, override.key_or_group
    if override.is_delete():
        return []
    if value is None:
        return [f"{text}: a group has no option null; type ~{group} to leave it out"]
    named = isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
    return [] if named else [f"{text}: {group} is a group; type {group}=OPTION, or {group}.KEY=VALUE"]


def _load(loader: ConfigLoader, sources: Sources, overrides: list[str]) -> tuple[DictConfig, list[Mistake]]:
    """Compose; after each mistake once more without it, so that the next one is seen too."""
    mistakes: list[Mistake] = []
    while True:
        try:
            node = loader.load_configuration(
                config_name=sources.config_name,
                overrides=[*FORCED, *overrides],
                run_mode=RunMode.RUN,
                from_shell=False,
            )
            return node, mistakes
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, OSError) as error:
            mistake = explain(error, overrides, loader)
            mistakes.append(mistake)
            if mistake.override not in overrides:
                raise ConfigError([mistake.problem for mistake in mistakes]) from error
            at = overrides.index(mistake.override)
            overrides = overrides[:at] + overrides[at + 1 :]


def _plain(node: DictConfig) -> dict[str, Any]:
    plain = cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))
    plain.pop("hydra", None)
    return plain


def _config(node: DictConfig, recorded: Sequence[str] | None) -> tuple[Config, list[str]]:
    """The plain config of a node, and a line for each interpolation that leads nowhere."""
    with read_write(node.hydra.runtime), open_dict(node.hydra.runtime):
        if OmegaConf.is_missing(node.hydra.runtime, "output_dir"):
            node.hydra.runtime.output_dir = str(Path(str(node.hydra.run.dir)).absolute())
    hydra = cast(dict[str, Any], OmegaConf.to_container(node.hydra, resolve=False))
    with hydra_config(node):
        bare = OmegaConf.create(_plain(node))
        # The cache holds what `${now:...}` gave; the copy has to give the same.
        OmegaConf.copy_cache(from_config=node, to_config=bare)
        resolved, problems = _resolve(bare)
    choices = {group: option for group, option in hydra["runtime"]["choices"].items() if not group.startswith("hydra/")}
    overrides = hydra["overrides"]["task"] if recorded is None else recorded
    return Config(_plain(node), resolved, tuple(overrides), choices, hydra), problems


def _resolve(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Resolve every leaf on its own, so that all interpolations that lead nowhere are found. Missing stays `???`."""
    problems: list[str] = []

    def value_of(parent: Any, key: Any, path: str) -> Any:
        if OmegaConf.is_missing(parent, key):
            return "???"
        try:
            child = parent[key]
        except OmegaConfBaseException as error:
            raw = OmegaConf.to_container(parent, resolve=False)[key]  # type: ignore[index]
            reason = str(error).splitlines()[0]
            problems.append(f"{path}: {raw!r} cannot be resolved ({reason}); set what it reads, or type {path}=VALUE")
            return None
        if OmegaConf.is_dict(child):
            return {name: value_of(child, name, f"{path}.{name}") for name in child}
        if OmegaConf.is_list(child):
            return [value_of(child, at, f"{path}[{at}]") for at in range(len(child))]
        return child

    resolved = {str(name): value_of(config, name, str(name)) for name in config}
    return resolved, problems
