import pytest
import torch
from torch import nn

from runner.errors import ConfigError
from runner.models.cnn import CNN


def test_each_stage_halves_the_image() -> None:
    model = CNN(in_channels=1, image_size=8, channels=[16, 32], classes=10, activation="relu", dropout=0.1)
    images = torch.randn(3, 1, 8, 8)
    assert model.stages(images).shape == (3, 32, 2, 2)
    assert model(images).shape == (3, 10)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()) == 2


def test_arguments_out_of_range_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        CNN(0, 6, [16, 32], 0, "relu", -0.1)
    assert caught.value.problems == (
        "model.in_channels is 0; wanted at least 1",
        "model.classes is 0; wanted at least 1",
        "model.dropout is -0.1; wanted 0 or more, and below 1",
        "model.image_size is 6, and 2 stages halve it 2 times; wanted a multiple of 4, "
        "or fewer entries in model.channels",
    )
    with pytest.raises(ConfigError, match=r"^model.channels is \[\]; wanted at least one size, each at least 1$"):
        CNN(1, 8, [], 10, "relu", 0.0)
    with pytest.raises(ConfigError, match=r"^model.activation is 'rel'"):
        CNN(1, 8, [4], 10, "rel", 0.0)
