"""Saved overrides under new ones: pure functions, and files that mean harm."""

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from runner.config.replay import as_text, combined, repeatable


def parsed(*overrides: str) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))


@pytest.mark.parametrize(
    "hostile",
    [
        "hydra.run.dir=/etc",
        "++hydra.callbacks.x._target_=os.system",
        "++hydra={callbacks:{x:{_target_:os.system}}}",
        "hydra={}",
        "hydra/launcher=evil",
        "+hydra/callbacks=evil",
        "+evil@hydra.callbacks.x=y",
        "+group@_global_.hydra.callbacks=y",
        "+group@hydra=y",
        "~hydra.run",
        "'hydra'.run.dir=x",
    ],
)
def test_nothing_saved_reaches_hydras_own_configuration(hostile: str) -> None:
    kept, notes = repeatable([hostile, "seed=3"])
    assert [one.input_line for one in kept] == ["seed=3"]
    assert len(notes) == 1 and repr(hostile) in notes[0] and notes[0].endswith("left out")


@pytest.mark.parametrize(
    "odd", ["+resume=latest", "+trust=[os]", "+allow=model", "-m", "--multirun", "seed=1,2", "[", ""]
)
def test_nothing_saved_is_a_launch_word_a_flag_or_a_sweep(odd: str) -> None:
    kept, notes = repeatable([odd])
    assert kept == [] and len(notes) == 1


def test_a_redacted_value_is_repeated_as_such() -> None:
    kept, notes = repeatable(["+data.token=<redacted>", "+a={password:<redacted>,n:3}"])
    assert notes == []
    assert [one.value() for one in kept] == ["<redacted>", {"password": "<redacted>", "n": 3}]


EXISTS = {"optimizer.lr", "optimizer.betas", "model.hidden", "seed"}
GROUPS = {"optimizer", "scheduler", "experiment", "extra"}


@pytest.mark.parametrize(
    ("saved", "new", "expected"),
    [
        ("seed=1", "", "seed=1"),
        ("seed=1 optimizer.lr=1", "seed=2", "optimizer.lr=1 seed=2"),
        ("seed=1", "seed=2 seed=3", "seed=3"),
        ("+model.x=1", "model.x=2", "++model.x=2"),
        ("++model.x=1", "+model.x=2", "++model.x=2"),
        ("seed=1", "+seed=2", "++seed=2"),
        ("", "+optimizer.lr=2", "++optimizer.lr=2"),
        ("", "+model.x=2", "+model.x=2"),
        ("", "++model.x=2", "++model.x=2"),
        ("~model.hidden", "model.hidden=[1]", "model.hidden=[1]"),
        ("~model.hidden +model.hidden=[4]", "model.hidden=[5]", "++model.hidden=[5]"),
        ("~model.hidden", "model.hidden={a:1}", "model.hidden={a:1}"),
        ("model.hidden=[2]", "~model.hidden", "model.hidden=[2] ~model.hidden"),
        ("model.hidden=[2] ~model.hidden", "model.hidden=[7]", "model.hidden=[7]"),
        ("++a={b:1}", "++a={c:2}", "++a={b:1} ++a={c:2}"),
        ("optimizer.lr=1 ++optimizer={lr:3}", "optimizer.lr=2", "++optimizer={lr:3} optimizer.lr=2"),
        ("optimizer=adamw optimizer.lr=1", "optimizer=adamw", "optimizer.lr=1 optimizer=adamw"),
        ("~experiment seed=1", "experiment=other", "seed=1 experiment=other"),
        ("+extra=a extra.x=1", "extra=b", "extra.x=1 +extra=b"),
        ("scheduler=step seed=1", "~scheduler", "seed=1 ~scheduler"),
    ],
)
def test_new_overrides_come_last_and_take_the_place_of_saved_ones(saved: str, new: str, expected: str) -> None:
    both = combined(
        parsed(*saved.split()),
        parsed(*new.split()),
        switched={},
        is_group=GROUPS.__contains__,
        exists=EXISTS.__contains__,
    )
    assert " ".join(both.overrides) == expected


def test_what_was_typed_for_another_option_is_left_out_and_that_is_said() -> None:
    both = combined(
        parsed("optimizer.lr=1", "optimizer.betas=[0,1]", "optimizers=3"),
        parsed("optimizer.lr=2", "optimizer=sgd"),
        switched={"optimizer": "optimizer=sgd", "model": "experiment=other"},
        is_group=GROUPS.__contains__,
        exists=EXISTS.__contains__,
    )
    assert both.repeated == ("optimizers=3",) and both.added == ("optimizer.lr=2", "optimizer=sgd")
    assert both.notes == ("optimizer=sgd: the earlier overrides optimizer.lr=1 optimizer.betas=[0,1] are left out",)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        1e-05,
        float("inf"),
        "",
        "1",
        "null",
        "a b",
        "it's",
        "back\\slash\\",
        "back\\'slash",
        "${a.b}",
        "é,[]{}:=",
        [1, "x", [None]],
        {"a": "b", "c_d": {"e": [1.5]}},
    ],
)
def test_every_value_can_be_written_as_an_override(value: Any) -> None:
    assert parsed(f"++x={as_text(value)}")[0].value() == value
