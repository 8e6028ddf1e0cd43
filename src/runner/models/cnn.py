"""A small convolutional network for small images."""

from collections.abc import Sequence

from torch import Tensor, nn

from runner.errors import ConfigError
from runner.models.arguments import activation_called, dropout_problems, size_problems


class CNN(nn.Module):
    """Stages of convolution 3x3, batch normalisation (arXiv:1502.03167), activation, 2x2 pooling, then a linear layer.

    images: (B, in_channels, image_size, image_size) float. Returns logits (B, classes).
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        channels: Sequence[int],
        classes: int,
        activation: str,
        dropout: float,
    ) -> None:
        """Each entry of `channels` is a stage and halves the image. Raises ConfigError for arguments out of range."""
        super().__init__()
        problems = size_problems(in_channels=in_channels, image_size=image_size, classes=classes)
        problems += dropout_problems(dropout)
        if not channels or any(size < 1 for size in channels):
            problems.append(f"model.channels is {list(channels)}; wanted at least one size, each at least 1")
        elif image_size % 2 ** len(channels):
            problems.append(
                f"model.image_size is {image_size}, and {len(channels)} stages halve it {len(channels)} times; "
                f"wanted a multiple of {2 ** len(channels)}, or fewer entries in model.channels"
            )
        if problems:
            raise ConfigError(problems)
        make_activation = activation_called(activation)
        stages: list[nn.Module] = []
        size = in_channels
        for next_size in channels:
            # No bias: the normalisation takes any constant away.
            stages += [nn.Conv2d(size, next_size, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(next_size)]
            stages += [make_activation(), nn.MaxPool2d(2)]
            size = next_size
        self.stages = nn.Sequential(*stages)
        left = image_size // 2 ** len(channels)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(size * left * left, classes))

    def forward(self, images: Tensor) -> Tensor:
        logits_BC: Tensor = self.head(self.stages(images))
        return logits_BC
