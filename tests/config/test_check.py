"""Every problem of a config, in the words that the user reads."""

from pathlib import Path

import pytest

from runner.config.check import Settings, check
from runner.config.composing import compose
from runner.config.fitting import fitted
from runner.config.places import conf_directory
from runner.config.schema import Batching
from runner.config.sources import Sources
from runner.errors import ConfigError
from runner.records import Monitor


def checked(*overrides: str) -> tuple[Settings, list[str]]:
    composition = compose(overrides, sources=Sources(), draw_seed=lambda: 4711)
    config, notes = fitted(composition)
    return check(config, known_problems=composition.problems), notes


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        checked(*overrides)
    return list(caught.value.problems)


def options(group: str) -> list[str]:
    return sorted(f"{group}={file.stem}" for file in (conf_directory() / group).glob("*.yaml"))


EVERY_OPTION = [
    option
    for group in ("objective", "optimizer", "scheduler", "trainer", "checkpoint", "runtime", "observers", "experiment")
    for option in options(group)
]


SEQUENCES = ["data=lorenz", "objective=sequence_regression"]
BESIDE = {
    # A language model reads its vocabulary from its text.
    "model=gpt": ["data=text", "objective=language_model"],
    # What is not scored, and how far points are apart, is the data's.
    "objective=sequence_regression": SEQUENCES[:1],
    "objective=readout_fit": SEQUENCES[:1],
    "observers=forecast": SEQUENCES,
}
"""What an option needs beside itself, because it reads values of other groups."""


@pytest.mark.parametrize("option", [*EVERY_OPTION, *options("debug"), *options("model"), *options("data")])
def test_every_config_of_conf_composes_and_is_good(option: str) -> None:
    if option == "observers=tensorboard":
        pytest.importorskip("tensorboard")
    assert checked(option, *BESIDE.get(option, []))[0].name


def test_the_settings_are_typed() -> None:
    settings, notes = checked("seed=null", "trainer.max_steps=7", "checkpoint.keep.best=3")
    assert settings.name == "digits_mlp" and settings.seed == 4711
    assert settings.monitor == Monitor("val_loss", "min")
    assert settings.trainer.max_steps == 7 and settings.trainer.evaluate.every_epochs == 1
    assert settings.checkpoint.keep.best == 3 and settings.runtime.device == "auto"
    assert settings.batching == Batching(batch_size=32, evaluation_batch_size=512, shuffle=True, drop_last=False)
    assert notes == []


NO_MONITOR = "type monitor.metric=val_loss monitor.mode=min"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("+trainer.epoch=5", ["trainer.epoch: no such key; did you mean 'trainer.max_epochs'?"]),
        (
            "++trainer.evaluate.every=5",
            ["trainer.evaluate.every: no such key; did you mean 'trainer.evaluate.every_steps'?"],
        ),
        (
            "trainer.max_epochs=x runtime.workers=1.5",
            [
                "trainer.max_epochs is 'x'; wanted a whole number or null",
                "runtime.workers is 1.5; wanted a whole number",
            ],
        ),
        ("trainer.clip_norm=-1", ["trainer.clip_norm is -1.0; wanted a number above 0, or null"]),
        (
            "trainer.max_epochs=null",
            ["trainer.max_epochs, max_steps and max_time are all null; set one of them, or the run would never end"],
        ),
        (
            "checkpoint.keep.best={val_loss:{mode:mn,n:1}}",
            ["checkpoint.keep.best.val_loss.mode is 'mn'; wanted min or max"],
        ),
        (
            "data.batch_size=x data.evaluation_batch_size=null data.shuffle=maybe ~data.drop_last",
            [
                "data.batch_size is 'x'; wanted a whole number",
                "data.evaluation_batch_size is null; wanted a whole number",
                "data.shuffle is 'maybe'; wanted true or false",
                "data.drop_last: not there; type ++data.drop_last=VALUE",
            ],
        ),
        ("data.batch_size=???", ["data.batch_size: no value yet; type data.batch_size=VALUE"]),
        (
            "data.batch_size=0 data.evaluation_batch_size=-1",
            ["data.batch_size is 0; wanted at least 1", "data.evaluation_batch_size is -1; wanted at least 1"],
        ),
        ("optimizer.groups=3", ["optimizer.groups is 3; wanted a list: [{match: '*.bias', lr: 0.1}]"]),
        (
            "optimizer.groups=[{lr:1.0},3]",
            [
                "optimizer.groups[0] is {'lr': 1.0}; wanted a pattern and settings: {match: '*.bias', lr: 0.1}",
                "optimizer.groups[1] is 3; wanted a pattern and settings: {match: '*.bias', lr: 0.1}",
            ],
        ),
        ("seed=-1", ["seed is -1; wanted a whole number from 0, or null to have one drawn"]),
        ("seed=abc", ["seed is 'abc'; wanted a whole number from 0, or null to have one drawn"]),
        ("name=null", ["name is null; wanted a text"]),
        ("monitor.mode=low", ["monitor.mode is 'low'; wanted min or max"]),
        ("+monitor.metrics=x", ["monitor.metrics: no such key; did you mean 'monitor.metric'?"]),
        ("monitor=val_loss", ["monitor is 'val_loss'; wanted {metric: NAME, mode: min or max}, or null"]),
        (
            "+fooo=3",
            [
                "fooo: no such key, and no value in the config reads ${fooo}; there is checkpoint, data, init, "
                "init_from, model, monitor, name, objective, observers, optimizer, runtime, scheduler, ..."
            ],
        ),
        ("++resume=latest", ["resume: a launch word; type +resume=..."]),
        ("resume=latest", ["resume=latest: a launch word; type +resume=latest"]),
        ("~model", ["model: nothing to build; type model=OPTION, or model._target_=MODULE.NAME"]),
        ("model.hidden=???", ["model.hidden: no value yet; type model.hidden=VALUE"]),
        (
            "model.hidden='<redacted>'",
            [
                "model.hidden: left out when it was saved, because it looks like a secret; type model.hidden=VALUE",
            ],
        ),
        ("+observers.x.every=3", ["observers.x: nothing to build; wanted a section with a _target_"]),
        (
            "monitor=null",
            [
                f"monitor is null but checkpoint.save.on_improvement is true; {NO_MONITOR}, "
                "or checkpoint.save.on_improvement=false",
                f"monitor is null but checkpoint.keep.best is 1; {NO_MONITOR}, or checkpoint.keep.best=null",
            ],
        ),
        (
            "monitor=null checkpoint.save.on_improvement=false checkpoint.keep.best=null "
            "trainer.early_stopping.patience=3 scheduler=plateau scheduler.mode=min",
            [
                f"monitor is null but trainer.early_stopping.patience is set; {NO_MONITOR}, "
                "or trainer.early_stopping.patience=null",
                f"monitor is null but the scheduler waits for a plateau; {NO_MONITOR}, or another scheduler",
            ],
        ),
        (
            "model._target_=torch.nn.Liner optimizer.lr=abc trainer.epoch=3",
            [
                "trainer.epoch=3: no key 'trainer.epoch'; did you mean 'trainer.max_epochs'?",
                "model._target_=torch.nn.Liner: torch.nn has no 'Liner'; did you mean 'torch.nn.Linear'?",
                "optimizer.lr is 'abc'; torch.optim.AdamW wants a number",
            ],
        ),
    ],
)
def test_every_problem_is_told(overrides: str, expected: list[str]) -> None:
    assert problems(*overrides.split(" ")) == expected


def test_a_top_level_key_that_an_interpolation_reads_is_no_mistake() -> None:
    assert checked("+width=16", "model.hidden=['${width}',8]")[0].name == "digits_mlp"
    assert checked("+width.of.layers=16", "+trick=a", "model.hidden=['${oc.select:width.of.layers}']", "name=x${trick}")


def test_the_options_arguments_that_a_typed_target_does_not_take_are_left_out() -> None:
    composition = compose(
        ["model._target_=torch.nn.Linear", "+model.out_features=10"], sources=Sources(), draw_seed=lambda: 0
    )
    config, notes = fitted(composition)
    assert config.resolved["model"] == {"_target_": "torch.nn.Linear", "in_features": 64, "out_features": 10}
    assert config.composed["model"] == config.resolved["model"]
    assert len(notes) == 1
    assert notes[0].startswith("model: torch.nn.Linear is built without the option's hidden, classes, ")


def test_another_model_gets_only_the_arguments_that_it_cannot_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fitnets.py").write_text(
        "def net(classes, hidden=64): ...\ndef anything(**arguments): ...\ndef optimizer(params, lr=0.1, **rest): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def kept(node: str, target: str) -> dict[str, object]:
        composition = compose([f"{node}._target_=fitnets.{target}"], sources=Sources(), draw_seed=lambda: 0)
        return {key: value for key, value in fitted(composition)[0].resolved[node].items() if key != "_target_"}

    assert kept("model", "net") == {"classes": 10}
    assert kept("model", "anything") == {}
    assert kept("optimizer", "optimizer")["lr"] == 0.003


def test_a_typed_argument_that_a_typed_target_does_not_take_is_an_error() -> None:
    assert problems("model._target_=torch.nn.Linear", "+model.out_features=10", "model.hidden=[1]") == [
        "model.hidden: torch.nn.Linear takes no argument 'hidden'; "
        "there is bias, device, dtype, in_features, out_features"
    ]


def test_nested_nodes_and_the_runners_own_keys_are_left_alone_where_they_should_be() -> None:
    _, notes = checked("objective.loss._target_=torch.nn.MSELoss", "optimizer._target_=torch.optim.Rprop")
    assert notes == [
        "objective.loss: torch.nn.MSELoss is built without the option's label_smoothing",
        "optimizer: torch.optim.Rprop is built without the option's betas, eps, weight_decay, fused",
    ]


def test_an_experiment_without_its_first_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("trainer:\n  max_epochs: 3\n")
    monkeypatch.chdir(tmp_path)
    assert problems("experiment=mine") == [
        "experiment: the chosen file puts its keys here; its first line has to be: # @package _global_"
    ]
