"""The file of one object of a decorated class: written, loaded into another one, and rebuilt from."""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner.checkpoint.contents import TAG
from runner.checkpoint.single import save_file
from runner.config.calls import build_value
from runner.config.decoding import missing
from runner.config.encoding import CALL, target_of
from runner.doors.not_stored import tell_lost
from runner.errors import CheckpointError, FormatError, TrustError
from runner.runs.fitting import fit, own_state, values_of
from runner.runs.handed import documents_for, facts_here, remember
from runner.runs.saved import DOOR, SavedModel, build, read_saved, stored_source
from runner.runs.versions import SETTINGS as SETTINGS
from runner.runs.versions import compare_versions
from runner.training.generators import untouched
from runner.trust_memory import located

log = logging.getLogger(__name__)

NAME = "save_load"
"""What a file of ours has for its door."""

Hook = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Settings:
    """What `save_load` was given for a class."""

    save_method_name: str
    load_method_name: str
    config_instance_var_name: str
    init_and_load_classmethod_name: str
    version: str | None
    pre_save_hook: Hook | None
    post_load_hook: Hook | None
    compress: bool
    partial_load: bool

    @property
    def names(self) -> dict[str, str]:
        """The names that a class gets, by the parameter that chooses each."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name.endswith("_name")}


def settings_of(cls: type) -> Settings:
    """What `save_load` was given for the class, or for the nearest base class that is decorated."""
    settings: Settings = getattr(cls, SETTINGS)
    return settings


@dataclass(frozen=True)
class Given:
    """What the caller of `load` says beside the path."""

    strict: bool = True
    versions: str = "warn"
    arguments: Mapping[str, Any] | None = None
    moved: Mapping[str, str | type] | None = None
    trust: Sequence[str] = ()


def write(module: nn.Module, path: Path, *, overwrite: bool) -> None:
    """Save a module, and the call that made it."""
    settings = settings_of(type(module))
    node = dict(vars(module).get(CALL) or _unknown_call(type(module)))
    config: dict[str, Any] = {DOOR: NAME, "model": node}
    if settings.version is not None:
        config["version"] = settings.version
    made = next((one for one in type(module).__mro__ if target_of(one) == node["_target_"]), type(module))
    save_file(
        path,
        {"model": own_state(module, path)},
        documents=documents_for(config, made),
        facts=facts_here(),
        overwrite=overwrite,
        compress=settings.compress,
    )
    remember(node)
    names = settings.names
    load = f"{type(module).__qualname__}.{names['load_method_name']}"
    tell_lost(module, path, node, lambda name: f"pass it when it is loaded: {load}(path, {name}=...)")


def read_into(module: nn.Module, path: str | PathLike[str], given: Given) -> None:
    """Load what a file has into a module that is there. Raises CheckpointError before anything is changed."""
    saved = _read(path)
    compare_versions(saved, type(module), given.versions, stacklevel=3)
    hint = f"{type(module).__qualname__}.load(path) builds what was saved"
    if saved.target is not None:
        hint = f"it was saved from {saved.target}, and {hint}"
    fit(
        module,
        values_of(module, saved.tensors, saved.checkpoint),
        where=saved.where,
        strict=given.strict,
        partial=settings_of(type(module)).partial_load,
        hint=hint,
    )


def built(cls: type[nn.Module], path: str | PathLike[str], given: Given) -> nn.Module:
    """The object of `cls`, or of a subclass, that a file is of. Raises CheckpointError if it is of something else."""
    saved = _read(path)
    found = _class_in(cls, saved, given) if "model" in saved.config else cls
    compare_versions(saved, found, given.versions, stacklevel=3)
    remember(cls)
    module = _made(found, saved, given)
    fit(
        module,
        values_of(module, saved.tensors, saved.checkpoint),
        where=saved.where,
        strict=given.strict,
        partial=settings_of(found).partial_load,
        as_saved=True,
        hint="; ".join(
            [
                "its class has changed since, or the object was changed after it was built",
                *stored_source(saved),
                "prepare an object as that was, and load the file into it",
            ]
        ),
    )
    return module


def _read(path: str | PathLike[str]) -> SavedModel:
    # Whatever device new tensors are on here: what is read has values.
    with torch.device("cpu"):
        return read_saved(path)


def _made(cls: type[nn.Module], saved: SavedModel, given: Given) -> nn.Module:
    """An object of `cls`, made as the file says, with the weights it is born with."""
    if saved.target is None:
        return _from_weights_alone(cls, saved.where, given.arguments or {})
    made = {saved.target: cls}
    module, _ = build(saved, ("model",), arguments=given.arguments, given=made, moved=given.moved, trust=given.trust)
    if not isinstance(module, cls):
        raise CheckpointError(
            f"{saved.where}: {saved.target} makes a {type(module).__name__}; {_wanted(cls, saved.target)}"
        )
    return module


def _from_weights_alone(cls: type[nn.Module], where: Path, arguments: Mapping[str, Any]) -> nn.Module:
    """An object for a file that does not say how one is built."""
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise CheckpointError(
            f"{where}: holds weights, and not how {cls.__qualname__} is built ({error}); "
            f"pass it: {cls.__qualname__}.load(path, NAME=...), or load the file into an object that is there"
        ) from error
    with untouched():
        return cls(**arguments)


def _class_in(cls: type[nn.Module], saved: SavedModel, given: Given) -> type[nn.Module]:
    """The class that a file names: `cls` or a subclass of it. It is looked for among those before anything is imported.

    Raises CheckpointError naming both if it is another one, TrustError if it would have to be imported to know.
    """
    if saved.target is None:
        raise FormatError(
            f"{saved.where}: does not name the class of its model; get another file, or its weights alone"
        )
    where, there, moved = saved.where, saved.target, given.moved or {}
    now = moved.get(there, there)
    here = {_name(one): one for one in _subclasses(cls)}
    found: Any = here.get(_main(now)) if isinstance(now, str) else now
    if found is None:
        try:
            found = build_value(
                {TAG: "name", "value": there}, where=where, moved=moved, trust=given.trust, path="model"
            )
        except (TrustError, CheckpointError) as error:
            told = f"{where}: is of {there!r}; {_wanted(cls, there)}"
            if isinstance(error, TrustError) and located(there):
                raise TrustError(f"{error}\n{told}") from error
            why = "" if isinstance(error, TrustError) else f"\n{error}"
            raise CheckpointError("\n".join([f"{told}{why}", *stored_source(saved)])) from error
    if not (isinstance(found, type) and issubclass(found, cls)):
        raise CheckpointError(f"{where}: is of {there!r}; {_wanted(cls, there)}")
    return found


def _wanted(cls: type[nn.Module], there: str) -> str:
    name = _name(cls)
    return (
        f"{cls.__qualname__}.load wanted {name!r} or a subclass of it; open the file with runner.load(path), "
        f'or if that class is called so now: load(path, moved={{"{there}": "{name}"}})'
    )


def _subclasses(cls: type) -> Iterator[type]:
    """Of several with one name, as a notebook makes them, the newest is the last."""
    direct: list[type] = cls.__subclasses__()
    for one in direct:
        yield from _subclasses(one)
    yield cls


def _name(cls: type) -> str:
    return _main(target_of(cls))


def _main(target: str) -> str:
    """A script's own classes have another module in the processes that it starts."""
    return f"__main__{target.removeprefix('__mp_main__')}" if target.startswith("__mp_main__.") else target


def _unknown_call(cls: type) -> dict[str, Any]:
    """The call that made an object from before its class was decorated, out of a pickle say."""
    node: dict[str, Any] = {"_target_": target_of(cls)}
    for name, one in inspect.signature(cls).parameters.items():
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            node[name] = missing("was not noted, because the object was not made by its constructor")
    return node
