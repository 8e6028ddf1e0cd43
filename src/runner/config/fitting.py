"""A target typed in place of an option's own: the option's arguments that it does not take are left out."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runner.config.composing import Composition, Config
from runner.config.targets import GROUP_LEVEL, TargetError, TargetNode, locate, parameters_of, target_nodes
from runner.trust import INSTRUCTIONS


def fitted(composition: Composition) -> tuple[Config, list[str]]:
    """The config without what the typed targets do not take, and a note for each of them.

    What was typed itself stays, so that a mistake in it is told. Imports the typed targets.
    """
    config = composition.config
    keys = [override.key_or_group for override in composition.typed if not override.is_delete()]
    notes = []
    for target in list(target_nodes(config.resolved)):
        if f"{target.path}._target_" not in keys:
            continue
        surplus = [key for key in _surplus(target) if not _is_typed(f"{target.path}.{key}", keys)]
        if surplus:
            config = replace(
                config,
                composed=_without(config.composed, target.path, surplus),
                resolved=_without(config.resolved, target.path, surplus),
            )
            notes.append(f"{target.path}: {target.node['_target_']} is built without the option's {', '.join(surplus)}")
    return config, notes


def _is_typed(path: str, keys: list[str]) -> bool:
    return any(key == path or key.startswith(f"{path}.") for key in keys)


def _surplus(target: TargetNode) -> list[str]:
    name = target.node["_target_"]
    try:
        parameters = parameters_of(locate(name)) if isinstance(name, str) else None
    except TargetError:
        # The check tells why.
        return []
    if parameters is None:
        return []
    takes_any = target.path != "model" and any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    kept = (*INSTRUCTIONS, *(GROUP_LEVEL[target.group] if target.outermost and target.group in GROUP_LEVEL else ()))
    return [
        str(key)
        for key in target.node
        if key not in kept and not (_means_the_same(target, parameters[key]) if key in parameters else takes_any)
    ]


def _means_the_same(target: TargetNode, parameter: inspect.Parameter) -> bool:
    """Whether an option's value is meant for a parameter of the same name of another class.

    What is called lr or weight_decay is the same thing in every optimizer; what is called hidden is a list in one model
    and a number in the next. So another model gets only what it cannot do without.
    """
    return target.path != "model" or parameter.default is parameter.empty


def _without(tree: Mapping[str, Any], path: str, surplus: list[str]) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    inner = tree[first]
    if rest:
        return {**tree, first: _without(inner, rest, surplus)}
    return {**tree, first: {key: value for key, value in inner.items() if key not in surplus}}
