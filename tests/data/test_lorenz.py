import pytest
import torch
from torch import Tensor

from runner.data.lorenz import lorenz, standardised, trajectory
from runner.errors import ConfigError

SMALL = {"seed": 0, "time_step": 0.02, "washout": 5, "length": 10, "train": 4, "validation": 2, "test": 1}


def test_each_window_goes_on_where_the_one_before_ends_and_targets_are_the_points_that_follow() -> None:
    data = lorenz(**SMALL)
    windows = [split.__getitems__(range(len(split))) for split in (data.train, data.validation, data.test)]
    assert [len(x) for x, _ in windows] == [4, 2, 1]
    x, y = (torch.cat(parts) for parts in zip(*windows, strict=True))
    assert x.shape == y.shape == (7, 15, 3) and x.dtype == y.dtype == torch.float32
    points = standardised(trajectory(seed=0, time_step=0.02, num_points=76), by=46).float()
    for number in range(7):
        begin = 10 * number
        assert torch.equal(x[number], points[begin : begin + 15])
        assert torch.equal(y[number], points[begin + 1 : begin + 16])
    # What is scored is every point after the first washout, once.
    assert torch.equal(x[:, 5:].flatten(0, 1), points[5:75])
    one = data.train[3]
    assert torch.equal(one[0], x[3]) and torch.equal(one[1], y[3])


def test_the_numbers_are_the_same_on_every_machine() -> None:
    assert lorenz(**SMALL).fingerprint == "d16bcd5a8ce9b68b679d29658cbfc417"
    assert trajectory(seed=0, time_step=0.02, num_points=1).tolist() == [
        [10.670278482165823, 15.306649393070698, 23.258416999304337]
    ]


def test_another_seed_begins_elsewhere_on_the_same_attractor() -> None:
    one, other = (trajectory(seed=seed, time_step=0.02, num_points=5000) for seed in (0, 1))
    assert not torch.equal(one[0], other[0])
    assert lorenz(**SMALL).fingerprint != lorenz(**{**SMALL, "seed": 1}).fingerprint
    for points in (one, other):
        # Both wings are visited; no point leaves the box in which the attractor lies; the mean of z is known.
        assert points[:, 0].min() < -15 and points[:, 0].max() > 15
        assert points.abs().max(0).values.le(torch.tensor([21.0, 29.0, 51.0])).all() and points[:, 2].min() > 0
        assert abs(points[:, 2].mean() - 23.55) < 0.5


def test_each_point_is_a_step_of_runge_and_kutta_from_the_one_before() -> None:
    points = trajectory(seed=3, time_step=0.01, num_points=200)

    def velocity(at: Tensor) -> Tensor:
        x, y, z = at.unbind(1)
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], dim=1)

    at, h = points[:-1], 0.01
    k1 = velocity(at)
    k2 = velocity(at + h / 2 * k1)
    k3 = velocity(at + h / 2 * k2)
    k4 = velocity(at + h * k3)
    # Not equal: torch adds up in another order.
    assert torch.allclose(points[1:], at + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), rtol=0, atol=1e-12)


def test_coordinates_are_standardised_by_the_training_split_alone() -> None:
    points = trajectory(seed=0, time_step=0.02, num_points=300)
    scaled = standardised(points, by=100)
    assert scaled[:100].mean(0).abs().max() < 1e-14
    assert torch.allclose(scaled[:100].std(0, correction=0), torch.ones(3, dtype=torch.float64), atol=1e-14)
    assert torch.equal(scaled[:200], standardised(points[:200], by=100))


def test_validation_and_test_can_be_left_out() -> None:
    data = lorenz(**{**SMALL, "validation": 0, "test": 0, "washout": 0})
    assert (len(data.train), data.validation, data.test) == (4, None, None)


def test_numbers_out_of_range_are_refused_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        lorenz(seed=-1, time_step=0.1, washout=-1, length=0, train=0, validation=-1, test=-2)
    assert caught.value.problems == (
        "data.length is 0; wanted at least 1",
        "data.train is 0; wanted at least 1",
        "data.washout is -1; wanted at least 0",
        "data.validation is -1; wanted at least 0",
        "data.test is -2; wanted at least 0",
        "data.seed is -1; wanted at least 0",
        "data.time_step is 0.1; wanted more than 0, and at most 0.05",
    )
