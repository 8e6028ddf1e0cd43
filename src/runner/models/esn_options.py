"""The options of an echo state network: their names, where they may stand, and what is no value of them."""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypedDict

import torch

from runner.errors import ConfigError
from runner.models.reservoir import ACTIVATIONS


class ReservoirOptions(TypedDict, total=False):
    """What a network without a readout takes; see ESNModel for what each is."""

    activation: str
    leak_rate: float
    spectral_radius: float
    connectivity: float
    input_scaling: float
    driver_size: int
    driver_scaling: float
    bias: float
    trainable: bool
    stateful: bool
    seed: int | None
    dtype: torch.dtype | str | None


class Options(ReservoirOptions, total=False):
    """What a network with a readout takes."""

    readout_bias: bool
    readout_trainable: bool


OF_RESERVOIR = {
    name: name for name in ReservoirOptions.__annotations__ if name not in ("seed", "dtype")
}  # What one seed draws and one dtype holds is the whole model.
"""The keys of `reservoir_config`, and the options that they are."""
OF_READOUT = {"bias": "readout_bias", "trainable": "readout_trainable"}
"""The same of `readout_config`."""

FIXED: Mapping[str, Mapping[str, Any]] = {"ott_esn": {"squared": True}, "linear_esn": {"activation": "identity"}}
"""What the functions that make a network set themselves, by their names."""

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def put_together(
    options: Mapping[str, Any],
    known: Sequence[str],
    *,
    reservoir_config: Any = None,
    readout_config: Any = None,
) -> dict[str, Any]:
    """Flat options and those of both mappings as arguments of ESNModel. Raises ConfigError for names that are none."""
    problems = [f"there is no option {name!r}{_instead(name, known)}" for name in options if name not in known]
    values = dict(options)
    for where, config, every in (
        ("reservoir_config", reservoir_config, OF_RESERVOIR),
        ("readout_config", readout_config, OF_READOUT),
    ):
        names = {key: name for key, name in every.items() if name in known}
        if config is not None and not isinstance(config, Mapping):
            problems.append(f"{where} is {config!r}; wanted a mapping of options, as in {where}={{'trainable': False}}")
            continue
        for key, value in (config or {}).items():
            if key not in names:
                problems.append(f"{where} has {key!r}{_instead(key, list(names))}")
            elif names[key] in options:
                problems.append(
                    f"{where} has {key!r}, and {names[key]}={options[names[key]]!r} is given, too; keep one"
                )
            else:
                values[names[key]] = value
    if problems:
        raise ConfigError(problems)
    return values


def _instead(name: Any, known: Sequence[str]) -> str:
    nearest = get_close_matches(str(name), known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; wanted one of {', '.join(known)}"


def plain_numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of numpy as Python's own, which every file can hold; other values as they are."""

    def plain(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return value
        return int(value) if isinstance(value, numbers.Integral) else float(value)

    return {name: plain(value) for name, value in options.items()}


def option_problems(options: Mapping[str, Any]) -> list[str]:
    """A line for each value that is none."""
    problems = [
        f"model.{name} is {options[name]!r}; wanted {wanted}"
        for name, (is_one, wanted) in _VALUES.items()
        if not is_one(options[name])
    ]
    activation = options["activation"]
    if activation not in ACTIVATIONS:
        nearest = get_close_matches(str(activation), ACTIVATIONS, n=1)
        meant = f"; did you mean {nearest[0]!r}?" if nearest else ""
        problems.append(f"model.activation is {activation!r}; wanted one of {', '.join(ACTIVATIONS)}{meant}")
    return problems


def dtype_of(dtype: torch.dtype | str | None) -> torch.dtype:
    """The dtype that is meant; None is torch's default. Raises ConfigError for what weights cannot have."""
    if dtype is None:
        return torch.get_default_dtype()
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ConfigError(f"model.dtype is {dtype!r}; wanted one of {', '.join(DTYPES)}, or null for torch's default")
    return found


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_SIZE = (lambda value: _is_count(value, 1), "a whole number of at least 1")
_SCALE = (lambda value: _is_number(value) and value >= 0, "a finite number of 0 or more")
_TRUTH = (lambda value: isinstance(value, bool), "true or false")
_SHARE = (lambda value: _is_number(value) and 0 < value <= 1, "more than 0, and at most 1")
_VALUES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "reservoir_size": _SIZE,
    "input_size": _SIZE,
    "output_size": (lambda value: value is None or _is_count(value, 1), f"{_SIZE[1]}, or null for no readout"),
    "leak_rate": _SHARE,
    "spectral_radius": _SCALE,
    "connectivity": _SHARE,
    "input_scaling": _SCALE,
    "driver_size": (lambda value: _is_count(value, 0), "a whole number of 0 or more"),
    "driver_scaling": _SCALE,
    "bias": _SCALE,
    "squared": _TRUTH,
    "trainable": _TRUTH,
    "stateful": _TRUTH,
    "readout_bias": _TRUTH,
    "readout_trainable": _TRUTH,
    "seed": (lambda value: value is None or _is_count(value, 0), "a whole number of 0 or more, or null"),
}
