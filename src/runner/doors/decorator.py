"""`@save_load()`: a module's class that can save its objects and load them, without naming how they were built.

    @save_load(version="1.0")
    class Net(Module): ...

    net.save("net.pth")                  whole, or what stood there is still there
    net = Net.load("net.pth")            built as it was saved, in the mode in which a new one is: train mode
    net.load("net.pth")                  into the one that is there, which stays as it was built

The file is a checkpoint like any other: `runner.load` and `runs show` open it. Nothing in it is pickled.
"""

import keyword
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, TypeVar, cast, overload

from torch import nn

from runner.checkpoint.compressed import zstd
from runner.checkpoint.single import check_target
from runner.doors.class_file import SETTINGS, Given, Hook, Settings, built, read_into, settings_of, write
from runner.doors.recording import record_calls
from runner.errors import ConfigError
from runner.training.module_state import bare

M = TypeVar("M", bound=nn.Module)


@overload
def save_load(save_method_name: type[M]) -> type[M]: ...


@overload
def save_load(
    save_method_name: str = "save",
    load_method_name: str = "load",
    config_instance_var_name: str = "_config",
    init_and_load_classmethod_name: str = "init_and_load",
    version: str | None = None,
    pre_save_hook: Hook | None = None,
    post_load_hook: Hook | None = None,
    compress: bool | None = False,
    partial_load: bool | None = False,
) -> Callable[[type[M]], type[M]]: ...


def save_load(
    save_method_name: str | type[M] = "save",
    load_method_name: str = "load",
    config_instance_var_name: str = "_config",
    init_and_load_classmethod_name: str = "init_and_load",
    version: str | None = None,
    pre_save_hook: Hook | None = None,
    post_load_hook: Hook | None = None,
    compress: bool | None = False,
    partial_load: bool | None = False,
) -> Any:
    """Give a module's class methods that save and load its objects. Written `@save_load()` above the class.

    `config_instance_var_name` is the attribute with the constructor's arguments, by name. A file of another `version`
    is told of when it is loaded. The hooks get the module. With `compress` files are smaller, and need zstandard; with
    `partial_load` what fits by name and shape is loaded, and the rest told. Raises TypeError for what is no class of a
    Module, ConfigError for a name that the class has already.
    """
    if isinstance(save_method_name, type):
        return save_load()(save_method_name)
    settings = Settings(
        save_method_name=save_method_name,
        load_method_name=load_method_name,
        config_instance_var_name=config_instance_var_name,
        init_and_load_classmethod_name=init_and_load_classmethod_name,
        version=version,
        pre_save_hook=pre_save_hook,
        post_load_hook=post_load_hook,
        compress=bool(compress),
        partial_load=bool(partial_load),
    )
    _check(settings)
    return lambda cls: _decorated(cls, settings)


def _check(settings: Settings) -> None:
    for parameter, name in settings.names.items():
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise TypeError(f"save_load({parameter}={name!r}): wanted the name of an attribute, such as 'save'")
    if len(set(settings.names.values())) < len(settings.names):
        raise ConfigError(f"save_load: two names are the same in {settings.names}; give each its own")
    if not isinstance(settings.version, str | None):
        raise TypeError(f"save_load(version={settings.version!r}): wanted a text, such as '1.0', or None")
    for parameter in ("pre_save_hook", "post_load_hook"):
        hook = getattr(settings, parameter)
        if hook is not None and not callable(hook):
            raise TypeError(f"save_load({parameter}={hook!r}): wanted a function of the module, or None")
    if settings.compress:
        try:
            zstd()
        except ConfigError as error:
            # It says all that there is to say.
            raise ConfigError(f"save_load(compress=True): {error}") from None


def _decorated(cls: Any, settings: Settings) -> Any:
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        what = f"the class {cls.__qualname__}" if isinstance(cls, type) else f"{cls!r}"
        raise TypeError(f"save_load: {what} is no torch.nn.Module; decorate a class that is one")
    for parameter, name in settings.names.items():
        _check_free(cls, parameter, name)
    setattr(cls, SETTINGS, settings)
    names = settings.names
    save, load, _, init_and_load = names.values()
    setattr(cls, save, _named(_save, cls, save))
    setattr(cls, load, _Load(_named(_load, cls, load), _named(_load_into, cls, load)))
    setattr(cls, init_and_load, classmethod(_named(_load, cls, init_and_load)))
    record_calls(cls, lambda kind: settings_of(kind).config_instance_var_name)
    return cls


def _check_free(cls: type, parameter: str, name: str) -> None:
    """Raise ConfigError if a class has an attribute of this name that is not one of ours."""
    owner = next((one for one in cls.__mro__ if name in vars(one)), None)
    if owner is not None and SETTINGS in vars(owner) and name in vars(owner)[SETTINGS].names.values():
        return
    if owner is not None or name in vars(nn.Module()):
        whose = f"{cls.__qualname__} has {name!r} already"
        if owner is not None and owner is not cls:
            whose += f", from {owner.__qualname__}"
        raise ConfigError(f'save_load: {whose}; choose another name, as in save_load({parameter}="{name}_model")')


def _named(made: Callable[..., Any], cls: type, name: str) -> FunctionType:
    """A copy of a function as a method of `cls`."""
    function = cast(FunctionType, made)
    method = FunctionType(function.__code__, function.__globals__, name, function.__defaults__, function.__closure__)
    method.__kwdefaults__, method.__doc__ = function.__kwdefaults__, function.__doc__
    method.__annotations__ = dict(function.__annotations__)
    method.__module__, method.__qualname__ = cls.__module__, f"{cls.__qualname__}.{name}"
    return method


class _Load:
    """The method that builds an object when it is taken from a class, and loads into one when taken from that."""

    def __init__(self, build: FunctionType, into: FunctionType) -> None:
        self._build, self._into = build, into

    def __get__(self, instance: nn.Module | None, owner: type) -> MethodType:
        return MethodType(self._build, owner) if instance is None else MethodType(self._into, instance)


def _save(self: nn.Module, path: str | PathLike[str], overwrite: bool = True) -> None:
    """Save the weights, and how this was built, in one file; its folder is made.

    What stood there stays until the new file is whole and durable. Raises FileExistsError (a SaveError) if something is
    there and `overwrite` is false, SaveError when it cannot be written.
    """
    module = bare(self)
    check_target(Path(path), overwrite=overwrite)
    if (hook := settings_of(type(module)).pre_save_hook) is not None:
        hook(module)
    write(module, Path(path), overwrite=overwrite)


def _load(
    cls: type[nn.Module],
    path: str | PathLike[str],
    strict: bool = True,
    *,
    versions: str = "warn",
    arguments: Mapping[str, Any] | None = None,
    moved: Mapping[str, str | type] | None = None,
    trust: Sequence[str] = (),
    **more: Any,
) -> nn.Module:
    """The model that a file is of, built with the arguments that it was built with, and its weights in it.

    It is in train mode and on the current device, as a new one is, with the dtypes of the file. It is of this class or,
    if it was one, of a subclass. Without `strict` names that are missing or unknown are a warning. `versions` says what
    to make of another version: "warn", "error" or "silent". `arguments`, or more keywords, are constructor arguments in
    place of the stored ones; `moved` says what a class is called now: {"old.path.Net": "new.path.Net"}; `trust` names
    modules whose classes may stand in arguments. Raises FileNotFoundError, CheckpointError, TrustError.
    """
    given = Given(strict, versions, {**(arguments or {}), **more}, moved, trust)
    model = built(cls, path, given)
    if (hook := settings_of(type(model)).post_load_hook) is not None:
        hook(model)
    return model


def _load_into(self: nn.Module, path: str | PathLike[str], strict: bool = True, *, versions: str = "warn") -> nn.Module:
    """Load the weights of a file, of any kind that `runner` reads, into this model; the model itself.

    It stays as it was built, in its mode and on its device. Without `strict` names that are missing or unknown are a
    warning. `versions` says what to make of another version: "warn", "error" or "silent". Raises FileNotFoundError and
    CheckpointError, before anything is changed.
    """
    read_into(self, path, Given(strict, versions))
    if (hook := settings_of(type(self)).post_load_hook) is not None:
        hook(self)
    return self
