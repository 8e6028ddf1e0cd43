"""Composition, and what Hydra's own errors become."""

import os
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from runner.config.composing import Composition, compose
from runner.config.places import conf_directory
from runner.config.sources import Sources
from runner.errors import ConfigError


def composed(*overrides: str, sources: Sources | None = None) -> Composition:
    return compose(overrides, sources=sources or Sources(), draw_seed=lambda: 4711)


def problems(*overrides: str) -> list[str]:
    try:
        return list(composed(*overrides).problems)
    except ConfigError as error:
        return list(error.problems)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("trainer.epoch=5", ["trainer.epoch=5: no key 'trainer.epoch'; did you mean 'trainer.max_epochs'?"]),
        ("lr=3", ["lr=3: no key 'lr'; did you mean 'optimizer.lr'?"]),
        ("seeed=3", ["seeed=3: no key 'seeed'; did you mean 'seed'?"]),
        ("seed.x=3", ["seed.x=3: seed is 0, which holds no 'x'"]),
        ("monitor=null monitor.metric=x", ["monitor.metric=x: monitor is null, which holds no 'metric'"]),
        ("optimizer=adm", ["optimizer=adm: optimizer has no such option; did you mean 'adamw'?"]),
        ("model=nope", ["model=nope: model has no such option; there is classic_esn, cnn, gpt, mlp, ott_esn"]),
        ("hydra/launcher=foo", ["hydra/launcher=foo: hydra/launcher has no such option; there is basic"]),
        ("optimzer=adamw", ["optimzer=adamw: no group 'optimzer'; did you mean 'optimizer=adamw'?"]),
        ("hydra.run.dri=x", ["hydra.run.dri=x: no key 'hydra.run.dri'; did you mean 'hydra.run.dir'?"]),
        ("+seed=3", ["+seed=3: seed is there already; type it without +"]),
        ("~modell", ["~modell: nothing to leave out; did you mean '~model'?"]),
        ("~trainer.foo", ["~trainer.foo: nothing to leave out; did you mean '~trainer'?"]),
        ("experiment=null", ["experiment=null: a group has no option null; type ~experiment to leave it out"]),
        ("trainer=[1,2]", ["trainer=[1,2]: trainer is a group; type trainer=OPTION, or trainer.KEY=VALUE"]),
        ("model=???", ["model: no option chosen; type model=OPTION, one of classic_esn, cnn, gpt, mlp, ott_esn"]),
        ("trainer=3", ["trainer=3: trainer is a group; type trainer=OPTION, or trainer.KEY=VALUE"]),
        ("optimizer", ["optimizer: no override; type KEY=VALUE"]),
        ("", ["'': no override; type KEY=VALUE"]),
        ("=5", ["=5: no key; type KEY=VALUE"]),
        (
            "hydra.run.dir=${nope}",
            ["hydra.run.dir: Interpolation key 'nope' not found; type hydra.run.dir=VALUE"],
        ),
        (
            "optimizer.lr=1,2",
            [
                "optimizer.lr=1,2: several values; add -m to sweep over them, "
                "or type [a,b] for a list, or quote the value"
            ],
        ),
        (
            "optimizer.lr=[1",
            [
                "optimizer.lr=[1: cannot be read (no viable alternative at input '[1'); "
                "quote what is special: 'key=\"a, b\"'"
            ],
        ),
        (
            "checkpoint.name=epoch{epoch:02d}",
            [
                "checkpoint.name=epoch{epoch:02d}: cannot be read (mismatched input '{' expecting <EOF>); "
                "quote what is special: 'checkpoint.name=\"epoch{epoch:02d}\"'"
            ],
        ),
        (
            "data.batch_sizes=3",
            [
                "data.batch_sizes=3: no key 'data.batch_sizes'; did you mean 'data.batch_size'? "
                "(+data.batch_sizes=3 hands it to runner.data.digits.digits all the same)"
            ],
        ),
        (
            "name=${nope}",
            [
                "name: '${nope}' cannot be resolved (Interpolation key 'nope' not found); "
                "set what it reads, or type name=VALUE"
            ],
        ),
        (
            "optimizer=adm trainer.epoch=5 seeed=3",
            [
                "optimizer=adm: optimizer has no such option; did you mean 'adamw'?",
                "trainer.epoch=5: no key 'trainer.epoch'; did you mean 'trainer.max_epochs'?",
                "seeed=3: no key 'seeed'; did you mean 'seed'?",
            ],
        ),
    ],
)
def test_every_mistake_is_told_with_the_nearest_name(overrides: str, expected: list[str]) -> None:
    assert problems(*overrides.split(" ")) == expected


def test_a_good_composition_has_no_problems_and_leaves_nothing_of_hydra_behind() -> None:
    before = HydraConfig.instance().cfg
    composition = composed("optimizer.lr=1e-3", "debug=fast", "hydra.run.dir=x/${now:%Y}")
    config = composition.config
    assert composition.problems == () and composition.whole
    assert config.overrides == ("optimizer.lr=1e-3", "debug=fast")
    assert config.choices["optimizer"] == "adamw" and "hydra/launcher" not in config.choices
    assert config.resolved["optimizer"]["lr"] == 1e-3 and "hydra" not in config.composed
    assert type(config.resolved) is dict and type(config.resolved["optimizer"]["betas"]) is list
    assert HydraConfig.instance().cfg is before
    assert not GlobalHydra.instance().is_initialized()


def test_a_seed_of_null_is_drawn_and_stands_in_both_configs() -> None:
    config = composed("seed=null", "+data.seed=${seed}").config
    assert config.composed["seed"] == config.resolved["seed"] == config.resolved["data"]["seed"] == 4711
    assert config.composed["data"]["seed"] == "${seed}"


def test_recorded_overrides_may_be_others_than_those_composed() -> None:
    composition = compose(["seed=1"], sources=Sources(), draw_seed=lambda: 0, recorded=["seed=2"])
    assert composition.config.overrides == ("seed=2",)


def test_the_run_directory_is_what_hydra_says_and_interpolations_see_it() -> None:
    composition = composed("hydra.run.dir=/tmp/x", "name='${hydra:runtime.output_dir}'")
    assert composition.run_dir == Path("/tmp/x") and composition.config.resolved["name"] == "/tmp/x"


def test_hydra_never_writes_its_own_files_whatever_the_primary_config_says(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    composition = composed(sources=Sources(config_path=str(tmp_path)))
    assert composition.node.hydra.output_subdir is None


def test_the_users_own_conf_shadows_ours_and_our_groups_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "conf"
    (own / "optimizer").mkdir(parents=True)
    (own / "optimizer" / "sgd.yaml").write_text("_target_: torch.optim.SGD\nlr: 7\n")
    (own / "optimizer" / "mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 8\n")
    monkeypatch.chdir(tmp_path)
    assert composed("optimizer=sgd").config.resolved["optimizer"]["lr"] == 7
    assert composed("optimizer=mine").config.resolved["optimizer"]["lr"] == 8
    assert composed("optimizer=adamw").config.resolved["optimizer"]["_target_"] == "torch.optim.AdamW"
    monkeypatch.chdir(os.path.sep)
    assert problems("optimizer=mine") == ["optimizer=mine: optimizer has no such option; there is adamw, ridge, sgd"]


def test_config_dir_adds_options(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "more.yaml").write_text("_target_: torch.optim.SGD\nlr: 9\n")
    sources = Sources.of_flags([f"--config-dir={tmp_path}"])
    assert composed("optimizer=more", sources=sources).config.resolved["optimizer"]["lr"] == 9
    with pytest.raises(ConfigError, match="no directory of configs; --config-dir wants one"):
        composed(sources=Sources(config_dir=str(tmp_path / "nope")))


def test_a_defaults_list_that_names_what_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("defaults: [{model: mpl}]\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mlp.yaml").write_text("{}\n")
    with pytest.raises(ConfigError) as caught:
        composed(sources=Sources(config_path=str(tmp_path)))
    assert caught.value.problems == (
        "config: its defaults list names model/mpl, which is not there; did you mean 'mlp'?",
    )


def test_unreadable_yaml_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: [1\nb: 2\n")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        composed(sources=Sources(config_path=str(tmp_path)))


def test_an_unknown_primary_config_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        composed(sources=Sources(config_name="confg"))
    assert caught.value.problems == ("confg: no such config; did you mean 'config'?",)


def test_conf_is_found_from_the_package() -> None:
    assert (conf_directory() / "config.yaml").is_file()


def test_a_primary_config_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"^nope: no such config; there is config$"):
        composed(sources=Sources(config_name="nope"))
