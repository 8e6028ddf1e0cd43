"""A launch rewritten: conf/ that has changed, groups that are switched, files that mean harm."""

import importlib
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.single import save_file
from runner.checkpoint.store import CheckpointStore
from runner.config.diff import NOT_THERE
from runner.config.digests import environment_digests
from runner.config.documents import BUILT as BUILT_FILE
from runner.config.documents import COMPOSED, documents, saved_config, write_hydra_files
from runner.config.finding import Found
from runner.config.places import conf_directory
from runner.config.prepare import Prepared, prepare
from runner.config.recomposing import Replay, compose_again
from runner.config.resume import prepare_resume, resumed
from runner.config.sources import Sources
from runner.config.words import Words
from runner.errors import ConfigError, ResumeError, TrustError
from runner.records import Progress
from runner.trust_memory import TrustMemory


@dataclass
class Place:
    """A conf/ that a test may change, and a run that was launched from it."""

    conf: Path
    run: Path
    memory: TrustMemory

    @property
    def sources(self) -> Sources:
        return Sources(config_path=str(self.conf))

    def launch(self, *overrides: str) -> Prepared:
        prepared = prepare(
            [f"--config-path={self.conf}", *overrides, f"hydra.run.dir='{self.run}'"], memory=self.memory
        )
        write_hydra_files(prepared.run, 1, prepared.config)
        prepared.lock.release()
        return prepared

    def again(self, *overrides: str) -> Replay:
        return prepare_resume(Words(resume=str(self.run)), overrides, sources=self.sources, memory=self.memory)

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.conf / file).read_text()
        assert old in text
        (self.conf / file).write_text(text.replace(old, new))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    conf = tmp_path / "configs"
    shutil.copytree(conf_directory(), conf)
    return Place(conf, tmp_path / "my runs" / "a=b,c", TrustMemory(tmp_path / "trusted.json"))


def told(replay: Replay) -> list[str]:
    """The notes, without the one that there is no checkpoint yet."""
    return [note for note in replay.notes if "before it had saved" not in note]


def test_a_run_composes_again_as_it_was(place: Place) -> None:
    launched = place.launch(
        "optimizer.lr=0.5",
        "+optimizer.maximize=true",
        "optimizer=sgd",
        "debug=fast",
        "~model.hidden",
        "+model.hidden=[4]",
    )
    replay = place.again()
    assert replay.composition.config.composed == launched.config.composed
    assert replay.composition.config.resolved == launched.config.resolved
    assert replay.composition.config.overrides == launched.config.overrides
    assert replay.composition.run_dir == place.run
    assert told(replay) == []


def test_new_overrides_come_on_top_and_are_saved_with_the_old_ones(place: Place) -> None:
    place.launch("optimizer.lr=0.5", "seed=3")
    replay = place.again("optimizer.lr=0.25", "+trainer.max_steps=7", "hydra.verbose=true")
    config = replay.composition.config
    assert config.overrides == ("seed=3", "optimizer.lr=0.25", "+trainer.max_steps=7")
    assert config.resolved["optimizer"]["lr"] == 0.25 and config.resolved["trainer"]["max_steps"] == 7
    assert replay.overrides == ("optimizer.lr=0.25", "+trainer.max_steps=7", "hydra.verbose=true")


def test_a_drawn_seed_stays_what_was_drawn(place: Place) -> None:
    seed = place.launch("seed=null").settings.seed
    assert place.again().composition.config.resolved["seed"] == seed


def test_a_time_that_was_interpolated_stays_what_it_was(place: Place) -> None:
    launched = place.launch("name='x-${now:%f}'", "init.include=['${now:%f}.*']")
    replay = place.again()
    assert replay.composition.config.resolved["name"] == launched.config.resolved["name"]
    assert replay.composition.config.resolved["init"] == launched.config.resolved["init"]
    assert replay.composition.config.overrides == launched.config.overrides
    assert told(replay) == []


def test_a_value_that_conf_has_changed_since_stays_as_it_was_saved(place: Place) -> None:
    launched = place.launch("seed=3")
    place.edit("optimizer/adamw.yaml", "weight_decay: 0.01", "weight_decay: 0.5\nfoo: 3")
    place.edit("model/mlp.yaml", "_target_: runner.models.mlp.MLP", "_target_: runner.models.cnn.CNN")
    place.edit("trainer/standard.yaml", "accumulate: 1", "accumulate: 4")
    replay = place.again("trainer.max_steps=9")
    config = replay.composition.config
    assert config.resolved["optimizer"] == launched.config.resolved["optimizer"]
    assert config.resolved["model"] == launched.config.resolved["model"]
    assert config.resolved["trainer"] == launched.config.resolved["trainer"] | {"max_steps": 9}
    assert config.overrides == ("seed=3", "trainer.max_steps=9")
    assert told(replay) == [
        "conf/ has changed since; as it was saved: ++model._target_='runner.models.mlp.MLP'",
        "conf/ has changed since; as it was saved: ++optimizer.weight_decay=0.01",
        "conf/ has changed since; as it was saved: ~optimizer.foo",
        "conf/ has changed since; as it was saved: ++trainer.accumulate=1",
    ]


def test_what_this_launch_types_wins_over_what_was_saved_before_a_change(place: Place) -> None:
    place.launch()
    place.edit("trainer/standard.yaml", "accumulate: 1", "accumulate: 4")
    replay = place.again("trainer.accumulate=2")
    assert replay.composition.config.resolved["trainer"]["accumulate"] == 2
    assert told(replay) == []


def test_a_key_that_a_section_of_the_runner_has_got_since_is_kept(place: Place) -> None:
    place.launch()
    place.edit("runtime/auto.yaml", "workers: 0", "workers: 0\nnewer: 1")
    assert place.again().composition.config.resolved["runtime"]["newer"] == 1


def test_a_key_that_is_null_in_conf_is_left_out_again_without_a_word(place: Place) -> None:
    # The option of the built-in data has `path: null`; a typed target does not take it.
    place.launch("data._target_=runner.data.text.text", "+data.context=8", "+data.validation_fraction=0.5")
    place.edit("data/digits.yaml", "path: null", "path: null\nanother: null")
    replay = place.again()
    assert told(replay) == []
    assert "another" not in replay.composition.config.resolved["data"]
    assert replay.saved.overrides == replay.composition.config.overrides


def test_another_option_of_a_group_drops_what_was_typed_for_the_old_one(place: Place) -> None:
    place.launch("optimizer.betas=[0.5,0.6]", "optimizer.lr=0.5", "seed=3")
    replay = place.again("optimizer=sgd")
    config = replay.composition.config
    assert config.resolved["optimizer"]["_target_"] == "torch.optim.SGD" and config.resolved["optimizer"]["lr"] != 0.5
    assert config.overrides == ("seed=3", "optimizer=sgd")
    assert told(replay) == [
        "optimizer=sgd: the earlier overrides optimizer.betas=[0.5,0.6] optimizer.lr=0.5 are left out"
    ]


def test_another_option_comes_as_it_stands_in_conf_today(place: Place) -> None:
    place.launch()
    place.edit("optimizer/adamw.yaml", "weight_decay: 0.01", "weight_decay: 0.5")
    place.edit("optimizer/sgd.yaml", "weight_decay: 0.0", "weight_decay: 0.5")
    assert place.again("optimizer=sgd").composition.config.resolved["optimizer"]["weight_decay"] == 0.5


def test_an_option_that_replaces_global_values_drops_only_its_own(place: Place) -> None:
    place.launch("scheduler.final=0.5", "seed=3", "optimizer.lr=0.5")
    config = place.again("scheduler=plateau").composition.config
    assert config.overrides == ("seed=3", "optimizer.lr=0.5", "scheduler=plateau")
    assert config.resolved["trainer"]["schedule"] == "evaluation"


@pytest.mark.parametrize(
    ("overrides", "broken", "why"),
    [
        (["optimizer=sgd", "optimizer.lr=0.5"], "optimizer/sgd.yaml", "optimizer=sgd: optimizer has no such option"),
        (
            ["experiment=digits_cnn"],
            "experiment/digits_cnn.yaml",
            "experiment=digits_cnn: experiment has no such option",
        ),
        (["debug=fast"], "debug/fast.yaml", "debug=fast: debug has no such option"),
    ],
)
def test_a_deleted_option_makes_the_saved_config_the_primary_one(
    place: Place, overrides: Sequence[str], broken: str, why: str
) -> None:
    launched = place.launch(*overrides)
    (place.conf / broken).unlink()
    replay = place.again("trainer.max_steps=9", "+seed=4")
    config = replay.composition.config
    wanted = launched.config.resolved | {"seed": 4}
    wanted["trainer"] = launched.config.resolved["trainer"] | {"max_steps": 9}
    assert config.resolved == wanted
    assert told(replay) == [
        f"its saved overrides no longer compose with conf/ ({why}); the saved config itself is used"
    ]
    assert config.choices == launched.config.choices
    assert replay.composition.run_dir == place.run


def test_a_group_can_be_switched_on_a_saved_config_too(place: Place) -> None:
    place.launch("debug=fast", "optimizer.lr=0.5")
    (place.conf / "debug/fast.yaml").unlink()
    config = place.again("optimizer=sgd").composition.config
    assert config.resolved["optimizer"]["_target_"] == "torch.optim.SGD" and "betas" not in config.resolved["optimizer"]


def test_on_a_saved_config_earlier_overrides_are_replaced_not_repeated(place: Place) -> None:
    place.launch("debug=fast", "optimizer.lr=0.5", "seed=3")
    (place.conf / "debug/fast.yaml").unlink()
    replay = place.again("seed=4", "optimizer=sgd")
    assert replay.composition.config.overrides == ("debug=fast", "seed=4", "optimizer=sgd")
    assert told(replay)[1:] == ["optimizer=sgd: the earlier overrides optimizer.lr=0.5 are left out"]


def test_on_a_saved_config_an_experiment_chooses_among_its_groups(place: Place) -> None:
    place.launch("debug=fast", "model.hidden=[3]", "optimizer.lr=0.5", "data.batch_size=7")
    (place.conf / "debug/fast.yaml").unlink()
    replay = place.again("experiment=digits_cnn", "trainer.max_steps=9")
    config = replay.composition.config
    assert config.resolved["model"]["_target_"] == "runner.models.cnn.CNN" and "hidden" not in config.resolved["model"]
    assert config.resolved["optimizer"]["lr"] == 0.5 and config.resolved["data"]["augment"] is True
    assert config.resolved["data"]["batch_size"] == 7
    assert config.resolved["trainer"]["max_steps"] == 9
    assert config.choices["model"] == "cnn" and config.choices["experiment"] == "digits_cnn"
    assert told(replay)[1:] == ["experiment=digits_cnn: the earlier overrides model.hidden=[3] are left out"]


def test_on_a_saved_config_a_group_can_be_left_out_and_its_own_option_changes_nothing(place: Place) -> None:
    launched = place.launch("debug=fast", "optimizer.lr=0.5", "observers=tensorboard")
    (place.conf / "debug/fast.yaml").unlink()
    config = place.again("~observers", "optimizer=adamw").composition.config
    assert "observers" not in config.resolved
    assert config.resolved["optimizer"] == launched.config.resolved["optimizer"]


def test_an_option_of_a_group_that_is_gone_is_told_with_the_other_mistakes(place: Place) -> None:
    place.launch()
    shutil.rmtree(place.conf / "optimizer")
    assert place.again("optimizer=sgd", "trainer.epoch=1").composition.problems == (
        "optimizer=sgd: conf/ has no group optimizer any more; leave this out, or type optimizer.KEY=VALUE",
        "trainer.epoch=1: no key 'trainer.epoch'; did you mean 'trainer.max_epochs'?",
    )
    assert place.again("optimizer.lr=0.5").composition.config.resolved["optimizer"]["lr"] == 0.5


def test_every_mistake_is_told_on_a_saved_config_with_the_nearest_name(place: Place) -> None:
    place.launch("debug=fast")
    (place.conf / "debug/fast.yaml").unlink()
    typed = ["optimizer=adam", "shceduler=step", "trainer.epoch=1", "model.hiden=[1]", "~optimizer.x"]
    assert [problem.partition(" (+")[0] for problem in place.again(*typed).composition.problems] == [
        "optimizer=adam: optimizer has no such option; did you mean 'adamw'?",
        "shceduler=step: no group 'shceduler'; did you mean 'scheduler=step'?",
        "trainer.epoch=1: no key 'trainer.epoch'; did you mean 'trainer.max_epochs'?",
        "model.hiden=[1]: no key 'model.hiden'; did you mean 'model.hidden'?",
        "~optimizer.x: nothing to leave out; did you mean '~optimizer'?",
    ]


def test_a_saved_config_gets_the_settings_of_the_runner_that_have_come_since(place: Place) -> None:
    place.launch("debug=fast")
    (place.conf / "debug/fast.yaml").unlink()
    place.edit("runtime/auto.yaml", "workers: 0", "workers: 3\nnewer: 1")
    place.edit("optimizer/adamw.yaml", "lr: 3.0e-3", "lr: 3.0e-3\nmaximize: true")
    config = place.again().composition.config
    assert config.resolved["runtime"]["newer"] == 1 and config.resolved["runtime"]["workers"] == 0
    assert "maximize" not in config.resolved["optimizer"]


def test_a_key_that_conf_no_longer_has_can_be_typed_all_the_same(place: Place) -> None:
    launched = place.launch()
    place.edit("model/mlp.yaml", "dropout: 0.2\n", "")
    place.edit("optimizer/adamw.yaml", "eps: 1.0e-8\n", "")
    config = place.again("model.dropout=0.5", "~optimizer.eps", "seed=3").composition.config
    assert config.resolved["model"] == launched.config.resolved["model"] | {"dropout": 0.5}
    assert "eps" not in config.resolved["optimizer"]
    # So that they compose without the pins, too.
    assert config.overrides == ("++model.dropout=0.5", "seed=3")
    assert (
        place.again("model.dropuot=0.5")
        .composition.problems[0]
        .startswith("model.dropuot=0.5: no key 'model.dropuot'; did you mean 'model.dropout'?")
    )


def test_an_experiment_drops_what_was_typed_for_an_option_that_it_replaces(place: Place) -> None:
    place.launch("model.hidden=[3]", "optimizer.lr=0.5")
    replay = place.again("experiment=digits_cnn")
    assert replay.composition.config.overrides == ("optimizer.lr=0.5", "experiment=digits_cnn")
    assert replay.composition.whole and replay.composition.config.choices["model"] == "cnn"
    assert told(replay) == ["experiment=digits_cnn: the earlier overrides model.hidden=[3] are left out"]


def test_what_is_typed_beside_another_option_is_for_that_option(place: Place) -> None:
    place.launch("optimizer.betas=[0.5,0.6]")
    replay = place.again("optimizer.lr=0.5", "optimizer=sgd", "optimizer.momentum=${optimizer.lr}")
    optimizer = replay.composition.config.resolved["optimizer"]
    assert optimizer["lr"] == 0.5 and optimizer["momentum"] == 0.5
    assert told(replay) == ["optimizer=sgd: the earlier overrides optimizer.betas=[0.5,0.6] are left out"]


def test_an_option_that_there_is_not_is_told_alone_on_a_saved_config_too(place: Place) -> None:
    place.launch("debug=fast")
    (place.conf / "debug/fast.yaml").unlink()
    with pytest.raises(ConfigError) as caught:
        prepare([f"--config-path={place.conf}", f"+resume={place.run}", "optimizer=nope"], memory=place.memory)
    assert caught.value.problems == ("optimizer=nope: optimizer has no such option; there is adamw, ridge, sgd",)


def save(launched: Prepared, **facts: object) -> None:
    """A checkpoint of a run that has been launched."""
    keep = KeepPolicy(last=None, best=None, every_steps=None, every_hours=None)
    CheckpointStore(launched.run.checkpoints, run=launched.run.id, keep=keep, monitor=None).save(
        {"model": {"w": torch.zeros(1)}},
        progress=Progress(step=1),
        reasons=("end",),
        metrics={},
        documents=documents(launched.config),
        facts=facts,
    ).wait()


def test_another_model_is_refused_with_every_difference(place: Place) -> None:
    launched = place.launch("model._target_=torch.nn.Linear", "+model.out_features=10", "+model.bias=false")
    save(launched)
    argv = [f"--config-path={place.conf}", f"+resume={place.run}", "model.out_features=4", "~model.bias"]
    with pytest.raises(ResumeError) as caught:
        prepare(argv, memory=place.memory)
    assert str(caught.value).splitlines() == [
        "model.out_features was 10 and is 4 now",
        "model.bias was false and is not there now",
        "the saved state may not fit another model; type +allow=[model] to go on all the same",
    ]
    assert prepare([*argv, "+allow=[model]"], memory=place.memory).resumption is not None


def test_a_renamed_key_makes_the_saved_config_the_primary_one(place: Place) -> None:
    launched = place.launch("model.hidden=[3]")
    place.edit("model/mlp.yaml", "hidden:", "layers:")
    assert place.again().composition.config.resolved == launched.config.resolved


def test_a_mistake_typed_now_is_told_as_ever(place: Place) -> None:
    place.launch("seed=3")
    assert place.again("trainer.epoch=5").composition.problems == (
        "trainer.epoch=5: no key 'trainer.epoch'; did you mean 'trainer.max_epochs'?",
    )
    with pytest.raises(ConfigError, match=r"several values; add -m"):
        place.again("seed=1,2")


def test_a_redacted_value_is_asked_for_and_taken(place: Place) -> None:
    place.launch("+data.token=geheim", "data._target_=torch.nn.Identity")
    with pytest.raises(ConfigError) as caught:
        prepare([f"--config-path={place.conf}", f"+resume={place.run}"], memory=place.memory)
    assert caught.value.problems == (
        "data.token: left out when it was saved, because it looks like a secret; type data.token=VALUE",
    )
    again = prepare([f"--config-path={place.conf}", f"+resume={place.run}", "data.token=neu"], memory=place.memory)
    again.lock.release()
    assert again.config.resolved["data"]["token"] == "neu"


@pytest.mark.parametrize("key", ["hydra", "defaults"])
def test_a_saved_config_that_holds_what_is_hydras_own_is_refused(place: Place, key: str) -> None:
    run = place.launch().run
    with (run.hydra / COMPOSED).open("a") as file:
        file.write(f"{key}:\n  callbacks:\n    x:\n      _target_: os.system\n")
    with pytest.raises(ResumeError, match=rf"config.yaml: has the key '{key}', which is Hydra's own; use another"):
        place.again()


def test_a_key_with_a_dot_in_it_reaches_nothing_of_hydra(place: Place) -> None:
    run = place.launch().run
    with (run.hydra / COMPOSED).open("a") as file:
        file.write("hydra.callbacks.x._target_: os.system\n")
    replay = place.again()
    assert replay.composition.node.hydra.callbacks == {}
    assert not any("os.system" in text for text in replay.argv)


HOSTILE = [
    "hydra.run.dir=/tmp/elsewhere",
    "++hydra={callbacks:{x:{_target_:os.system}}}",
    "+evil@hydra.callbacks.x=y",
    "+trust=[os]",
    "seed=3",
]


def test_a_hostile_overrides_file_reaches_nothing_but_the_config(place: Place) -> None:
    launched = place.launch("seed=3")
    run = launched.run
    composed, built = (run.hydra / COMPOSED).read_bytes(), (run.hydra / BUILT_FILE).read_text()
    hostile = built.replace('"seed=3"', ", ".join(f'"{text}"' for text in HOSTILE))
    saved = saved_config(composed, hostile.encode(), where=run.hydra)
    replay = compose_again(Found(run, None), saved, [], sources=place.sources)
    assert replay.composition.config.overrides == ("seed=3",)
    assert replay.composition.run_dir == place.run
    assert replay.composition.node.hydra.callbacks == {}
    assert len(told(replay)) == 4 and all("left out" in note for note in told(replay))


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "ownnets.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self, width): super().__init__()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ownnets", raising=False)
    return "ownnets.Net"


def test_a_target_of_a_file_is_not_imported_unless_this_user_trusts_it(
    place: Place, own_module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.launch(f"model._target_={own_module}", "+model.width=3")
    monkeypatch.delitem(sys.modules, "ownnets")
    (tmp_path / "ran").unlink()
    stranger = TrustMemory(tmp_path / "stranger.json")
    words = Words(resume=str(place.run))
    with pytest.raises(TrustError, match=r"'ownnets.Net' is not trusted"):
        prepare_resume(words, [], sources=place.sources, memory=stranger)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(TrustError):
        prepare_resume(words, ["seed=4"], sources=place.sources, memory=stranger)
    assert not (tmp_path / "ran").exists()
    assert place.again().composition.config.resolved["model"]["width"] == 3
    allowed = Words(resume=str(place.run), trust=("ownnets",))
    prepare_resume(allowed, [], sources=place.sources, memory=stranger)
    with pytest.raises(TrustError):
        prepare_resume(words, [], sources=place.sources, memory=stranger)
    prepare_resume(words, [f"model._target_={own_module}"], sources=place.sources, memory=stranger)
    prepare_resume(words, [], sources=place.sources, memory=stranger)


def test_a_saved_config_that_became_the_primary_one_is_not_trusted_for_that(
    place: Place, own_module: str, tmp_path: Path
) -> None:
    place.launch(f"model._target_={own_module}", "+model.width=3", "debug=fast")
    (place.conf / "debug/fast.yaml").unlink()
    with pytest.raises(TrustError):
        prepare_resume(
            Words(resume=str(place.run)), [], sources=place.sources, memory=TrustMemory(tmp_path / "stranger.json")
        )


def test_what_stands_in_the_users_own_conf_is_trusted(place: Place, own_module: str, tmp_path: Path) -> None:
    (place.conf / "model" / "own.yaml").write_text(f"_target_: {own_module}\nwidth: 3\n")
    place.launch("seed=3")
    stranger = TrustMemory(tmp_path / "stranger.json")
    words = Words(resume=str(place.run))
    replay = prepare_resume(words, ["model=own"], sources=place.sources, memory=stranger)
    assert replay.composition.config.resolved["model"]["_target_"] == own_module


def test_a_wrong_word_behind_allow_is_refused(place: Place) -> None:
    place.launch()
    words = Words(resume=str(place.run), allow=("modle",))
    with pytest.raises(ConfigError, match=r"[+]allow=.modle.: wanted one of model"):
        prepare_resume(words, [], sources=place.sources, memory=place.memory)


def test_a_run_without_a_checkpoint_begins_anew_in_its_directory(place: Place) -> None:
    launched = place.launch("seed=3")
    again = prepare([f"--config-path={place.conf}", f"+resume={place.run}"], memory=place.memory)
    assert again.run == launched.run and again.resumption is None
    assert again.notes == (f"{place.run}: stopped before it had saved a checkpoint; it begins anew, at step 0",)
    assert resumed(place.again(), again.config, Words()) is None


def test_a_file_that_a_door_saved_is_no_run_to_go_on_with(place: Place, tmp_path: Path) -> None:
    documents = {"config.json": b'{"config": {"door": "save_load"}, "overrides": []}'}
    path = tmp_path / "net.pt"
    save_file(path, {"model": {}}, documents=documents, facts={})
    with pytest.raises(ResumeError) as caught:
        prepare([f"--config-path={place.conf}", f"+resume={path}"], memory=place.memory)
    assert str(caught.value) == (
        f"{path}: was saved by save_load, and is of no run that could go on; "
        f"init_from={path} begins one with its weights"
    )


def test_a_run_whose_saved_config_is_gone_is_refused(place: Place) -> None:
    place.launch()
    shutil.rmtree(place.run / ".hydra")
    with pytest.raises(ResumeError, match=r"its saved config cannot be read"):
        place.again()


def gone_on_with(place: Place, *overrides: str) -> Prepared:
    prepared = prepare([f"--config-path={place.conf}", f"+resume={place.run}", *overrides], memory=place.memory)
    prepared.lock.release()
    return prepared


def differing(prepared: Prepared) -> list[tuple[str, object, object, str]]:
    assert prepared.resumption is not None
    return [(one.key, one.saved, one.now, one.kind) for one in prepared.resumption.differences]


def test_another_value_of_the_environment_is_said_and_not_shown(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LR", "0.0625")
    monkeypatch.setenv("PLACE", "/first/secret place")
    text = "${oc.decode:${oc.env:LR}}"
    save(place.launch(f"optimizer.lr='{text}'", "data.path='${oc.env:PLACE,null}'", "name='${data.path}'"))
    assert differing(gone_on_with(place)) == []
    monkeypatch.setenv("LR", "0.5")
    monkeypatch.setenv("PLACE", "/second")
    again = gone_on_with(place)
    assert again.config.resolved["optimizer"]["lr"] == 0.5
    path, name = "${oc.env:PLACE,null}", "${data.path}"
    assert differing(again) == [
        ("data.path", path, f"{path}, another value", "course"),
        ("optimizer.lr", text, f"{text}, another value", "course"),
        ("name", name, f"{name}, another value", "harmless"),
    ]
    for file in place.run.rglob("config.*"):
        assert "first" not in file.read_text() and "0.0625" not in file.read_text()


def test_a_variable_of_the_environment_that_is_gone_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/first")
    save(place.launch("data.path='${oc.env:PLACE}'"))
    monkeypatch.delenv("PLACE")
    with pytest.raises(
        ConfigError,
        match=r"^data.path: '\$\{oc.env:PLACE\}' cannot be resolved \(.*'PLACE' not found.*; set what it reads, or",
    ):
        gone_on_with(place)


def test_a_secret_of_the_environment_leaves_no_digest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORD", "geheim")
    launched = place.launch("++trainer.token='${oc.env:WORD}'", "name='${oc.env:WORD}'", "~trainer.token")
    assert set(environment_digests(launched.config)) == {"name"}


def test_settings_that_have_come_since_are_said_in_one_line(place: Place) -> None:
    primary = place.conf / "config.yaml"
    today = primary.read_text()
    before, _, after = today.partition("init_from: null")
    primary.write_text(before + "hydra:" + after.partition("\nhydra:")[2])
    save(place.launch())
    primary.write_text(today)
    again = gone_on_with(place, "trainer.max_epochs=3", "init.strict=false")
    assert differing(again) == [
        ("trainer.max_epochs", 20, 3, "harmless"),
        ("init", NOT_THERE, again.config.resolved["init"], "harmless"),
    ]
    assert again.notes == ("settings that were not there when it was saved, as conf/ has them: init_from=null",)


def test_a_value_that_conf_has_got_since_for_its_other_values_does_not_stand_in_the_way(place: Place) -> None:
    save(place.launch())
    place.edit("config.yaml", "name: run ", "scale: 3\nname: run ")
    place.edit("experiment/digits_mlp.yaml", "name: digits_mlp", "name: digits_mlp-${scale}")
    again = gone_on_with(place)
    assert again.config.resolved["name"] == "digits_mlp" and "scale" not in again.config.resolved
    (place.conf / "scheduler" / "scaled.yaml").write_text(
        "_target_: runner.training.schedule.Constant\nwarmup_steps: ${scale}\n"
    )
    assert gone_on_with(place, "scheduler=scaled").config.resolved["scheduler"]["warmup_steps"] == 3
    with pytest.raises(ConfigError, match=r"^speed: no such key, and no value in the config reads"):
        gone_on_with(place, "+speed=3")


def test_mistakes_in_what_another_version_has_saved_name_both_versions(place: Place) -> None:
    launched = place.launch()
    save(launched, versions={"runner": "99.1"})
    place.edit("trainer/standard.yaml", "accumulate: 1", "accumulate: 1\nnewer: 3")
    with pytest.raises(ConfigError) as caught:
        gone_on_with(place)
    assert caught.value.problems[0].startswith("trainer.newer: no such key; there is")
    assert re.fullmatch(
        rf"{re.escape(str(place.run))}/checkpoints/step-000000001: saved by runner 99.1; this is .+",
        caught.value.problems[-1],
    )


def kept_own_source(place: Place, tmp_path: Path) -> Path:
    kept = place.run / "code" / "001" / "source" / "ownnets.py"
    kept.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "ownnets.py", kept)
    return kept


def test_a_target_that_is_gone_is_named_with_the_source_that_was_kept(
    place: Place, own_module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(place.launch(f"model._target_={own_module}", "+model.width=3"), code="code/001")
    kept = kept_own_source(place, tmp_path)
    (tmp_path / "ownnets.py").unlink()
    monkeypatch.delitem(sys.modules, "ownnets")
    importlib.invalidate_caches()
    hint = f"ownnets: cannot be found from here; what was trained with is {kept}: copy it to ownnets.py in your project"
    for words, refusal in (
        (
            [],
            r"step-000000001: model: _target_ 'ownnets.Net' is not trusted \(you used 'ownnets' from .*; "
            r"from here it cannot be found\); put its directory on PYTHONPATH, or install it",
        ),
        (["+trust=[ownnets]"], r"step-000000001: model: _target_ 'ownnets.Net': 'ownnets' cannot be imported .*"),
    ):
        with pytest.raises(TrustError) as caught:
            gone_on_with(place, *words)
        first, second = str(caught.value).splitlines()
        assert re.search(refusal, first) and second == hint


def test_a_target_that_takes_other_arguments_now_is_told_with_the_source_that_was_kept(
    place: Place, own_module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(place.launch(f"model._target_={own_module}", "+model.width=3"), code="code/001")
    kept = kept_own_source(place, tmp_path)
    source = tmp_path / "ownnets.py"
    source.write_text(source.read_text().replace("width", "breadth_of_it"))
    monkeypatch.delitem(sys.modules, "ownnets")
    importlib.invalidate_caches()
    with pytest.raises(ConfigError) as caught:
        gone_on_with(place)
    assert caught.value.problems[0].startswith("model.width: ownnets.Net takes no argument 'width'")
    assert caught.value.problems[-1] == f"ownnets: {source} has changed since; what was trained with is {kept}"
