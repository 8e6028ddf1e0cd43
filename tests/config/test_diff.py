import pytest

from runner.config.diff import NOT_THERE, Difference, differences, same


@pytest.mark.parametrize(
    ("saved", "now", "expected"),
    [
        ({"seed": 1}, {"seed": 1}, []),
        ({"seed": 1}, {"seed": 2}, [Difference("seed", 1, 2, "course")]),
        ({"model": {"n": 1}}, {"model": {"n": 2}}, [Difference("model.n", 1, 2, "structural")]),
        (
            {"optimizer": {"lr": 1.0, "m": 0}},
            {"optimizer": {"lr": 0.5, "b": []}},
            [
                Difference("optimizer.lr", 1.0, 0.5, "course"),
                Difference("optimizer.m", 0, NOT_THERE, "course"),
                Difference("optimizer.b", NOT_THERE, [], "course"),
            ],
        ),
        (
            {"trainer": {"max_epochs": 1}},
            {"trainer": {"max_epochs": 2}},
            [Difference("trainer.max_epochs", 1, 2, "harmless")],
        ),
        (
            {"trainer": {"accumulate": 1}},
            {"trainer": {"accumulate": 2}},
            [Difference("trainer.accumulate", 1, 2, "course")],
        ),
        ({"runtime": {"workers": 1}}, {"runtime": {"workers": 2}}, [Difference("runtime.workers", 1, 2, "harmless")]),
        ({"name": "a"}, {}, [Difference("name", "a", NOT_THERE, "harmless")]),
        ({"data": {"l": [1, 2]}}, {"data": {"l": [1]}}, [Difference("data.l", [1, 2], [1], "course")]),
    ],
)
def test_differences_are_found_and_classed(saved: dict, now: dict, expected: list[Difference]) -> None:  # type: ignore[type-arg]
    assert differences(saved, now) == expected


def test_numbers_of_other_types_differ_and_nan_equals_itself() -> None:
    assert not same(1, 1.0) and not same(1, True) and not same([1], [1.0]) and not same({"a": 1}, {"b": 1})
    assert same(float("nan"), float("nan")) and same({"a": [None]}, {"a": [None]})
