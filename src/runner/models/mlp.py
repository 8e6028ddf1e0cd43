"""A multi-layer perceptron."""

from collections.abc import Sequence

from torch import Tensor, nn

from runner.errors import ConfigError
from runner.models.arguments import activation_called, dropout_problems, size_problems


class MLP(nn.Module):
    """Hidden layers, each with an activation and dropout, then a linear layer.

    x: (B, ...) float, flattened to (B, in_features). Returns logits (B, classes).
    """

    def __init__(self, in_features: int, hidden: Sequence[int], classes: int, activation: str, dropout: float) -> None:
        """`hidden` may be empty: then this is a linear classifier. Raises ConfigError for arguments out of range."""
        super().__init__()
        problems = size_problems(in_features=in_features, classes=classes) + dropout_problems(dropout)
        if any(size < 1 for size in hidden):
            problems.append(f"model.hidden is {list(hidden)}; wanted sizes of at least 1")
        if problems:
            raise ConfigError(problems)
        make_activation = activation_called(activation)
        layers: list[nn.Module] = [nn.Flatten()]
        size = in_features
        for next_size in hidden:
            layers += [nn.Linear(size, next_size), make_activation(), nn.Dropout(dropout)]
            size = next_size
        self.layers = nn.Sequential(*layers, nn.Linear(size, classes))

    def forward(self, x: Tensor) -> Tensor:
        logits_BC: Tensor = self.layers(x)
        return logits_BC
