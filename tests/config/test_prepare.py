import sys
from pathlib import Path

import pytest

from runner.config.prepare import prepare
from runner.config.sweeping import prepare_sweep
from runner.config.words import Words
from runner.errors import ConfigError
from runner.trust_memory import TrustMemory


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_a_good_launch_claims_a_directory_of_its_own() -> None:
    first, second = prepare(["seed=3"]), prepare(["seed=3"])
    assert first.run.path != second.run.path
    assert first.run.path.parent.parent == Path("outputs").absolute() and first.run.path.is_dir()
    assert first.run.name == "digits_mlp" and first.run.identity == second.run.identity
    assert first.words == Words() and first.resumption is None and first.notes == ()
    assert str(first.node.hydra.run.dir) == str(first.run.path) or first.run.path.samefile(
        str(first.node.hydra.run.dir)
    )


@pytest.mark.parametrize(
    "argv",
    [
        ["trainer.epoch=3"],
        ["+trainer.epoch=3"],
        ["optimizer=nope"],
        ["model._target_=nope.Net"],
        ["trainer.max_epochs=0"],
        ["seed=0,1"],
        ["hydra.mode=MULTIRUN"],
        ["+resume=nope"],
        ["+resume="],
    ],
)
def test_a_refused_launch_leaves_nothing_behind(argv: list[str]) -> None:
    with pytest.raises((ConfigError, RuntimeError)):
        prepare(argv)
    assert list(Path.cwd().iterdir()) == []


def test_a_refused_sweep_leaves_nothing_behind() -> None:
    with pytest.raises(ConfigError):
        prepare_sweep(["-m", "seed=0,x"])
    with pytest.raises(ConfigError, match=r"[+]resume=auto goes on with one run, and -m begins several"):
        prepare_sweep(["-m", "+resume=auto"])
    assert list(Path.cwd().iterdir()) == []
    sweep = prepare_sweep(["seed=0,1", "-m", "+trust=a"])
    assert (sweep.words, sweep.line) == (Words(trust=("a",)), ("-m", "hydra.output_subdir=null", "seed=0,1"))
    assert sweep.fork is None


def test_a_taken_name_gets_a_suffix_and_a_typed_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    config = tmp_path / "conf" / "one_place.yaml"
    config.write_text("defaults: [config, _self_]\nhydra: {run: {dir: fixed}}\nname: '${hydra:runtime.output_dir}'\n")
    argv = [f"--config-dir={tmp_path / 'conf'}", "--config-name=one_place"]
    claimed = [prepare([*argv, "seed=null"]) for _ in range(3)]
    assert [one.run.path.name for one in claimed] == ["fixed", "fixed-2", "fixed-3"]
    assert [one.config.resolved["name"] for one in claimed] == [str(one.run.path) for one in claimed]
    assert all(one.config.resolved["seed"] == one.settings.seed for one in claimed)
    assert claimed[2].config.overrides == ("seed=null",)
    prepare(["hydra.run.dir=typed"])
    with pytest.raises(ConfigError, match=r"typed: holds a run already; go on with it by [+]resume="):
        prepare(["hydra.run.dir=typed"])


def test_a_place_where_nothing_can_be_made_is_named() -> None:
    Path("blocked").write_text("")
    with pytest.raises(ConfigError, match=r"blocked/run: the run directory cannot be made .*; type hydra.run.dir="):
        prepare(["hydra.run.dir=blocked/run"])


def test_a_target_that_was_typed_or_stands_in_the_users_conf_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("typednets", "confnets"):
        Path(f"{name}.py").write_text("import torch\nclass Net(torch.nn.Module): ...\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("conf/model").mkdir(parents=True)
    Path("conf/model/own.yaml").write_text("_target_: confnets.Net\n")
    memory = TrustMemory(tmp_path / "trusted.json")
    prepare(["model=own"], memory=memory)
    prepared = prepare(["model._target_=typednets.Net"], memory=memory)
    assert prepared.notes and prepared.notes[0].startswith(
        "model: typednets.Net is built without the option's in_features, hidden, "
    )
    assert memory.remembered("confnets") == {Path("confnets.py").absolute()}
    assert memory.remembered("typednets") == {Path("typednets.py").absolute()}
    assert memory.remembered("torch.optim") == frozenset()
