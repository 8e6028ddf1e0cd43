"""What a config says about the weights to begin with."""

from pathlib import Path
from typing import Any

import pytest
import torch

from runner.config.check import check
from runner.config.composing import Composition, compose
from runner.config.initial import Init, not_there
from runner.config.sources import Sources
from runner.errors import ConfigError


def composed(*overrides: str) -> Composition:
    return compose(overrides, sources=Sources(), draw_seed=lambda: 1)


def init(**values: Any) -> Init:
    return Init(**{"strict": True, "rename": None, "include": None, "exclude": None, "weights": "raw", **values})


def test_nothing_is_begun_with_by_default() -> None:
    settings = check(composed().config)
    assert settings.initial is None and settings.init == init() and settings.init.rename == {}


def test_a_relative_path_is_one_of_the_directory_of_the_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = composed("init_from=a/b@best", "init.rename={x.:y.,'a.*':'b.*'}".replace("'", "")).config
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    found = check(config).initial
    assert found is not None and (found.path, found.which, found.text) == (tmp_path / "a" / "b", "best", "a/b@best")
    assert found.init.rename == {"x.": "y.", "a.*": "b.*"}


def test_one_pattern_is_a_list_of_one() -> None:
    assert init(include="a.*", exclude=["b"]).include == ["a.*"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rename": ["a"]}, r"init\.rename is \['a'\]; wanted \{encoder\.:backbone\.\} or its like, or null"),
        ({"rename": {"a": 1}}, r"init\.rename has 'a': 1; wanted names on both sides"),
        ({"rename": {0.0: "a"}}, r"init\.rename has 0\.0: 'a'; .* write 0\.\*:x\.\* for what begins with 0\."),
        ({"rename": {"": "a"}}, "init.rename has a rule for the empty name"),
        ({"include": 1}, r"init\.include is 1; wanted patterns, such as \[head\.\*\], or null"),
        ({"exclude": [""]}, r"init\.exclude is \[''\]; wanted patterns"),
        ({"weights": "ema"}, "init.weights is 'ema'; wanted raw or averaged"),
    ],
)
def test_what_makes_no_sense_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        init(**values)


def test_what_is_not_there_is_seen_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2)}, "a.pt")
    Path("b.pt").touch()
    assert not_there(composed().config) == not_there(composed("init_from=a.pt").config) == []
    assert "c.pt: is not there; wanted a file of torch.save" in not_there(composed("init_from=c.pt").config)[0]
    assert "b.pt: holds no weights (it is empty)" in not_there(composed("init_from=b.pt").config)[0]


def test_a_config_without_the_section_is_good_until_something_is_to_be_loaded() -> None:
    config = composed().config
    for tree in (config.composed, config.resolved):
        del tree["init"], tree["init_from"]
    assert check(config).init is None
    config.resolved["init_from"] = "a.pt"
    with pytest.raises(ConfigError, match="init is null; wanted a section with strict, rename, include, exclude, wei"):
        check(config)
