"""How numbers, ages and curves are written."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from runner.cli import tables

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (86400 * 400, "400 d")]
)
def test_ages(seconds: float, text: str) -> None:
    assert tables.age(NOON - timedelta(seconds=seconds), NOON) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.123456, "0.1235"), (1e-9, "1e-09"), (math.nan, "nan"), (-math.inf, "-inf")]
)
def test_scores(value: float | None, text: str) -> None:
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([math.nan], ""),
        ([1.0], "▁"),
        ([1.0, 1.0], "▁▁"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([0, math.nan, 7], "▁ █"),
        ([0, 0, 7, 7] * 4, "▁█▁█▁█▁█"),
    ],
)
def test_curves(values: list[float], bars: str) -> None:
    assert tables.curve(values, 8) == bars
