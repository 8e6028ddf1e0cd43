"""Checks of models' arguments that more than one model needs."""

from difflib import get_close_matches

from torch import nn

from runner.errors import ConfigError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def activation_called(name: str) -> type[nn.Module]:
    """The activation of that name. Raises ConfigError with the nearest name if there is none."""
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    nearest = get_close_matches(name, ACTIVATIONS, n=1)
    meant = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ConfigError(f"model.activation is {name!r}; wanted one of {', '.join(ACTIVATIONS)}{meant}")


def size_problems(**sizes: int) -> list[str]:
    """A line for each that is below 1."""
    return [f"model.{name} is {size}; wanted at least 1" for name, size in sizes.items() if size < 1]


def dropout_problems(dropout: float) -> list[str]:
    """A line if this is no probability of dropping."""
    return [] if 0.0 <= dropout < 1.0 else [f"model.dropout is {dropout}; wanted 0 or more, and below 1"]
