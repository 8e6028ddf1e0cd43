"""One node of a config to one object."""

import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config.targets import GROUP_LEVEL
from runner.errors import ConfigError, RunnerError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from runner.data.data import Data


def instantiate(node: Mapping[str, Any], where: str, **filled: Any) -> Any:
    """Call the `_target_` of `node`, nested ones first, with its other keys and `filled` as arguments.

    Raises ConfigError, naming `where`, if the target refuses its arguments.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as build_node

    try:
        return build_node(dict(node), _convert_="all", **filled)
    except InstantiationException as e:
        cause = e.__cause__
        if isinstance(cause, RunnerError):
            raise cause from None
        shown = f"{type(cause).__name__}: {cause}{_place(cause)}" if cause is not None else str(e).splitlines()[0]
        raise ConfigError(f"{where}._target_={node['_target_']}: could not be built: {shown}") from e


def _place(error: BaseException) -> str:
    """Where in the user's own code an error comes from: the innermost of his lines on the way to it."""
    foreign = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    package = str(Path(__file__).parents[1])
    lines = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*foreign, package, "<"))
    ]
    return f" ({lines[-1]})" if lines else ""


def build_model(config: Mapping[str, Any]) -> "nn.Module":
    """The model of `config`, with the weights it is born with. Raises ConfigError if it is none."""
    from torch import nn

    model = instantiate(config["model"], "model")
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model._target_={config['model']['_target_']}: built {type(model).__name__}; "
            "wanted a torch.nn.Module, or a function that returns one"
        )
    return model


def build_data(config: Mapping[str, Any]) -> "Data":
    """The data of `config`. Raises ConfigError if its target gives something else."""
    from runner.data.data import Data

    node = {key: value for key, value in config["data"].items() if key not in GROUP_LEVEL["data"]}
    data = instantiate(node, "data")
    if not isinstance(data, Data):
        raise ConfigError(
            f"data._target_={node['_target_']}: built {type(data).__name__}; "
            "wanted a runner.Data(train=..., validation=..., test=...)"
        )
    return data


def device_of(name: str, *, key: str = "runtime.device") -> "torch.device":
    """The device of that name; `auto` is the first of cuda, mps, cpu. ConfigError, naming `key`, if it is not there."""
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    kind = name.partition(":")[0]
    if kind in present and not present[kind]:
        here = ", ".join(device for device, there in present.items() if there)
        raise ConfigError(f"{key} is {name!r}, and this machine has only {here}; use {key}=auto")
    try:
        return torch.device(name)
    except RuntimeError as e:
        raise ConfigError(f"{key} is {name!r}; wanted auto, cpu, cuda, cuda:N or mps") from e
