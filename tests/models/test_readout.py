import copy

import pytest
import torch
from torch import Tensor

from runner.errors import ConfigError
from runner.models.drawing import Drawing
from runner.models.readout import Readout, ridge

D, O = 7, 3  # noqa: E741


def readout(*, bias: bool = True, dtype: torch.dtype = torch.float64) -> Readout:
    return Readout(D, O, bias=bias, trainable=True, drawing=Drawing(0, dtype))


def pairs(count: int, *, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Features, and targets that are linear in them but for some noise."""
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, D, generator=generator, dtype=torch.float64) + offset
    w = torch.randn(D, O, generator=generator, dtype=torch.float64)
    return x, x @ w + 5.0 + 0.1 * torch.randn(count, O, generator=generator, dtype=torch.float64)


def solved(model: Readout, x: Tensor, y: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    model.gather(x, y)
    model.solve(alpha)
    assert model.bias is not None
    return model.weight.detach(), model.bias.detach()


def near(one: Tensor, other: Tensor, tolerance: float = 1e-11) -> bool:
    """Equal but for the rounding of sums in another order."""
    return bool(((one - other).abs() <= tolerance * (1.0 + other.abs())).all())


def test_it_solves_the_ridge_regression_without_penalising_the_intercept() -> None:
    x, y = pairs(50)
    alpha = 0.7
    weight, bias = solved(readout(), x, y, alpha)
    # The same as least squares with rows that pull each weight, and not the intercept, to zero.
    pull = torch.cat([alpha**0.5 * torch.eye(D).double(), torch.zeros(D, 1).double()], dim=1)
    rows = torch.cat([torch.cat([x, torch.ones(50, 1).double()], dim=1), pull])
    wanted = torch.linalg.lstsq(rows, torch.cat([y, torch.zeros(D, O).double()])).solution
    assert near(weight, wanted[:D].T)
    assert near(bias, wanted[D])


def test_without_a_bias_it_goes_through_zero() -> None:
    x, y = pairs(50)
    model = readout(bias=False)
    model.gather(x, y)
    model.solve(0.7)
    wanted = torch.linalg.solve(x.T @ x + 0.7 * torch.eye(D).double(), x.T @ y).T
    assert model.bias is None
    assert near(model.weight, wanted)


def test_pairs_may_be_gathered_in_any_parts() -> None:
    x, y = pairs(60)
    whole, parts = readout(), readout()
    at_once = solved(whole, x, y, 1e-6)
    parts.gather(x[:10], y[:10])
    parts.gather(x[10:10], y[10:10])
    parts.gather(x[10:40].reshape(5, 6, D), y[10:40].reshape(5, 6, O))
    in_parts = solved(parts, x[40:], y[40:], 1e-6)
    assert near(in_parts[0], at_once[0]) and near(in_parts[1], at_once[1])


def test_features_far_from_zero_cost_no_digits() -> None:
    x, y = pairs(60)
    far = readout()
    far.gather(x[:30] + 1e6, y[:30])
    far.gather(x[30:] + 1e6, y[30:])
    far.solve(1e-6)
    weight, _ = solved(readout(), x, y, 1e-6)
    # 1e6 leaves ten digits to the features themselves; sums of squares around zero would leave four.
    assert near(far.weight, weight, 1e-8)


def test_what_was_gathered_stays_for_another_penalty() -> None:
    x, y = pairs(40)
    model = readout()
    first = solved(model, x, y, 1e-6)[0].clone()
    model.solve(100.0)
    assert model.weight.norm() < first.norm()
    model.solve(1e-6)
    assert torch.equal(model.weight, first)


def test_without_a_penalty_the_shortest_of_the_best_is_found() -> None:
    x, y = pairs(40)
    x[:, 1] = x[:, 0]
    weight, _ = solved(readout(), x, y, 0.0)
    assert near(weight[:, 0], weight[:, 1], 1e-9)
    wanted = torch.linalg.pinv(x - x.mean(0)) @ (y - y.mean(0))
    assert near(weight, wanted.T, 1e-9)


def test_fewer_pairs_than_features_are_enough() -> None:
    x, y = pairs(3)
    weight, bias = solved(readout(), x, y, 0.0)
    assert near(x @ weight.T + bias, y, 1e-9)


def test_a_matrix_that_rounding_has_made_indefinite_is_solved_all_the_same() -> None:
    gram = torch.tensor([[1.0, 1.0], [1.0, 1.0 - 1e-15]], dtype=torch.float64)
    cross = torch.tensor([[2.0], [2.0]], dtype=torch.float64)
    assert near(ridge(gram, cross, 1e-18), torch.ones(2, 1).double(), 1e-12)


def test_constant_targets_are_met_by_the_intercept_alone() -> None:
    x, _ = pairs(40)
    weight, bias = solved(readout(), x, torch.full((40, O), 3.0).double(), 1e-6)
    assert near(weight, torch.zeros(O, D).double()) and near(bias, torch.full((O,), 3.0).double())


def test_features_of_half_the_digits_are_summed_with_all_of_them() -> None:
    x, y = pairs(50)
    model = readout(dtype=torch.float32)
    model.gather(x.float(), y.float())
    assert model.gram.dtype == model.cross.dtype == torch.float64
    double = readout()
    double.gather(x.float(), y.float())
    assert torch.equal(model.gram, double.gram)
    model.float()
    model.to(torch.bfloat16)
    assert torch.equal(model.gram, double.gram)
    assert model.weight.dtype == torch.bfloat16


def test_what_is_gathered_is_in_no_state_dict_and_goes_where_the_module_goes() -> None:
    model = readout()
    model.gather(*pairs(5))
    assert list(model.state_dict()) == ["weight", "bias", "fitted"]
    twin = copy.deepcopy(model)
    assert torch.equal(twin.gram, model.gram)
    model.to("meta")
    assert model.gram.is_meta and model.weight.is_meta
    twin.clear()
    assert twin.count is None


def test_solving_makes_it_fitted_and_that_is_loaded_with_the_weights() -> None:
    model = readout()
    assert not model.fitted
    solved(model, *pairs(20), 1e-6)
    assert model.fitted
    other = readout()
    other.load_state_dict(model.state_dict())
    assert other.fitted
    weights = {name: value for name, value in model.state_dict().items() if name != "fitted"}
    other.load_state_dict(weights)
    assert not other.fitted


def test_it_learns_by_gradients_as_torch_s_own_layer_does() -> None:
    model = readout()
    x, y = pairs(20)
    linear = torch.nn.Linear(D, O).double()
    linear.load_state_dict({"weight": model.weight, "bias": model.bias})
    for layer in (model, linear):
        (layer(x) - y).square().mean().backward()
    assert torch.equal(model(x), linear(x))
    assert model.weight.grad is not None and linear.weight.grad is not None
    assert torch.equal(model.weight.grad, linear.weight.grad)


@pytest.mark.parametrize("alpha", [-1e-9, float("nan"), float("inf")])
def test_a_penalty_that_is_none_is_refused(alpha: float) -> None:
    model = readout()
    model.gather(*pairs(5))
    with pytest.raises(ConfigError, match=rf"^alpha is {alpha!r}; wanted a finite number of 0 or more$"):
        model.solve(alpha)


def test_solving_for_nothing_is_refused() -> None:
    with pytest.raises(
        RuntimeError, match=r"nothing to solve; call gather\(features, targets\) before solve\(alpha\)$"
    ):
        readout().solve(1e-6)


def test_numbers_that_are_not_finite_are_refused_and_change_no_weights() -> None:
    model = readout()
    x, y = pairs(5)
    y[2, 1] = float("nan")
    before = model.weight.clone()
    model.gather(x, y)
    with pytest.raises(ValueError, match=r"^the gathered features or targets hold NaN or infinity; wanted finite"):
        model.solve(1e-6)
    assert torch.equal(model.weight, before) and not model.fitted


@pytest.mark.parametrize(("x", "y"), [((5, D + 1), (5, O)), ((5, D), (4, O)), ((5, D), (5,)), ((), ())])
def test_pairs_that_are_none_are_refused(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^features are .* and targets .*; wanted \(..., 7\) and, .*\(..., 3\)$"):
        readout().gather(torch.zeros(x), torch.zeros(y))
