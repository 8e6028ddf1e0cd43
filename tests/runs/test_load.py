"""A model rebuilt from its checkpoint alone."""

import importlib
import random
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import runner
from runner.config.for_use import config_for_use

KEEP = ("checkpoint.keep.last=null", "checkpoint.keep.best=null", "hydra.run.dir=here")
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 10))

    def forward(self, x):
        return self.layers(x.flatten(1))
"""


def same(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == tensors.keys() and all(torch.equal(state[name], tensors[name]) for name in state)


def test_from_any_directory_and_by_any_path(short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = short(*KEEP)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    checkpoint = run.checkpoint()
    for path in (run.directory, str(run.directory), run.directory / "checkpoints", checkpoint.path, "../here"):
        model = runner.load(path)
        assert same(model, checkpoint.tensors()) and not model.training
    # Moved away from its run, a checkpoint still tells all that it takes.
    shutil.move(checkpoint.path, elsewhere / "kept")
    assert same(runner.load("kept"), runner.Checkpoint.open("kept").tensors())


def test_the_newest_the_best_or_that_of_a_step(short) -> None:
    run = short(
        *KEEP, "trainer.max_epochs=3", "optimizer.lr=0.3", "scheduler=constant", "checkpoint.save.every_steps=4"
    )
    best = run.checkpoint("best").step
    scores = {record["step"]: record["val_loss"] for record in run.records if record.get("split") == "validation"}
    assert scores[best] == min(scores.values()) == run.best
    for which, step in {"latest": 15, "best": best, 8: 8}.items():
        assert same(runner.load("here", which), run.checkpoint(step).tensors())
    with pytest.raises(runner.CheckpointError, match="has no checkpoint of step 7; the newest are of steps"):
        runner.load("here", 7)


def test_averaged_weights(short) -> None:
    run = short(*KEEP, "trainer.ema_decay=0.5")
    averaged = runner.load("here", weights="averaged")
    assert same(averaged, run.checkpoint().state()["averaged"]["model"])
    assert not same(averaged, run.checkpoint().tensors())


def test_averaged_weights_that_are_not_there_are_not_made_up(short) -> None:
    short(*KEEP)
    with pytest.raises(runner.CheckpointError, match="has no averaged weights; use the raw ones"):
        runner.load("here", weights="averaged")
    with pytest.raises(runner.CheckpointError, match="weights is 'ema'; wanted 'raw' or 'averaged'"):
        runner.load("here", weights="ema")


def test_in_another_precision(short) -> None:
    run = short(
        *KEEP,
        "model._target_=torch.nn.Sequential",
        "+model._args_=[{_target_: torch.nn.Flatten}, "
        "{_target_: torch.nn.BatchNorm1d, num_features: 64}, {_target_: torch.nn.Linear, in_features: 64, "
        "out_features: 10}]",
    )
    model = runner.load("here", dtype=torch.bfloat16)
    cast = run.checkpoint().tensors(dtype=torch.bfloat16)
    assert same(model, cast)
    assert {name: value.dtype for name, value in cast.items()} == {
        name: torch.int64 if name.endswith("num_batches_tracked") else torch.bfloat16 for name in cast
    }
    with pytest.raises(runner.CheckpointError, match=r"dtype is torch\.int8; wanted one of real numbers, such as"):
        runner.load("here", dtype=torch.int8)


def test_a_path_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(runner.CheckpointError, match="nowhere"):
        runner.load(tmp_path / "nowhere")


def test_nothing_is_drawn_and_nothing_of_the_run_is_written(short) -> None:
    run = short(*KEEP)
    files = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    runner.load("here")
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()} == files


def test_a_module_of_ones_own_needs_a_word_only_where_it_was_never_used(
    short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "load_net.py").write_text(NET)
    run = short("model._target_=load_net.Net", "+model.width=4", *KEEP)
    assert same(runner.load("here"), run.checkpoint().tensors())
    # Somebody else's account: nothing is remembered there.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
    with pytest.raises(runner.TrustError, match=r"'load_net\.Net' is not trusted.*trust=\[\"load_net\"\]"):
        runner.load("here")
    assert same(runner.load("here", trust=["load_net"]), run.checkpoint().tensors())


def test_where_the_module_is_missing_it_is_named_with_what_to_do(
    short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "absent_net.py").write_text(NET)
    short("model._target_=absent_net.Net", "+model.width=4", *KEEP)
    (tmp_path / "absent_net.py").unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    monkeypatch.delitem(sys.modules, "absent_net")
    with pytest.raises(
        runner.TrustError, match=r"'absent_net\.Net': 'absent_net' cannot be imported \(ModuleNotFound"
    ) as e:
        runner.load("here", trust=["absent_net"])
    # What is gone is still there: in the run.
    kept = Path.cwd() / "here" / "code" / "001" / "source" / "absent_net.py"
    said = f"absent_net: cannot be found from here; what was trained with is {kept}: copy it to absent_net.py"
    assert str(e.value).splitlines()[1:] == [f"{said} in your project"]
    assert kept.read_text() == NET


def test_where_the_module_has_changed_since_that_is_said(
    short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net_that_is_edited.py").write_text(NET)
    short("model._target_=net_that_is_edited.Net", "+model.width=4", *KEEP)
    for edit, error, message in (
        (("Dropout(0.5)", "Linear(width, width)"), runner.CheckpointError, "do not fit Net: .*layers.1.weight"),
        (("width", "size"), runner.ConfigError, "Net takes no argument 'width'"),
    ):
        (tmp_path / "net_that_is_edited.py").write_text(NET.replace(*edit))
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        monkeypatch.delitem(sys.modules, "net_that_is_edited", raising=False)
        importlib.invalidate_caches()
        with pytest.raises(error, match=message) as caught:
            runner.load("here")
        assert re.search(
            r"net_that_is_edited: .*net_that_is_edited\.py has changed since; what was trained with is ",
            str(caught.value),
        )


DROPOUT = ("model.dropout=0.5", "trainer.max_steps=1", *KEEP)


def dropout_of(model: torch.nn.Module) -> set[float]:
    return {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}


def test_overrides_change_the_config_before_the_model_is_built(short) -> None:
    run = short(*DROPOUT)
    assert dropout_of(runner.load("here")) == {0.5}
    for override in ("model.dropout=0.25", "++model.dropout=0.25", "+model.dropout=0.25"):
        changed = runner.load("here", overrides=[override])
        assert dropout_of(changed) == {0.25} and same(changed, run.checkpoint().tensors())
    assert run.checkpoint().config["model"]["dropout"] == 0.5


def test_what_refers_to_an_overridden_value_follows_it(short) -> None:
    short("+share=0.5", "model.dropout=${share}", "trainer.max_steps=1", *KEEP)
    assert dropout_of(runner.load("here")) == {0.5}
    assert dropout_of(runner.load("here", overrides=["share=0.125"])) == {0.125}


def test_what_was_computed_at_the_launch_stays(short) -> None:
    run = short("name='${now:%f} of ${hydra:job.name}'", "model.dropout=0.25", "trainer.max_steps=1", *KEEP)
    saved = run.checkpoint().config["name"]
    assert re.fullmatch(r"\d+ of runner", saved)
    kept = config_for_use(run.checkpoint(), ["name", "model"], ["model.dropout=0"], trusted=())
    assert (kept["name"], kept["model"]["dropout"]) == (saved, 0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.droput=0", r"no key 'model\.droput'; did you mean 'model\.dropout'\?"),
        ("+model.droput=0", r"MLP takes no argument 'droput'; did you mean 'model\.dropout'\?"),
        ("~model.dropout", r"model\.dropout: runner\.models\.mlp\.MLP needs this argument"),
        ("model.dropout=much", r"model\.dropout is 'much'; runner\.models\.mlp\.MLP wants a number"),
        ("model.dropout", r"model\.dropout: no override; type KEY=VALUE"),
        ("model.dropout=0,1", r"model\.dropout=0,1: several values"),
        ("model.dropout=???", r"model\.dropout: no value; type model\.dropout=VALUE"),
        ("model.dropout=${oc.env:NOT_SET_ANYWHERE}", r"config\.json: .*'NOT_SET_ANYWHERE' not found.*set what"),
        ("model=resnet", r"model=resnet: model has no such option; there is classic_esn, cnn, gpt"),
        ("experiment=text", r"experiment=text: experiment has no such option"),
        ("hydra.run.dir=x", r"hydra\.run\.dir=x: nothing is launched here for Hydra to do; leave it out"),
        ("+resume=here", r"\+resume, \+allow and \+reset are for launches; leave them out"),
        ("model._target_=os.system", r"_target_ 'os\.system' is not trusted.*trust=\[\"os\.system\"\]"),
    ],
)
def test_a_wrong_override_is_named_with_what_is_right(override: str, message: str, short) -> None:
    short(*DROPOUT)
    with pytest.raises(runner.RunnerError, match=message):
        runner.load("here", overrides=[override])


def test_a_single_text_for_overrides_is_refused(short) -> None:
    short(*DROPOUT)
    with pytest.raises(runner.ConfigError, match=r"wanted a list of overrides; write \['model\.dropout=0'\]"):
        runner.load("here", overrides="model.dropout=0")


@pytest.mark.parametrize(
    ("override", "listed"),
    [
        ("model.hidden=[128,64]", r"layers\.4\.weight: saved \(128, 128\), wanted \(64, 128\)"),
        ("model.hidden=[128]", r"unknown: layers\.7\.weight"),
        ("model=cnn", r"missing: stages\.0\.weight"),
        ("experiment=digits_cnn", r"missing: stages\.0\.weight"),
    ],
)
def test_another_model_is_refused_with_the_names_and_shapes_that_differ(override: str, listed: str, short) -> None:
    short(*DROPOUT)
    with pytest.raises(runner.CheckpointError) as caught:
        runner.load("here", overrides=[override])
    assert f"step-000000001 with {override}: " in str(caught.value)
    assert re.search(listed, str(caught.value))


def test_a_path_may_choose_by_itself(short, tmp_path: Path) -> None:
    run = short(*KEEP, "checkpoint.save.every_steps=2")
    for text, step in {"here@step=2": 2, "here@latest": 5, "here@best": run.checkpoint("best").step}.items():
        assert same(runner.load(text), run.checkpoint(step).tensors())
    assert same(runner.load("here@step=2", 2), run.checkpoint(2).tensors())
    with pytest.raises(runner.CheckpointError, match="here@best: chooses 'best' already, and which is 2"):
        runner.load("here@best", 2)


def test_a_device_that_is_not_there_is_refused(short) -> None:
    short(*DROPOUT)
    with pytest.raises(runner.ConfigError, match="device is 'tpu'; wanted auto, cpu, cuda, cuda:N or mps"):
        runner.load("here", device="tpu")
    assert runner.load("here", device=torch.device("cpu")).training is False


def test_overrides_need_nothing_of_conf(short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options that the run was launched with may be gone, and others of the same names may lie here."""
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(
        "_target_: torch.nn.Sequential\n_args_:\n- _target_: torch.nn.Flatten\n- _target_: torch.nn.Dropout\n  p: 0.5\n"
        "- _target_: torch.nn.Linear\n  in_features: 64\n  out_features: 10\n"
    )
    run = short("model=mine", "trainer.max_steps=1", *KEEP)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "conf").mkdir(parents=True)
    (elsewhere / "conf" / "config.yaml").write_text("nothing: {}\n")
    shutil.rmtree(tmp_path / "conf")
    shutil.move(run.directory, elsewhere / "moved run, of mine")
    monkeypatch.chdir(elsewhere)
    model = runner.load(
        "moved run, of mine",
        overrides=[
            "model._args_=[{_target_: torch.nn.Flatten}, "
            "{_target_: torch.nn.Dropout, p: 0.25}, {_target_: torch.nn.Linear, in_features: 64, out_features: 10}]"
        ],
    )
    assert dropout_of(model) == {0.25}
    assert same(model, runner.Checkpoint.open("moved run, of mine").tensors())


def test_a_text_in_a_file_that_calls_a_resolver_is_never_resolved(short, tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    calls: list[str] = []
    OmegaConf.register_new_resolver("carry_out", lambda text: calls.append(text) or text)
    try:
        short("name='${carry_out:once}'", "model.dropout=0.5", "trainer.max_steps=1", *KEEP)
        before = len(calls)
        assert dropout_of(runner.load("here", overrides=["model.dropout=0.25"])) == {0.25}
        assert dropout_of(runner.load("here")) == {0.5}
        assert len(calls) == before
    finally:
        OmegaConf.clear_resolver("carry_out")
