"""Where conf/ has drifted."""

from typing import Any

import pytest

from runner.config.drift import pins


@pytest.mark.parametrize(
    ("saved", "today", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["++a=1"]),
        ({"a": 1}, {"a": 1.0}, ["++a=1"]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["++a.c=2"]),
        ({"a": {"b": 1}}, {"a": {}}, ["++a.b=1"]),
        ({"a": {"b": 1}}, {"a": 3}, ["++a={b:1}"]),
        ({"a": {}}, {"a": {"b": 1}}, ["~a.b"]),
        ({"a": {}}, {"a": {"kept": 1}}, []),
        ({"a": [1, 2]}, {"a": [1]}, ["++a=[1,2]"]),
        ({"a": "${b}"}, {"a": 3}, ["++a='${b}'"]),
        ({"a": "<redacted>"}, {"a": 3}, []),
        ({"m": {"_target_": "x.Y"}}, {"m": {"_target_": "x.Z"}}, ["++m._target_='x.Y'"]),
    ],
)
def test_where_conf_has_drifted_the_saved_value_is_pinned(
    saved: dict[str, Any], today: dict[str, Any], expected: list[str]
) -> None:
    found = pins(saved, today, keep_new=lambda path: path[-1] == "kept")
    assert [pin.override for pin in found] == expected
