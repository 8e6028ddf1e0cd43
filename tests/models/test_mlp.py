import pytest
import torch
from torch import nn

from runner.errors import ConfigError
from runner.models.mlp import MLP


def test_an_mlp_has_the_layers_it_was_told() -> None:
    model = MLP(in_features=64, hidden=[32, 16], classes=10, activation="gelu", dropout=0.5)
    sizes = [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert sizes == [(64, 32), (32, 16), (16, 10)]
    assert sum(isinstance(layer, nn.GELU) for layer in model.modules()) == 2
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_without_hidden_layers_it_is_linear() -> None:
    model = MLP(4, [], 2, "relu", 0.0)
    x = torch.randn(5, 4)
    linear = model.layers[1]
    assert isinstance(linear, nn.Linear)
    assert torch.equal(model(x), linear(x))


def test_arguments_out_of_range_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        MLP(0, [3, 0], -1, "relu", 1.0)
    assert caught.value.problems == (
        "model.in_features is 0; wanted at least 1",
        "model.classes is -1; wanted at least 1",
        "model.dropout is 1.0; wanted 0 or more, and below 1",
        "model.hidden is [3, 0]; wanted sizes of at least 1",
    )


def test_an_unknown_activation_is_said_with_the_nearest_name() -> None:
    wanted = "wanted one of gelu, leaky_relu, relu, silu, tanh"
    with pytest.raises(ConfigError, match=rf"^model.activation is 'rellu'; {wanted}; did you mean 'relu'\?$"):
        MLP(4, [4], 2, "rellu", 0.0)
    with pytest.raises(ConfigError, match=rf"^model.activation is 'x'; {wanted}$"):
        MLP(4, [4], 2, "x", 0.0)
