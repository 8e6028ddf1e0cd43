"""The call that makes an object, as a node of a config: what the Python doors store, and what they rebuild from.

    {"_target_": "mypackage.nets.Net", "width": 3, "sizes": {"$": "tuple", "items": [8, 8]}}

Unlike a node that Hydra composes, its arguments are encoded: see encoding.py. They come back exactly as they were, and
none of them is built but what says so. A file may be anybody's: all names in it pass the gate before one is imported.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.checkpoint.contents import TAG
from runner.config.decoding import (
    CallError,
    Missing,
    called,
    called_in,
    check_extent,
    decode,
    is_call,
    is_missing,
    missing,
    names_in,
    why_missing,
)
from runner.config.encoding import UnstorableError, encode
from runner.config.encoding import target_of as target_of
from runner.config.secrets import REDACTED
from runner.config.sharing import Found
from runner.config.targets import TargetError, locate
from runner.errors import CheckpointError, DamagedError, FormatError, RunnerError
from runner.trust import ALLOWED_ROOTS, NODES, check_targets, to_trust
from runner.trust_memory import TrustMemory

DOOR = "door"
"""The key of a config that says which of the Python doors wrote it: its nodes are calls."""
METADATA = "metadata.json"
"""The document of a door's file with what its user noted."""
SOURCE = "source."
"""How the documents that hold the source of the model's modules begin: `source.mypackage.nets.py`."""
POSITIONAL = "_args_"
"""The key under which the node holds what a `*args` of the constructor takes."""
_PURE = frozenset({f"math.{name}" for name in (
    "atan", "ceil", "cos", "cosh", "erf", "exp", "expm1", "fabs", "floor", "log", "log10", "log1p", "log2", "sin",
    "sinh", "sqrt", "tan", "tanh",
)} | {f"torch.{name}" for name in (
    "abs", "celu", "clamp", "cos", "cosh", "erf", "exp", "expm1", "log", "log1p", "log_softmax", "max", "maximum",
    "mean", "min", "minimum", "neg", "relu", "relu_", "rsqrt", "selu", "sigmoid", "sign", "sin", "sinh", "softmax",
    "sqrt", "square", "sum", "tan", "tanh",
)})  # fmt: skip
"""Functions that only compute: a file may name them as activations."""
_PASSED = frozenset(f"builtins.{name}" for name in ("abs", "divmod", "len", "max", "min", "pow", "round", "sum"))
"""Those that a file may name for an argument, and not have called: what it would call them with may have no end."""
_TAKEN = ("_target_", POSITIONAL, TAG)
"""By `**kwargs`, a constructor may take even these."""
_NEED_NO_TRUST = ("__main__.", *(f"{root}." for root in ALLOWED_ROOTS))
_SENSELESS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""What decoding stumbles over in a form that was never encoded."""


def call_of(made: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a call of a class or function, with its defaults. What changes in the arguments later is not seen.

    An argument that cannot be stored is `missing` in it, with the reason. Raises TypeError where the call would.
    """
    bound = inspect.signature(made).bind(*args, **kwargs)
    given = set(bound.arguments)
    bound.apply_defaults()
    node: dict[str, Any] = {"_target_": target_of(made)}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            clashing = [key for key in value if key in node or key in _TAKEN]
            node |= {key: encoded(inner) for key, inner in value.items() if key not in clashing}
            if clashing:
                node["_kwargs_"] = missing(f"has {', '.join(map(repr, clashing))} among its names")
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            if value:
                node[POSITIONAL] = [encoded(item) for item in value]
        else:
            form = encoded(value)
            # A default that cannot be stored is there again when it is built.
            if name in given or not is_missing(form):
                node[name] = form
    return node


def encoded(value: Any) -> Any:
    """The form of an argument; `missing` for what has none."""
    try:
        return encode(value)
    except UnstorableError as error:
        return missing(str(error))


def build_call(
    node: Mapping[str, Any],
    *,
    where: Path,
    arguments: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    moved: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
    path: str = "model",
) -> Any:
    """The object that a node from a file (`where`, under the key `path`) makes.

    `arguments` stand in for stored ones. `given` are classes that the caller has in hand, by the names that the file
    has for them: they are neither looked for nor gated. `moved` says what a name of the file is called now, or what it
    is. Raises TrustError; CheckpointError where it cannot be built, naming what is missing.
    """
    return build_value(
        {TAG: "call", "of": node.get("_target_"), "arguments": {k: v for k, v in node.items() if k != "_target_"}},
        where=where,
        arguments=arguments,
        given=given,
        moved=moved,
        trust=trust,
        path=path,
    )


def build_value(
    form: Any,
    *,
    where: Path,
    arguments: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    moved: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
    path: str,
) -> Any:
    """The value of an encoded form from a file; `arguments` are those of the outermost call. See `build_call`."""
    names = _Names(where, path, dict(given or {}), dict(moved or {}), trust)
    given_now = dict(arguments or {})
    try:
        check_extent(form)
        found = Found(names.found)
        if not is_call(form):
            names.check(form)
            value = decode(form, found)
            if isinstance(value, Missing):
                raise CheckpointError(f"{where}: {path} {value.why}; no file can hold that; pass it")
            return value
        if not isinstance(form.get("arguments"), Mapping):
            raise TypeError("wanted arguments by name")
        # What stands in for a stored argument is neither needed nor looked at.
        stored = {name: inner for name, inner in form["arguments"].items() if name not in given_now}
        names.check({**form, "arguments": stored})
        made = names.found(form["of"])
        _check_all_there(made, stored, where)
        decoded = {name: decode(inner, found) for name, inner in stored.items()}
        return called(made, {**decoded, **given_now})
    except CallError as error:
        told = f"{where}: {path}: {error}; give other arguments, or the class as it was then"
        raise CheckpointError(told) from error.__cause__
    except _SENSELESS as error:
        if isinstance(error, RunnerError):
            raise
        raise DamagedError(
            f"{where}: {path} is nothing that this program writes ({error!r:.200}); use another file"
        ) from error


def unavailable(node: Mapping[str, Any]) -> dict[str, str]:
    """The arguments of a call that are not in the file, and why; they have to be passed."""
    found = {}
    for name, form in node.items():
        if (why := why_missing(form)) is not None:
            found[name] = why
        elif _has_redacted(form):
            found[name] = "was left out when it was saved, because it looks like a secret"
    return found


def not_trusted(node: Mapping[str, Any]) -> dict[str, str]:
    """What this user would have to trust to build a call, packages mostly, and a name in each. Imports nothing."""
    memory = TrustMemory()
    form = {TAG: "call", "of": node.get("_target_"), "arguments": node}
    harmless = _PURE | (_PASSED - set(called_in(form)))
    names = [name for _, name in names_in(form) if isinstance(name, str) and name not in harmless]
    roots = {to_trust(name): name for name in names if not name.startswith(_NEED_NO_TRUST)}
    return {root: name for root, name in roots.items() if not memory.remembered(root)}


def _check_all_there(made: Any, arguments: Mapping[str, Any], where: Path) -> None:
    """Raise CheckpointError, with what to pass, for arguments that are not in the file."""
    name = getattr(made, "__qualname__", repr(made))
    lost = unavailable(arguments).items()
    if lost:
        told = (
            f'{where}: {name}({key}=...) {why}; pass it: load(path, arguments={{"{key}": ...}})' for key, why in lost
        )
        raise CheckpointError("\n".join(told))


def _has_redacted(form: Any) -> bool:
    if isinstance(form, Mapping | list):
        return any(map(_has_redacted, form.values() if isinstance(form, Mapping) else form))
    return isinstance(form, str) and REDACTED in form


class _Names:
    """What the import paths in a node stand for."""

    def __init__(
        self, where: Path, path: str, given: Mapping[str, Any], moved: Mapping[str, Any], trust: Sequence[str]
    ) -> None:
        self._where, self._path, self._trust = where, path, trust
        self._given = {**given, **{old: new for old, new in moved.items() if not isinstance(new, str)}}
        self._moved = {old: new for old, new in moved.items() if isinstance(new, str)}
        self._checked: set[str] = set()

    def check(self, form: Any) -> None:
        """Raise TrustError or CheckpointError unless every name may be imported. Nothing is imported before."""
        outer, *_ = [name for _, name in names_in(form)] if is_call(form) else [None]
        harmless = _PURE | (_PASSED - set(called_in(form)))
        wanted: dict[str, Any] = {}
        for place, name in names_in(form):
            if not isinstance(name, str):
                raise FormatError(f"{self._where}: {self._path} has {name!r:.80} for a name; wanted MODULE.NAME")
            now = self._now(name)
            self._checked.add(name)
            if name in self._given or now in harmless:
                continue
            self._check_importable(name, now)
            if place is None and name == outer:
                wanted["_target_"] = now
            else:
                # Beside a target, the gate takes what begins with an underscore for an instruction.
                wanted.setdefault((place or "").lstrip("_") or "value", []).append({"_target_": now})
        # Of what kind it has to be follows from the node; the gate looks at no others.
        node = self._path if self._path in NODES else "objective"
        # Whoever says where a class is now trusts what is there.
        trusted = (*self._trust, *(new.rpartition(".")[0] or new for new in self._moved.values()))
        check_targets({node: wanted}, trusted=trusted, memory=TrustMemory(), where=str(self._where))

    def _check_importable(self, name: str, now: str) -> None:
        if "<locals>" in now:
            how = "was made inside a function, so that it cannot be imported"
        elif now.startswith("__main__.") and not _is_here(now):
            how = "was defined in a script or notebook (__main__), and this one has no such name"
        else:
            return
        raise CheckpointError(
            f"{self._where}: {self._path}: {name!r} {how}; move it to a module, and say where it is now: "
            f'load(path, moved={{"{name}": "mymodule.{now.rpartition(".")[2]}"}})'
        )

    def _now(self, name: str) -> str:
        return self._moved.get(name, name)

    def found(self, name: str) -> Any:
        """What a name stands for. Raises ValueError for one that has not been checked."""
        if name not in self._checked:
            raise ValueError(f"{name!r:.80} is not where names stand")
        now = self._now(name)
        if name in self._given:
            return self._given[name]
        try:
            return locate(now)
        except TargetError as error:
            raise CheckpointError(
                f"{self._where}: {self._path}: {name!r} cannot be had: {error}; if it has moved, say where it is now: "
                f'load(path, moved={{"{name}": "new.module.{now.rpartition(".")[2]}"}})'
            ) from error


def _is_here(target: str) -> bool:
    value: Any = sys.modules.get("__main__")
    for part in target.split(".")[1:]:
        value = getattr(value, part, None)
    return value is not None
