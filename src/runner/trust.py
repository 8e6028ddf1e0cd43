"""The gate for configs that come out of files: which targets they may name. Opening a file runs nothing.

Two looks at every `_target_`. The first is at the text alone and imports nothing: a plain dotted name, under an allowed
root, trusted at this launch, or remembered. Only if every name has passed are the modules imported, and the second look
is at what the names stand for: an object that really lives under such a root and is of the right kind. A name is
followed in the way Hydra follows it, so that what was looked at is what will be built.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from runner.errors import ConfigError, TrustError
from runner.trust_memory import NEVER_REMEMBERED, TrustMemory, located

__all__ = ["ALLOWED_ROOTS", "INSTRUCTIONS", "NODES", "TrustMemory", "check_targets", "is_harmless", "to_trust"]

ALLOWED_ROOTS = (
    "torch.nn",
    "torch.optim",
    "runner.models",
    "runner.data",
    "runner.training",
    "runner.runs.observers",
)
"""What any file may name. Of this package only what is made to be built: `runner.run` would launch what a file says."""

FUNCTION_ROOTS = ("torch.nn.functional", "torch.nn.init", "torch.nn.utils", "runner.data", "runner.models")
"""Where functions may be named, not only classes."""

NODES = ("model", "data", "objective", "optimizer", "scheduler", "observers")
"""The nodes of a config that are built, in the order in which their mistakes are told."""

INSTRUCTIONS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
"""The keys that tell how a node is built; all others are arguments."""

_KINDS: Mapping[str, tuple[str, ...]] = {
    "model": ("torch.nn.Module",),
    "optimizer": ("torch.optim.Optimizer",),
    "scheduler": ("torch.optim.lr_scheduler.LRScheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
}
_CURVES = "runner.training.schedule"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+", re.ASCII)
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
# A reference to another node, or an environment variable, with a plain default at most, read as a number or not. Every
# other resolver could make a node of a text.
_ENVIRONMENT = r"\s*oc\.env:\s*[A-Za-z_]\w*(,[^{}$\[\]]*)?"
_HARMLESS = re.compile(
    rf"\$\{{(\.*[A-Za-z_][\w.]*|{_ENVIRONMENT}|\s*oc\.decode:\s*\$\{{{_ENVIRONMENT}\}})\}}", re.ASCII
)
_REFERENCE = re.compile(r"\$\{[^:}]*\}")
# Functions of torch itself, written in C++, that `torch.nn.functional` only gives a name.
_NATIVE = ("torch", "torch._C._nn")


def check_targets(config: Mapping[str, Any], *, trusted: Sequence[str], memory: TrustMemory | None, where: str) -> None:
    """Raise TrustError, naming every refusal, if a config from a file names a target that this user has not trusted.

    `config` is a plain nested mapping; only what stands under the keys in NODES is looked at, for only that is built.
    `trusted` are the names given with this launch or call. `where` names the file in messages.
    """
    for name in trusted:
        if not _MODULE.fullmatch(name):
            raise ConfigError(f"trust: {name!r} is not the name of a module; write it as in +trust=[mypackage.nets]")
    gate = _Gate(tuple(trusted), memory)
    values = list(_values({key: config[key] for key in NODES if key in config}))
    if any(_REFERENCE.search(value) for _, value in values if isinstance(value, str)):
        # A reference may put any other node in place of a text.
        values = list(_values(config))
    nodes = [(path, value) for path, value in values if isinstance(value, Mapping) and "_target_" in value]
    for _, node in nodes:
        if memory is not None and isinstance(node["_target_"], str) and _NAME.fullmatch(node["_target_"]):
            memory.bring_within_reach(node["_target_"], near=Path(where))
    refusals = [(path, why) for path, node in nodes for why in gate.by_name(node)]
    refusals += [
        (path, f"{_short(value)} holds an interpolation that could make a node; write its value out")
        for path, value in values
        if isinstance(value, str) and not is_harmless(value) and not path.endswith("._target_")
    ]
    if not refusals:
        refusals = [(path, why) for path, node in nodes for why in gate.by_kind(node["_target_"], path)]
    if refusals:
        raise TrustError("\n".join(f"{where}: {path}: {why}" for path, why in refusals))


def is_harmless(text: str) -> bool:
    """Whether a text from a file has no interpolation in it but references and variables of the environment."""
    return "${" not in _HARMLESS.sub("", text)


@dataclass(frozen=True, slots=True)
class _Gate:
    trusted: tuple[str, ...]
    memory: TrustMemory | None

    def by_name(self, node: Mapping[Any, Any]) -> Iterator[str]:
        """What speaks against a node before anything is imported."""
        for key in node:
            if isinstance(key, str) and key.startswith("_") and key not in INSTRUCTIONS:
                allowed = ", ".join(sorted(INSTRUCTIONS))
                yield f"{key!r} stands beside _target_; of such keys a file may hold {allowed} only"
        target = node["_target_"]
        if not isinstance(target, str):
            yield f"_target_ is {_short(target)}; wanted the dotted name of a class, as text"
        elif "${" in target:
            yield f"_target_ is {_short(target)}, an interpolation; a file must write its targets out"
        elif not _NAME.fullmatch(target) or len(target) > 300:
            yield f"_target_ is {_short(target)}; wanted a plain dotted name in ASCII, as in 'torch.nn.Linear'"
        elif any(part.startswith("__") for part in target.split(".")[target.startswith("__main__.") :]):
            yield f"_target_ is {_short(target)}; names that begin with two underscores are not followed"
        elif not self.explicit(target):
            if not _under(target, ALLOWED_ROOTS):
                yield self._not_trusted(target)
            elif any(part.startswith("_") for part in target.split(".")):
                yield f"_target_ {target!r} is private; name a public one, or {_say(target)}"

    def by_kind(self, target: str, path: str) -> Iterator[str]:
        """What speaks against the object for which a name stands."""
        explicit = self.explicit(target)
        parent: Any = None
        value: Any = None
        dotted = ""
        for part in target.split("."):
            parent, dotted = value, f"{dotted}.{part}".removeprefix(".")
            try:
                value = _followed(parent, part, dotted)
            except Exception as e:
                # An import runs the user's own module, which may raise anything.
                yield (
                    f"_target_ {target!r}: {dotted!r} cannot be imported ({type(e).__name__}: {e}); "
                    "install it, or put its directory on PYTHONPATH"
                )
                return
            if isinstance(value, ModuleType) and value.__name__ != dotted and not self._granted(value.__name__):
                yield (
                    f"_target_ {target!r} reaches the module {value.__name__!r} through another one; "
                    f"if that is meant, name it directly and {_say(value.__name__ + '.')}"
                )
                return
        if not explicit and not isinstance(parent, ModuleType):
            yield f"_target_ {target!r} is part of a class; name the class, or {_say(target)}"
            return
        if not isinstance(value, type | FunctionType | BuiltinFunctionType | MethodType):
            yield f"_target_ {target!r} is no class or function but a {type(value).__name__}; name another"
            return
        yield from self._by_home(target, value, explicit)
        yield from _by_node(target, value, path, explicit)

    def explicit(self, target: str) -> bool:
        """The user himself has named it: at this launch, in an earlier one, or it stands in the running script."""
        if _under(target, self.trusted) or target.startswith("__main__."):
            return True
        modules = located(target) if self.memory is not None and not _under(target, ALLOWED_ROOTS) else []
        return (
            bool(modules) and modules[-1][1] is not None and all(map(self._is_remembered, *zip(*modules, strict=True)))
        )

    def _is_remembered(self, module: str, file: Any) -> bool:
        return file is None or (self.memory is not None and file in self.memory.remembered(module))

    def _granted(self, module: str) -> bool:
        return module == "__main__" or _under(module, ALLOWED_ROOTS) or self.explicit(module)

    def _by_home(self, target: str, value: Any, explicit: bool) -> Iterator[str]:
        home = _home(value)
        if target.startswith("torch.nn.functional.") and isinstance(value, BuiltinFunctionType) and home in _NATIVE:
            return
        if home is None:
            yield f"_target_ {target!r} does not say in which module it was made; wanted a class or a plain function"
        elif not self._granted(home) and not _under(name := f"{home}.{value.__qualname__}", self.trusted):
            yield f"_target_ {target!r} is really {name!r}, which is not trusted; if that is meant, {_say(name)}"
        elif not explicit and not isinstance(value, type) and not _under(home, FUNCTION_ROOTS):
            yield f"_target_ {target!r} is a function; wanted a class, or {_say(target)}"

    def _not_trusted(self, target: str) -> str:
        said = f"_target_ {target!r} is not trusted"
        top = target.partition(".")[0]
        used = sorted(map(str, self.memory.remembered(top))) if self.memory is not None else []
        if used and not located(target):
            said += f" (you used {top!r} from {', '.join(used)}; from here it cannot be found)"
            return f"{said}; put its directory on PYTHONPATH, or install it"
        for module, file in located(target) if self.memory is not None else ():
            known = self.memory.remembered(module) if self.memory is not None else frozenset()
            if known and file not in known:
                said += f" (you used {module!r} from {', '.join(sorted(map(str, known)))}, here it would be {file})"
        return f"{said}; if you know what it does, {_say(target)}"


def _followed(parent: Any, part: str, dotted: str) -> Any:
    """What Hydra finds for the next part of a name: an attribute first, else a module."""
    if parent is None:
        return import_module(part)
    try:
        return getattr(parent, part)
    except AttributeError:
        if not isinstance(parent, ModuleType):
            raise
    return import_module(dotted)


def _by_node(target: str, value: Any, path: str, explicit: bool) -> Iterator[str]:
    """What speaks against an object because of the node for which it is to be built."""
    if path not in _KINDS:
        return
    if not isinstance(value, type):
        if not explicit:
            yield f"_target_ {target!r} is a function; wanted {_wanted(path)}"
    elif issubclass(value, _kinds(path)):
        return
    elif path != "scheduler" or not (hasattr(value, "factor") and (explicit or value.__module__ == _CURVES)):
        yield f"_target_ {target!r} is a class of another kind; wanted {_wanted(path)}; name another one"


def _values(config: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    # A stack and no recursion: the depth is the file's choice.
    pending: list[tuple[str, Any]] = [(str(key), value) for key, value in reversed(list(config.items()))]
    while pending:
        path, value = pending.pop()
        yield path, value
        if isinstance(value, Mapping):
            pending += [(f"{path}.{key}", item) for key, item in reversed(list(value.items()))]
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            pending += [(f"{path}[{i}]", item) for i, item in reversed(list(enumerate(value)))]


def _under(name: str, roots: Sequence[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def _home(value: Any) -> str | None:
    """The name of the module in which a class or function was really made."""
    owner = value.__self__ if isinstance(value, MethodType) and isinstance(value.__self__, type) else value
    home = getattr(owner, "__module__", None)
    return home if isinstance(home, str) else None


def _kinds(node: str) -> tuple[type, ...]:
    found = []
    for name in _KINDS[node]:
        module, _, attribute = name.rpartition(".")
        found.append(getattr(import_module(module), attribute))
    return tuple(found)


def _wanted(node: str) -> str:
    return f"a {' or '.join(_KINDS[node])}"


def to_trust(target: str) -> str:
    """What to trust for a target: its package, or where that is full of dangerous ones, no more than is needed."""
    root = target.partition(".")[0]
    if root in sys.stdlib_module_names:
        return target
    return target.rpartition(".")[0] if root in NEVER_REMEMBERED else root


def _say(target: str) -> str:
    """What to type to trust a target."""
    name = to_trust(target).removesuffix(".")
    return f'add +trust=[{name}] (in Python: trust=["{name}"])'


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
