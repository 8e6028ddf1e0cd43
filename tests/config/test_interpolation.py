from typing import Any

import pytest

from runner.config.interpolation import Path, derived, dotted, leaves, references, replaced


def test_leaves_come_with_their_paths() -> None:
    tree = {"a": {"b": [1, {"c": 2}]}, "empty": {}, "none": None}
    assert list(leaves(tree)) == [(("a", "b", 0), 1), (("a", "b", 1, "c"), 2), (("empty",), {}), (("none",), None)]
    assert dotted(("a", "b", 1, "c")) == "a.b[1].c"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("${a.b}", [("a", "b")]),
        ("x/${a}/${ b.c }", [("a",), ("b", "c")]),
        ("${.sibling}", [("model", "sibling")]),
        ("${..top.x}", [("top", "x")]),
        ("${a.list[0]}", [("a", "list", 0)]),
        ("${oc.select:a.b,3}", [("a", "b")]),
        ("${oc.env:HOME}", []),
        ("plain", []),
    ],
)
def test_the_nodes_that_an_interpolation_reads_are_found(text: str, found: list[Path]) -> None:
    assert references(text, ("model", "size")) == found


def test_what_is_derived_is_followed_through_other_nodes() -> None:
    config: dict[str, Any] = {
        "root": "${oc.env:ROOT}",
        "paths": {"data": "${root}/data", "other": "/x"},
        "data": {"path": "${paths.data}", "rest": "${paths.other}"},
        "copy": "${paths}",
        "loop": "${loop}",
    }
    found = derived(config, lambda text: "oc.env" in text)
    assert set(found) == {("root",), ("paths", "data"), ("data", "path"), ("copy",)}
    assert found["data", "path"] == "${paths.data}"


def test_values_are_replaced_in_a_copy() -> None:
    tree = {"a": [1, {"b": 2}], "c": {"d": 3}}
    assert replaced(tree, {("a", 1, "b"): 9, ("c",): 0}) == {"a": [1, {"b": 9}], "c": 0}
    assert tree == {"a": [1, {"b": 2}], "c": {"d": 3}}
