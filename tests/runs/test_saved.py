"""One reader for whatever holds a model, and the model made again of it."""

import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import runner
from runner.checkpoint.single import save_file
from runner.config.calls import call_of
from runner.errors import CheckpointError, ConfigError, DamagedError, FormatError, MissingError, TrustError
from runner.models import classic_esn
from runner.runs.handed import documents_for, facts_here, remember
from runner.runs.saved import bare_names, opened, read_saved, rebuild

NETS = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width, activation=torch.tanh):
        super().__init__()
        self.activation = activation
        self.head = torch.nn.Linear(width, 1)

class Renamed(Net): ...

def make(): ...
"""


class Wrapping(nn.Module):
    """Its only part is called as data parallelism calls what it wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 1)


@pytest.fixture
def nets(tmp_path: Path) -> Any:
    """A module of the user's own, beside which he works; gone from memory afterwards."""
    import importlib

    (tmp_path / "savednets.py").write_text(NETS)
    importlib.invalidate_caches()
    yield importlib.import_module("savednets")
    sys.modules.pop("savednets", None)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """`save(cls, *args, **kwargs)`: as a door does, the model, its call and its source."""

    def save(cls: Any, *args: Any, **kwargs: Any) -> Path:
        model = cls(*args, **kwargs)
        return write(tmp_path / "net.pt", model.state_dict(), {"model": call_of(cls, args, kwargs)}, cls)

    return save


def write(path: Path, tensors: Mapping[str, Any], config: Mapping[str, Any], *classes: type, **more: bytes) -> Path:
    documents = documents_for({"door": "here", **config}, *classes)
    documents |= {f"{name}.json": text for name, text in more.items()}
    save_file(path, {"model": tensors}, documents=documents, facts=facts_here())
    return path


# ---- reading ----


def test_a_door_s_file_is_read(save: Callable[..., Path], nets: Any) -> None:
    path = save(nets.Net, 3)
    saved = read_saved(path)
    assert (saved.where, saved.target, saved.version) == (path, "savednets.Net", None)
    assert list(saved.tensors) == ["head.weight", "head.bias"]
    assert (saved.metadata, saved.notes) == ({}, ())
    assert saved.checkpoint is not None
    assert saved.checkpoint.document("source.savednets.py").decode() == NETS


def test_the_version_and_the_metadata_of_a_file_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {}, {"version": "1.2"}, metadata=b'{"loss": 0.5}')
    assert read_saved(path).version == "1.2"
    assert read_saved(path).metadata == {"loss": 0.5}
    assert read_saved(write(tmp_path / "b.pt", {}, {"version": 3}, metadata=b"[1]")).version is None
    assert read_saved(tmp_path / "b.pt").metadata == {}


@pytest.mark.parametrize("text", [b"{", b"[" * 100_000])
def test_metadata_that_are_no_json_are_told(text: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {}, {}, metadata=text)
    with pytest.raises(FormatError, match=r"a\.pt/metadata\.json: is not JSON .*; use another checkpoint"):
        read_saved(path)


def test_a_run_is_read_and_rebuilt(short: Callable[..., Any]) -> None:
    run = short("trainer.ema_decay=0.5")
    saved = read_saved(run.directory)
    assert saved.target == "runner.models.mlp.MLP"
    assert saved.where == run.checkpoint().path
    model = rebuild(saved)
    assert all(torch.equal(value, saved.tensors[name]) for name, value in model.state_dict().items())
    averaged = read_saved(f"{run.directory}@step={run.checkpoint().step}", weights="averaged")
    assert not torch.equal(*(next(iter(one.tensors.values())) for one in (saved, averaged)))


def test_an_echo_state_network_is_read_and_rebuilt(tmp_path: Path) -> None:
    network = classic_esn(20, 1, 1)
    network.save(tmp_path / "esn.pt")
    content = torch.load(tmp_path / "esn.pt", weights_only=False)
    content["metadata"]["best_loss"] = 0.5
    torch.save(content, tmp_path / "esn.pt")
    saved = read_saved(tmp_path / "esn.pt")
    assert saved.target == "runner.models.esn.ESNModel"
    assert saved.metadata["best_loss"] == 0.5
    assert saved.checkpoint is None
    model = rebuild(saved)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("config", [None, {"width": 3}, {"_target_": 3}, "savednets.Net"])
def test_weights_of_another_program_are_read_and_say_that_they_lack_a_model(config: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "config": config, "args": object}, path)
    saved = read_saved(path)
    assert (saved.config, saved.target, saved.checkpoint) == ({}, None, None)
    assert list(saved.tensors) == ["a"]
    with pytest.raises(CheckpointError) as caught:
        rebuild(saved)
    assert str(caught.value) == (
        f"{path}: does not tell how its model is made; make the model yourself, and load the weights into it"
    )


def test_nothing_there_is_told_as_files_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_saved(tmp_path / "gone.pt")
    assert isinstance(caught.value, MissingError)
    assert str(caught.value) == (
        f"{tmp_path}/gone.pt: is not there; give a run, a checkpoint, or a file that holds a model"
    )


def test_of_a_file_there_is_nothing_to_choose(save: Callable[..., Path]) -> None:
    path = save(nn.Linear, 2, 1)
    assert opened(f"{path}@latest").path == path
    with pytest.raises(CheckpointError, match="is the checkpoint of step 0, not 3"):
        read_saved(path, 3)
    with pytest.raises(CheckpointError, match="chooses 'best' already, and which is 3; leave one of them out"):
        opened(f"{path}@best", 3)
    with pytest.raises(CheckpointError, match="has no averaged weights"):
        read_saved(path, weights="averaged")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 99])
def test_what_holds_no_model_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pt: "):
        read_saved(tmp_path / "x.pt")


# ---- making the model again ----


def test_arguments_stand_in_for_stored_ones(save: Callable[..., Path], nets: Any) -> None:
    saved = read_saved(save(nets.Net, 3, activation=lambda x: x))
    remember(nets.Net)
    with pytest.raises(CheckpointError, match=r"Net\(activation=...\) is a lambda, .* pass it"):
        rebuild(saved)
    assert rebuild(saved, arguments={"activation": torch.relu}).activation is torch.relu


def test_a_class_must_be_trusted_handed_over_or_remembered(save: Callable[..., Path], nets: Any) -> None:
    saved = read_saved(save(nets.Net, 3))
    with pytest.raises(TrustError) as caught:
        rebuild(saved)
    assert str(caught.value).splitlines() == [
        f"{saved.where}: model: _target_ 'savednets.Net' is not trusted; if you know what it does, "
        'add +trust=[savednets] (in Python: trust=["savednets"])',
        f"the source that it was saved with is in it: runs show {saved.where} --source",
    ]
    assert type(rebuild(saved, trust=["savednets"])) is nets.Net
    assert type(rebuild(saved, given={"savednets.Net": nets.Renamed})) is nets.Renamed
    remember(nets.Net)
    assert type(rebuild(saved)) is nets.Net


def test_a_class_that_has_moved_is_found_where_it_is_said_to_be(save: Callable[..., Path], nets: Any) -> None:
    saved = read_saved(save(nets.Net, 3))
    assert type(rebuild(saved, moved={"savednets.Net": "savednets.Renamed"})) is nets.Renamed
    assert type(rebuild(saved, moved={"savednets.Net": nets.Renamed})) is nets.Renamed


def test_where_a_class_is_gone_its_source_is_named(save: Callable[..., Path], nets: Any) -> None:
    saved = read_saved(save(nets.Net, 3))
    remember(nets.Net)
    del nets.Net
    with pytest.raises(TrustError) as caught:
        rebuild(saved)
    first, last = str(caught.value).splitlines()
    assert "'savednets.Net' cannot be imported" in first
    assert "".join(traceback.format_exception(caught.value)).count("'savednets.Net' cannot be imported") == 1
    assert last == f"the source that it was saved with is in it: runs show {saved.where} --source"


def test_a_secret_is_not_in_the_file_and_is_asked_for(save: Callable[..., Path], tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {}, {"model": {"_target_": "torch.nn.Linear", "password": "hunter2"}})
    assert b"hunter2" not in path.read_bytes()
    with pytest.raises(CheckpointError, match=r"Linear\(password=...\) was left out when it was saved"):
        rebuild(read_saved(path))


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (3, "model is 3; wanted a mapping with a _target_"),
        ({"width": 3}, "model has None for a name; wanted MODULE.NAME"),
        ({"_target_": "os.system", "command": "true"}, "_target_ 'os.system' is not trusted"),
        ({"_target_": "torch.nn.Linear", "in_features": {"$": "x"}}, "model is nothing that this program writes"),
    ],
)
def test_a_config_that_nobody_wrote_is_refused(node: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, TrustError), match=problem):
        rebuild(read_saved(write(tmp_path / "a.pt", {}, {"model": node})))


def test_what_is_built_must_be_a_module(nets: Any, tmp_path: Path) -> None:
    saved = read_saved(write(tmp_path / "a.pt", {}, {"model": {"_target_": "savednets.make"}}))
    with pytest.raises(ConfigError, match=r"model\._target_=savednets.make built a NoneType; wanted a torch.nn.Module"):
        rebuild(saved, trust=["savednets"])


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {"weight": torch.ones(1, 3)}, {"model": call_of(nn.Linear, (2, 1), {})})
    with pytest.raises(CheckpointError) as caught:
        rebuild(read_saved(path))
    assert str(caught.value) == (
        f"{path}: cannot be loaded into Linear: missing in the file: bias; does not fit: weight is float32 [1, 3] "
        "there and float32 [1, 2] here; its class is not what it was when it was saved, or its arguments are others"
    )


def test_a_file_of_no_run_takes_no_overrides(save: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r'so that nothing can be overridden; give arguments={"NAME": VALUE}'):
        rebuild(read_saved(save(nn.Linear, 2, 1)), overrides=["model.in_features=3"])
    with pytest.raises(ConfigError, match=r"overrides='a=b': wanted a list of overrides; write \['a=b'\]"):
        rebuild(read_saved(save(nn.Linear, 2, 1)), overrides="a=b")


def test_building_draws_no_random_number_that_shows(save: Callable[..., Path]) -> None:
    saved = read_saved(save(nn.Linear, 2, 1))
    before = torch.get_rng_state()
    rebuild(saved)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_names_may_have_in_front_what_was_wrapped_around_the_model(prefix: str, tmp_path: Path) -> None:
    for cls, args in ((nn.Linear, (2, 1)), (Wrapping, ())):
        tensors = {f"{prefix}{name}": value for name, value in cls(*args).state_dict().items()}
        path = write(tmp_path / "a.pt", tensors, {"model": call_of(cls, args, {})})
        model = rebuild(read_saved(path), trust=[__name__])
        assert all(torch.equal(value, tensors[f"{prefix}{name}"]) for name, value in model.state_dict().items())


def test_names_that_differ_in_front_stay() -> None:
    names = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert bare_names(names, {"a", "b"}) is names
    assert bare_names({}, {"a"}) == {}


def test_without_a_part_the_names_are_still_those_of_the_model() -> None:
    assert bare_names({"module.weight": torch.ones(1)}, {"module.weight", "module.bias"}).keys() == {"module.weight"}
    assert bare_names({"module.weight": torch.ones(1)}, {"weight", "bias"}).keys() == {"weight"}


# ---- the same of runs ----


@pytest.fixture
def run_of_net(short: Callable[..., Any], tmp_path: Path) -> Any:
    """A run of a model of the user's own; the module is `savedrunnets`."""
    (tmp_path / "savedrunnets.py").write_text(
        "from runner.models.mlp import MLP\nclass Net(MLP): ...\nclass Renamed(Net): ...\n"
    )
    yield short("model._target_=savedrunnets.Net", "model.hidden=[4]")
    sys.modules.pop("savedrunnets", None)


def test_a_class_of_a_run_that_has_moved_is_found(run_of_net: Any, tmp_path: Path) -> None:
    (tmp_path / "savednewnets.py").write_text("from savedrunnets import *\nclass Net(Renamed): ...\n")
    saved = read_saved(run_of_net.directory)
    assert type(rebuild(saved)).__name__ == "Net"
    renamed = sys.modules["savedrunnets"].Renamed
    for new in ("savedrunnets.Renamed", renamed):
        assert type(rebuild(saved, moved={"savedrunnets.Net": new})) is renamed
        with_more = rebuild(saved, moved={"savedrunnets.Net": new}, overrides=["runtime.threads=2"])
        assert type(with_more) is renamed
    assert type(rebuild(saved, moved={"savedrunnets.Net": "savednewnets.Net"})).__module__ == "savednewnets"


def test_arguments_of_a_run_stand_in_for_its_config(run_of_net: Any) -> None:
    saved = read_saved(run_of_net.directory)
    with pytest.raises(CheckpointError, match=r"saved \(4, 64\), wanted \(5, 64\)"):
        rebuild(saved, arguments={"hidden": [5]})
    assert rebuild(saved, arguments={"dropout": 0.0}).training


def test_runner_load_opens_them_all(
    save: Callable[..., Path], run_of_net: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "runner")
    classic_esn(20, 1, 1).save(tmp_path / "esn.pt")
    assert isinstance(runner.load(save(nn.Linear, 2, 1)), nn.Linear)
    assert type(runner.load(tmp_path / "esn.pt")).__name__ == "ESNModel"
    assert (
        type(runner.load(run_of_net.directory, moved={"savedrunnets.Net": "savedrunnets.Renamed"})).__name__
        == "Renamed"
    )
    assert caplog.messages == []


def test_a_damaged_file_is_noticed(save: Callable[..., Path]) -> None:
    path = save(nn.Linear, 200, 1)
    weight = runner.load(path).state_dict()["weight"]
    raw = bytearray(path.read_bytes())
    raw[raw.index(weight.numpy().tobytes()) + 100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DamagedError):
        rebuild(read_saved(path))
