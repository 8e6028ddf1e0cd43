"""The Lorenz system of 1963, generated: a chaotic sequence to forecast.

Only sums, products and square roots of Python's floats are taken, in a fixed order, so the numbers are the same bit
for bit on every machine.
"""

import math
import random

import torch
import xxhash
from torch import Tensor

from runner.data.data import Data
from runner.data.tensors import Tensors
from runner.errors import ConfigError

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0
"""Lorenz's own parameters (Deterministic Nonperiodic Flow, 1963), with which the system is chaotic."""

LYAPUNOV_EXPONENT = 0.9056
"""The largest one, per unit of time: two trajectories part by a factor of e in 1 / 0.9056 (Sprott, 2003)."""

SETTLING_TIME = 40.0
"""Units of time that are left out at the beginning, until the trajectory is on the attractor."""

Point = tuple[float, float, float]


def lorenz(*, seed: int, time_step: float, washout: int, length: int, train: int, validation: int, test: int) -> Data:
    """Windows of one trajectory: x: (B, washout + length, 3) float32, and y: the point that follows each, as many.

    The first `train` windows are the training split, the next ones `validation` and `test`. Each begins where the one
    before ends, with the `washout` points before it in front: they bring a model that remembers up to date and are not
    to be scored. So every point is scored once. The coordinates have mean 0 and standard deviation 1 over the training
    split. `seed` chooses where the trajectory starts. Raises ConfigError if a number is out of range.
    """
    sizes = {"length": (length, 1), "train": (train, 1), "washout": (washout, 0)}
    sizes |= {"validation": (validation, 0), "test": (test, 0), "seed": (seed, 0)}
    problems = [
        f"data.{name} is {size}; wanted at least {least}" for name, (size, least) in sizes.items() if size < least
    ]
    if not 0.0 < time_step <= 0.05:
        problems.append(f"data.time_step is {time_step}; wanted more than 0, and at most 0.05")
    if problems:
        raise ConfigError(problems)
    count = train + validation + test
    points = trajectory(seed=seed, time_step=time_step, num_points=washout + count * length + 1)
    series = standardised(points, by=washout + train * length + 1)
    # (windows, points, coordinates); a view, which costs no memory.
    windows = series.float().unfold(0, washout + length + 1, length).transpose(1, 2)
    splits = windows.tensor_split([train, train + validation])
    parts = [Tensors(split[:, :-1], split[:, 1:]) if len(split) else None for split in splits]
    return Data(
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        fingerprint=xxhash.xxh3_128_hexdigest(series.numpy().tobytes()),
    )


def trajectory(*, seed: int, time_step: float, num_points: int) -> Tensor:
    """Points (points, 3) float64 on the attractor, `time_step` apart, by the classic Runge-Kutta method of order 4."""
    draw = random.Random(seed).uniform
    point: Point = (draw(-10.0, 10.0), draw(-10.0, 10.0), draw(15.0, 35.0))
    for _ in range(math.ceil(SETTLING_TIME / time_step)):
        point = _next(point, time_step)
    points = []
    for _ in range(num_points):
        points.append(point)
        point = _next(point, time_step)
    return torch.tensor(points, dtype=torch.float64)


def standardised(points: Tensor, *, by: int) -> Tensor:
    """`points` (points, 3), each coordinate moved and scaled: its first `by` have mean 0 and deviation 1."""
    columns = []
    for values in points.T.tolist():
        mean = math.fsum(values[:by]) / by
        deviation = math.sqrt(math.fsum((value - mean) * (value - mean) for value in values[:by]) / by)
        columns.append([(value - mean) / deviation for value in values])
    return torch.tensor(columns, dtype=points.dtype).T.contiguous()


def _next(point: Point, h: float) -> Point:
    """The point one step of size `h` later."""
    k1 = _velocity(point)
    k2 = _velocity(_moved(point, k1, h / 2))
    k3 = _velocity(_moved(point, k2, h / 2))
    k4 = _velocity(_moved(point, k3, h))
    x, y, z = (at + h / 6 * (a + 2 * b + 2 * c + d) for at, a, b, c, d in zip(point, k1, k2, k3, k4, strict=True))
    return x, y, z


def _velocity(point: Point) -> Point:
    x, y, z = point
    return SIGMA * (y - x), x * (RHO - z) - y, x * y - BETA * z


def _moved(point: Point, velocity: Point, h: float) -> Point:
    return point[0] + h * velocity[0], point[1] + h * velocity[1], point[2] + h * velocity[2]
