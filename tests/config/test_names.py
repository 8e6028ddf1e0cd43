import pytest

from runner.config.names import did_you_mean, listed, nearest

KEYS = ["max_epochs", "max_steps", "lr", "weight_decay"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("epoch", "max_epochs"),
        ("max_epoch", "max_epochs"),
        ("LR", "lr"),
        ("weight-decay", "weight_decay"),
        ("zzz", None),
    ],
)
def test_the_nearest_name_is_found(name: str, near: str | None) -> None:
    assert nearest(name, KEYS) == near


def test_the_message_asks_or_lists() -> None:
    assert did_you_mean("epoch", KEYS, prefix="trainer.") == "; did you mean 'trainer.max_epochs'?"
    assert did_you_mean("zzz", KEYS) == "; there is lr, max_epochs, max_steps, weight_decay"
    assert did_you_mean("zzz", []) == ""


def test_a_long_list_is_cut() -> None:
    assert listed(map(str, range(20)), most=3) == "0, 1, 2, ..."
