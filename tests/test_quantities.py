"""Sizes and lengths of time, as people read them."""

import pytest

from runner.quantities import duration, size


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
