"""The optimizer that solves for a readout."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from runner.errors import TrainingError
from runner.models.esn import ESNModel
from runner.training.ridge import Ridge
from runner.training.sequences import ReadoutFit


def network() -> ESNModel:
    return ESNModel(20, 3, 3, seed=0)


def test_steps_over_parts_of_the_data_end_where_one_fit_of_all_of_it_does() -> None:
    series = torch.randn(6, 31, 3, generator=torch.Generator().manual_seed(1)).cumsum(1) * 0.1
    x, y = series[:, :-1], series[:, 1:]
    whole = network().fit(x, y, washout=5, alpha=1e-3)
    model = network()
    optimizer, objective = Ridge(model, alpha=1e-3), ReadoutFit(washout=5, metrics={})
    losses = []
    for part in range(3):
        optimizer.zero_grad()
        rows = slice(2 * part, 2 * part + 2)
        loss, _ = objective.loss(model, (x[rows], y[rows]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # Not equal: the sums are added up in another order.
    assert torch.allclose(model.readout.weight, whole.readout.weight, rtol=0, atol=1e-6)
    assert torch.allclose(model.readout.bias, whole.readout.bias, rtol=0, atol=1e-6)
    assert model.fitted
    # Each loss is that before its step.
    assert losses[0] > 5 * losses[1]


def test_each_step_uses_the_penalty_that_its_group_has() -> None:
    model = network()
    optimizer = Ridge(model, alpha=0.0)
    features, targets = torch.randn(50, 23), torch.randn(50, 3)
    model.readout.gather(features, targets)
    optimizer.step()
    loose = model.readout.weight.norm()
    optimizer.param_groups[0]["alpha"] = 100.0
    optimizer.step()
    assert model.readout.weight.norm() < 0.7 * loose


def test_a_model_without_a_readout_is_refused() -> None:
    message = (
        r"^Linear has no readout that can be solved for; wanted a model such as runner.models.ott_esn, or another "
        r"optimizer, as optimizer=adamw$"
    )
    with pytest.raises(ValueError, match=message):
        Ridge(nn.Linear(2, 2), alpha=1.0)


def test_what_would_stay_untrained_is_named() -> None:
    model = ESNModel(5, 3, 3, seed=0, trainable=True)
    names = [name for name, _ in model.named_parameters() if "reservoir" in name]
    with pytest.raises(ValueError) as caught:
        Ridge(model, alpha=1.0)
    assert str(caught.value) == (
        f"only the readout is solved for, and {', '.join(names)} would stay untrained; freeze what is not the readout, "
        "or use another optimizer, as optimizer=adamw"
    )


@pytest.mark.parametrize("alpha", [-1.0, float("nan")])
def test_a_penalty_below_zero_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"^optimizer.alpha is {alpha}; wanted 0 or more$"):
        Ridge(network(), alpha=alpha)


def test_a_learning_rate_is_refused_as_there_is_none() -> None:
    optimizer = Ridge(network(), alpha=1.0)
    optimizer.param_groups[0]["lr"] = 0.5
    message = (
        r"^the learning rate is 0.5, and a readout that is solved for has none to change; use scheduler=constant with "
        r"scheduler.warmup_steps=0$"
    )
    with pytest.raises(TrainingError, match=message):
        optimizer.step()


def test_an_objective_that_gathers_nothing_is_noticed() -> None:
    message = r"^optimizer=ridge has nothing to solve for, as the objective gathers nothing; use objective=readout_fit$"
    with pytest.raises(TrainingError, match=message):
        Ridge(network(), alpha=1.0).step()


def test_a_share_of_the_data_is_not_taken_for_all_of_it() -> None:
    model = network()
    optimizer = Ridge(model, alpha=1.0)
    model.readout.gather(torch.randn(50, 23), torch.randn(50, 3))
    before = model.readout.weight.clone()
    # torch's own stand-in for another process.
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        message = r"^2 processes train together, and each would solve for the share of the data that it has gathered; "
        with pytest.raises(TrainingError, match=message):
            optimizer.step()
    finally:
        dist.destroy_process_group()
    assert torch.equal(model.readout.weight, before)
    optimizer.step()
