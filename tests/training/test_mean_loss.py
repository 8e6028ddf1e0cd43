import math

import pytest
import torch

from runner.training.mean_loss import MeanLoss


@pytest.mark.parametrize("counts", [(4, 2), (torch.tensor(4), torch.tensor(2))])
def test_the_mean_is_over_samples_not_over_batches(counts: tuple[int, int]) -> None:
    mean = MeanLoss(torch.device("cpu"))
    mean.add(1.0, counts[0])
    mean.add(4.0, counts[1])
    assert mean.value() == 2.0


def test_it_is_nan_before_the_first_sample() -> None:
    assert math.isnan(MeanLoss(torch.device("cpu")).value())


def test_it_is_restored_and_cleared() -> None:
    mean, again = MeanLoss(torch.device("cpu")), MeanLoss(torch.device("cpu"))
    mean.add(0.1, 3)
    again.add(9.0, 9)
    again.load_state_dict(mean.state_dict())
    assert again.state_dict() == mean.state_dict()
    again.clear()
    assert math.isnan(again.value())


def test_adding_on_an_accelerator_does_not_wait_for_it() -> None:
    # It has no values, so that waiting for one would raise.
    device = torch.device("meta")
    mean = MeanLoss(device)
    mean.add(torch.ones((), device=device), 4)
    assert isinstance(mean.total, torch.Tensor)
    assert mean.total.dtype == torch.float64
