"""Sizes, lengths of time and scores, as people read them."""

import math

import pytest

from runner.quantities import duration, score, size


@pytest.mark.parametrize(
    ("bytes_", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.2 kB"),
        (99_400, "99 kB"),
        (99_600, "100 kB"),
        (999_400, "999 kB"),
        (999_600, "1 MB"),
        (1_250_000_000, "1.2 GB"),
        (143e12, "143 TB"),
    ],
)
def test_sizes(bytes_: float, text: str) -> None:
    assert size(bytes_) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (187, "3:07 min"), (7500, "2:05:00 h")]
)
def test_lengths_of_time_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.94351, "0.9435"),
        (12.0, "12.0000"),
        (0.0, "0.0000"),
        (-0.5, "-0.5000"),
        (0.0010, "0.0010"),
        (0.00099, "0.00099"),
        (2.847e-11, "2.85e-11"),
        (-1.5e-6, "-1.5e-06"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_a_score_shows_some_digits_of_whatever_is_not_zero(value: float, text: str) -> None:
    assert score(value) == text
