"""Everything that can be wrong with a config before anything is built, found at once."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from runner.config.composing import Config
from runner.config.initial import KEY, SECTION, Init, Initial, initial
from runner.config.interpolation import dotted, leaves
from runner.config.names import did_you_mean, shown
from runner.config.schema import SCHEMAS, Batching, Checkpointing, Runtime, typed
from runner.config.secrets import REDACTED
from runner.config.targets import GROUP_LEVEL, problems_of, target_nodes
from runner.config.words import LAUNCH_WORDS
from runner.errors import ConfigError
from runner.records import Monitor
from runner.training.plan import Trainer
from runner.trust import NODES

KNOWN = ("name", "seed", KEY, "monitor", *NODES, *SCHEMAS)
_RULE = "{match: '*.bias', lr: 0.1}"
_REFERENCE = re.compile(r"\$\{\s*(?:oc\.\w+(?:\.\w+)?\s*:\s*)?['\"]?([A-Za-z_][\w-]*)")


@dataclass(frozen=True)
class Settings:
    """What a config says to the runner itself, typed and checked."""

    name: str
    seed: int
    monitor: Monitor | None
    batching: Batching
    trainer: Trainer
    checkpoint: Checkpointing
    runtime: Runtime
    init: Init | None
    """None where the config has no such section, and begins from nothing."""
    initial: Initial | None


def check(config: Config, *, known_problems: Sequence[str] = ()) -> Settings:
    """The settings of `config`. ConfigError with every problem in it, after `known_problems`. Imports its targets."""
    resolved = config.resolved
    problems = [*known_problems, *_unknown_top_level(config.composed)]
    name, seed = resolved.get("name"), resolved.get("seed")
    if not isinstance(name, str) or not name.strip() or name == "???":
        problems.append(f"name is {shown(name)}; wanted a text")
    if "seed" not in resolved or isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        problems.append(f"seed is {shown(seed)}; wanted a whole number from 0, or null to have one drawn")
    monitor, wrong = _monitor(resolved.get("monitor"))
    problems += wrong
    sections: dict[str, Any] = {}
    for section, schema in SCHEMAS.items():
        if section == SECTION and section not in resolved and resolved.get(KEY) is None:
            # A primary config of one's own need not say how to load what it does not load.
            sections[section] = None
            continue
        sections[section], wrong = typed(schema, section, resolved.get(section))
        problems += wrong
    sections["initial"], wrong = initial(config, sections[SECTION])
    problems += wrong
    data = resolved.get("data")
    if _is_built(data):
        own = {key: data[key] for key in GROUP_LEVEL["data"] if key in data}
        sections["batching"], wrong = typed(Batching, "data", own)
        problems += wrong
    problems += _missing_and_redacted(resolved)
    for key in NODES:
        if key != "observers" and not _is_built(resolved.get(key)):
            problems.append(f"{key}: nothing to build; type {key}=OPTION, or {key}._target_=MODULE.NAME")
    for target in target_nodes(resolved):
        problems += problems_of(target)
    problems += _groups(_at(resolved, "optimizer", "groups"))
    problems += _observers(resolved.get("observers"))
    if resolved.get("monitor") is None:
        problems += _needs_monitor(resolved)
    problems = list(dict.fromkeys(problems))
    if problems:
        raise ConfigError(problems)
    return Settings(str(name), int(str(seed)), monitor, **sections)


def _is_built(node: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(node, Mapping) and "_target_" in node


def unread(composed: Mapping[str, Any]) -> list[str]:
    """Top-level keys that nobody reads: neither the runner nor an interpolation in the config."""
    read = {match for _, text in leaves(composed) if isinstance(text, str) for match in _REFERENCE.findall(text)}
    return [key for key in composed if key not in KNOWN and key not in read]


def _unknown_top_level(composed: Mapping[str, Any]) -> Iterator[str]:
    for key in unread(composed):
        if key in ("experiment", "debug"):
            # Such a file sets keys of all groups, and without its first line they are put under its own.
            yield f"{key}: the chosen file puts its keys here; its first line has to be: # @package _global_"
        elif key in LAUNCH_WORDS:
            yield f"{key}: a launch word; type +{key}=..."
        else:
            yield f"{key}: no such key, and no value in the config reads ${{{key}}}{did_you_mean(str(key), KNOWN)}"


def _monitor(value: Any) -> tuple[Monitor | None, list[str]]:
    if value is None:
        return None, []
    if not isinstance(value, Mapping):
        return None, [f"monitor is {shown(value)}; wanted {{metric: NAME, mode: min or max}}, or null"]
    problems = [
        f"monitor.{key}: no such key{did_you_mean(str(key), ('metric', 'mode'), prefix='monitor.')}"
        for key in value
        if key not in ("metric", "mode")
    ]
    metric, mode = value.get("metric"), value.get("mode")
    if not isinstance(metric, str) or not metric or metric == "???":
        problems.append(f"monitor.metric is {shown(metric)}; wanted the name of a metric, such as val_loss")
    if mode not in ("min", "max"):
        problems.append(f"monitor.mode is {shown(mode)}; wanted min or max")
    return (None, problems) if problems else (Monitor(str(metric), str(mode)), [])


def _missing_and_redacted(resolved: Mapping[str, Any]) -> Iterator[str]:
    for path, value in leaves(resolved):
        key = dotted(path)
        if value == "???" and path[0] not in SCHEMAS:
            yield f"{key}: no value yet; type {key}=VALUE"
        elif isinstance(value, str) and REDACTED in value:
            yield f"{key}: left out when it was saved, because it looks like a secret; type {key}=VALUE"


def _groups(rules: Any) -> Iterator[str]:
    if rules is None:
        return
    if not isinstance(rules, list):
        yield f"optimizer.groups is {shown(rules)}; wanted a list: [{_RULE}]"
        return
    for at, rule in enumerate(rules):
        if not isinstance(_at(rule, "match"), str):
            yield f"optimizer.groups[{at}] is {rule!r}; wanted a pattern and settings: {_RULE}"


def _observers(value: Any) -> Iterator[str]:
    if value is None or value == "???":
        return
    if not isinstance(value, Mapping):
        yield f"observers is {shown(value)}; wanted a section with a name and a _target_ for each"
        return
    for name, node in value.items():
        if node is not None and not _is_built(node):
            yield f"observers.{name}: nothing to build; wanted a section with a _target_"


def _needs_monitor(resolved: Mapping[str, Any]) -> Iterator[str]:
    """What asks which evaluation is better, while `monitor` is null."""
    advice = "type monitor.metric=val_loss monitor.mode=min"
    save, keep = (_at(resolved, "checkpoint", part) for part in ("save", "keep"))
    if _at(save, "on_improvement") is True:
        off = "checkpoint.save.on_improvement=false"
        yield f"monitor is null but checkpoint.save.on_improvement is true; {advice}, or {off}"
    if isinstance(_at(keep, "best"), int):
        yield f"monitor is null but checkpoint.keep.best is {_at(keep, 'best')}; {advice}, or checkpoint.keep.best=null"
    if _at(resolved, "trainer", "early_stopping", "patience") is not None:
        off = "trainer.early_stopping.patience=null"
        yield f"monitor is null but trainer.early_stopping.patience is set; {advice}, or {off}"
    if str(_at(resolved, "scheduler", "_target_")).endswith(".ReduceLROnPlateau"):
        yield f"monitor is null but the scheduler waits for a plateau; {advice}, or another scheduler"


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value[key] if isinstance(value, Mapping) and key in value else None
    return value
