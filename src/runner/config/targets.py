"""What `_target_` names: importing it, with the real reason if that fails; its signature against the arguments."""

import importlib
import inspect
import traceback
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.names import did_you_mean, nearest, shown
from runner.config.schema import Batching, names_of
from runner.trust import INSTRUCTIONS, NODES

GROUP_LEVEL = {"data": names_of(Batching), "optimizer": ("groups",)}
"""Keys of a group that the runner takes off before the rest of the node is handed to its target."""
_FILLED_IN = {"scheduler": ("total_steps", "steps_per_epoch")}
_FIRST_FILLED_IN = {"optimizer": ("params", "model"), "scheduler": ("optimizer",)}
"""By these names, the first parameter: most optimizers are given `params`, and one whose first is `model` gets that."""


class TargetError(Exception):
    """A target that cannot be had; the message says why."""


@dataclass(frozen=True, slots=True)
class TargetNode:
    """A mapping in the config that is built by calling its `_target_`."""

    path: str
    """`objective.loss`"""
    group: str
    """The top-level key that it stands under."""
    node: Mapping[str, Any]

    @property
    def outermost(self) -> bool:
        return self.path == self.group


def target_nodes(config: Mapping[str, Any]) -> Iterator[TargetNode]:
    """Every mapping with a `_target_` under the keys that are built, the outer ones first."""
    for group in NODES:
        if group in config:
            yield from _nodes_in(config[group], group, group)


def _nodes_in(value: Any, path: str, group: str) -> Iterator[TargetNode]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield TargetNode(path, group, value)
        for key, inner in value.items():
            yield from _nodes_in(inner, f"{path}.{key}", group)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _nodes_in(inner, f"{path}[{at}]", group)


def locate(name: str) -> Any:
    """Import what a dotted name names. TargetError with the reason if that cannot be done."""
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise TargetError(f"{name!r} is no dotted name; wanted MODULE.NAME")
    found: Any = _module(parts[0])
    for depth, part in enumerate(parts[1:], start=1):
        owner = ".".join(parts[:depth])
        inner = getattr(found, part, None)
        if inner is None and isinstance(found, types.ModuleType):
            inner = _submodule(found, owner, part)
        if inner is None:
            public = [known for known in dir(found) if not known.startswith("_")]
            near = did_you_mean(part, public, prefix=f"{owner}.")
            raise TargetError(f"{owner} has no {part!r}{near if near.startswith('; did') else ''}")
        found = inner
    if not callable(found):
        raise TargetError(f"{name} is a {type(found).__name__}, which cannot be called")
    return found


def _module(module: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            own = [file.stem for file in Path.cwd().glob("*.py")]
            near = nearest(module, ["torch", "runner", *own])
            advice = f"did you mean {near!r}?" if near else f"put {module}.py here, or install the package that has it"
            raise TargetError(f"no module {module!r} can be imported; {advice}") from error
        raise TargetError(_import_failure(module, error)) from error
    except Exception as error:
        # An import runs the user's module, which may raise anything; all of it is theirs to see.
        raise TargetError(_import_failure(module, error)) from error


def _submodule(package: types.ModuleType, owner: str, part: str) -> types.ModuleType | None:
    if not hasattr(package, "__path__"):
        return None
    module = f"{owner}.{part}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return None
        raise TargetError(_import_failure(module, error)) from error
    except Exception as error:
        # As above.
        raise TargetError(_import_failure(module, error)) from error


def _import_failure(module: str, error: Exception) -> str:
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "importlib" not in one.filename]
    inside = [one for one in frames if one.filename != __file__]
    where = f" at {inside[-1].filename}:{inside[-1].lineno}" if inside else ""
    if isinstance(error, SyntaxError):
        where = f" at {error.filename}:{error.lineno}"
    return f"importing {module} failed{where}: {type(error).__name__}: {error}"


def problems_of(target: TargetNode) -> list[str]:
    """Everything that is wrong with a node: its target, the names of its arguments, what it lacks."""
    path, node = target.path, target.node
    problems = [
        f"{path}.{key}: no such key{did_you_mean(str(key), INSTRUCTIONS, prefix=path + '.')}"
        for key in node
        if _is_instruction(key) and key not in INSTRUCTIONS
    ]
    name = node["_target_"]
    if not isinstance(name, str) or name == "???":
        return [*problems, f"{path}._target_ is {shown(name)}; wanted the dotted name of a class or function"]
    try:
        found = locate(name)
    except TargetError as error:
        return [*problems, f"{path}._target_={name}: {error}"]
    return problems + _arguments(target, name, found)


def _arguments(target: TargetNode, name: str, found: Any) -> list[str]:
    parameters = parameters_of(found)
    if parameters is None:
        return []
    path, given = target.path, arguments_of(target)
    filled = filled_in(target, parameters)
    names = [one.name for one in parameters.values() if one.kind in _BY_NAME and one.name not in filled]
    open_ended = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    problems = []
    for key in given:
        if key in filled:
            problems.append(f"{path}.{key}: the runner fills this in; leave it out")
        elif key not in names and not open_ended:
            near = did_you_mean(key, names, prefix=f"{path}.")
            problems.append(f"{path}.{key}: {name} takes no argument {key!r}{near or '; it takes none'}")
        elif key in names and (wrong := _wrong_type(parameters[key].annotation, given[key])):
            problems.append(f"{path}.{key} is {shown(given[key])}; {name} wants {wrong}")
    if target.node.get("_partial_") is True:
        return problems
    by_position = len(target.node["_args_"]) if isinstance(target.node.get("_args_"), list) else 0
    lacking = [
        one.name
        for at, one in enumerate(parameters.values())
        if one.default is one.empty and one.kind in _BY_NAME and one.name not in given and one.name not in filled
        if one.kind is one.KEYWORD_ONLY or at >= by_position
    ]
    return problems + [f"{path}.{key}: {name} needs this argument; type +{path}.{key}=VALUE" for key in lacking]


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def arguments_of(target: TargetNode) -> dict[str, Any]:
    """The arguments that a node holds for its target, without the runner's own keys of the group."""
    taken_off = GROUP_LEVEL.get(target.group, ()) if target.outermost else ()
    return {str(key): value for key, value in target.node.items() if not _is_instruction(key) and key not in taken_off}


def _is_instruction(key: object) -> bool:
    """`_target_`, `_partial_` and what looks like them: about the building, not an argument."""
    return isinstance(key, str) and key.startswith("_") and key.endswith("_")


def filled_in(target: TargetNode, parameters: Mapping[str, inspect.Parameter]) -> set[str]:
    """The arguments that the runner fills in when it builds the node."""
    if not target.outermost:
        # The schedulers in a scheduler, as SequentialLR has them, get the optimizer too.
        return {"optimizer"} & set(parameters) if target.group == "scheduler" else set()
    filled = {name for name in _FILLED_IN.get(target.group, ()) if name in parameters}
    first = next(iter(parameters), "")
    return filled | ({first} if first in _FIRST_FILLED_IN.get(target.group, ()) else set())


def parameters_of(found: Any) -> Mapping[str, inspect.Parameter] | None:
    """What a callable takes; None where Python cannot tell, as for some written in C."""
    if isinstance(found, type) and _made_by_module_alone(found):
        return {}
    try:
        signature = inspect.signature(found, eval_str=True)
    except (NameError, TypeError, SyntaxError, AttributeError):
        # An annotation that cannot be evaluated here; the names are enough.
        try:
            signature = inspect.signature(found)
        except (TypeError, ValueError):
            return None
    except ValueError:
        return None
    return signature.parameters


def _made_by_module_alone(found: type) -> bool:
    """torch's own `Module.__init__` says that it takes anything, and raises if it is given anything."""
    made_by = next(one for one in found.__mro__ if "__init__" in one.__dict__)
    return (made_by.__module__, made_by.__qualname__) == ("torch.nn.modules.module", "Module")


def _wrong_type(annotation: Any, value: Any) -> str | None:
    """What a plainly annotated parameter wants, if `value` is plainly something else."""
    if annotation is inspect.Parameter.empty or not isinstance(value, str | int | float | bool):
        return None
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    if typing.get_origin(annotation) is typing.Literal:
        choices = typing.get_args(annotation)
        return None if value in choices else f"one of {', '.join(map(str, choices))}"
    plain = [option for option in options if option in _PLAIN]
    if not plain or any(option not in _PLAIN and option is not type(None) and _may_hold(option) for option in options):
        return None
    fits = any(type(value) is option or (option is float and type(value) is int) for option in plain)
    return None if fits else " or ".join(_PLAIN[option] for option in plain)


_PLAIN = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _may_hold(option: Any) -> bool:
    """Whether a class, seen from here, may take a text or a number; a tensor or a list that is given as one may not."""
    return not (isinstance(option, type) and option.__module__.split(".")[0] == "torch")
