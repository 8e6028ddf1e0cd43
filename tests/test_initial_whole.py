"""Beginning with weights, exporting them and going on, through the commands, in real processes."""

import json
import os
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import runner

pytestmark = pytest.mark.launch

QUICK = ("runtime.device=cpu", "data.batch_size=256", "trainer.max_epochs=1")
UNCHANGED = (*QUICK, "trainer.max_steps=1", "optimizer.lr=0", "hydra.run.dir=next")
"""A run whose only checkpoint holds the weights that it began with."""

Launch = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a trained run, and its weights in the files of other programs."""
    place = tmp_path_factory.mktemp("weights")
    succeeded(launch([*QUICK, "trainer.ema_decay=0.5", "hydra.run.dir=first"], place))
    for file in ("packed.zip", "packed.pt"):
        succeeded(launch(["pack", "first", file], place, script="runs"))
    for file in ("exported.safetensors", "exported.pt"):
        succeeded(launch(["export", "first@best", file], place, script="runs"))
    state = weights_of(place / "first")
    wrapped = {f"module._orig_mod.{name}": value for name, value in state.items()}
    torch.save(state, place / "bare.pt")
    torch.save(state, place / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 1, "model_state_dict": wrapped, "loss": 0.5}, place / "tutorial.pt")
    save_file(state, place / "plain.safetensors", {"format": "pt"})
    torch.save(
        {
            "epoch": 1,
            "global_step": 5,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": OrderedDict((f"net.{name}", value) for name, value in state.items()),
            "loops": {},
            "callbacks": {},
            "optimizer_states": [],
            "lr_schedulers": [],
            "hyper_parameters": {"args": Namespace(root=Path("/data"))},
        },
        place / "lightning.ckpt",
    )
    (place / "hub").mkdir()
    names = sorted(state)
    files = {"model-00001-of-00002.safetensors": names[:2], "model-00002-of-00002.safetensors": names[2:]}
    for file, part in files.items():
        save_file({name: state[name] for name in part}, place / "hub" / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (place / "hub" / "model.safetensors.index.json").write_text(json.dumps(index))
    return place


@pytest.fixture(autouse=True)
def _nothing_is_left_over(place: Path) -> Iterator[None]:
    before = sorted(os.listdir(place))  # noqa: PTH208
    yield
    for path in place.iterdir():
        if path.name not in before and path.is_dir():
            remove(path)


def remove(path: Path) -> None:
    for inner in sorted(path.rglob("*"), reverse=True):
        inner.rmdir() if inner.is_dir() and not inner.is_symlink() else inner.unlink()
    path.rmdir()


def succeeded(done: CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def refused(done: CompletedProcess[str]) -> list[str]:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return [line.removeprefix("runner: ").removeprefix("runs: ") for line in done.stderr.splitlines()]


def weights_of(run: Path) -> dict[str, Tensor]:
    return runner.Checkpoint.open(run).tensors()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


KINDS = {
    "first": "raw weights of the checkpoint",
    "first@best": "raw weights of the checkpoint",
    "first@step=5": "raw weights of the checkpoint",
    "packed.zip": "raw weights of the checkpoint",
    "packed.pt": "raw weights of the checkpoint",
    "exported.safetensors": "the safetensors file",
    "exported.pt": "'model_state_dict' in the file",
    "bare.pt": "the file",
    "legacy.pt": "the file",
    "tutorial.pt": "'model_state_dict' in the file",
    "plain.safetensors": "the safetensors file",
    "hub": "the 2 files of",
}


def test_runs_begin_with_weights_of_every_kind_though_each_has_its_own_directory(launch: Launch, place: Path) -> None:
    swept = [*UNCHANGED, "hydra.sweep.dir=sweep", "hydra.job.chdir=true"]
    told = succeeded(launch(["-m", *swept, f"init_from={','.join(KINDS)}"], place))
    lines = [line.partition(str(place))[0] for line in told.splitlines() if line.startswith("begins with")]
    assert lines == [f"begins with 6 of 6 tensors (104 kB) out of {what} " for what in KINDS.values()]
    for job, _ in enumerate(KINDS):
        assert same(weights_of(place / "sweep" / str(job)), weights_of(place / "first"))
    problems = refused(launch(["-m", *swept, "init_from=bare.pt,nowhere.pt"], place))
    assert any("nowhere.pt: is not there" in line for line in problems)


def test_a_run_begins_with_averaged_weights(launch: Launch, place: Path) -> None:
    told = succeeded(launch([*UNCHANGED, "init_from=packed.pt", "init.weights=averaged"], place))
    assert "begins with 6 of 6 tensors (104 kB) out of averaged weights of the checkpoint" in told
    averaged = runner.Checkpoint.open(place / "first").state()["averaged"]["model"]
    assert same(weights_of(place / "next"), averaged) and not same(averaged, weights_of(place / "first"))


def test_a_run_begins_with_a_lightning_checkpoint(launch: Launch, place: Path) -> None:
    head, *_, advice = refused(launch([*UNCHANGED, "init_from=lightning.ckpt"], place))
    assert head.endswith("none of its 6 tensors fits MLP") and not (place / "next").exists()
    assert advice == "type 'init.rename={net.:\"\"}', after which most names are the same"
    told = succeeded(launch([*UNCHANGED, "init_from=lightning.ckpt", 'init.rename={net.:""}'], place))
    assert "out of 'state_dict' in the Lightning checkpoint" in told
    assert "beside the weights are argparse.Namespace, pathlib.PosixPath; they were not built" in told
    assert same(weights_of(place / "next"), weights_of(place / "first"))


def test_what_does_not_fit_is_told_and_nothing_is_left(launch: Launch, place: Path) -> None:
    head, *lines, advice = refused(launch([*UNCHANGED, "init_from=first", "model.hidden=[128]"], place))
    assert head.startswith("init_from=first: raw weights of the checkpoint ") and head.endswith("does not fit MLP")
    assert [line.partition(":")[0] for line in lines] == ["not in the model", "does not fit"]
    assert advice == "type init.strict=false to load what fits"
    assert not (place / "next").exists()
    told = succeeded(launch([*UNCHANGED, "init_from=first", "model.hidden=[128]", "init.strict=false"], place))
    assert "begins with 2 of 4 tensors" in told and "\nnot in the model: layers." in told and "\ndoes not fit:" in told


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("init_from=nowhere", "nowhere: is not there; wanted a file of torch.save or safetensors with a state dict"),
        ("init_from=first@step=7", "has no checkpoint of step 7"),
        ("init_from=first/run.json", "holds no weights (it begins with b'{"),
    ],
)
def test_what_cannot_be_begun_with_is_refused_before_anything_is_made(
    override: str, message: str, launch: Launch, place: Path
) -> None:
    problems = refused(launch([*UNCHANGED, override], place))
    assert message in problems[0] and problems[0].startswith("init_from=")
    assert not (place / "next").exists()


def test_a_hostile_file_runs_nothing(launch: Launch, place: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return os.system, (f"touch {tmp_path / 'marker'}",)

    torch.save({"state_dict": {**weights_of(place / "first"), "x": Evil()}}, tmp_path / "evil.pt")
    environment = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    problems = refused(launch([*UNCHANGED, f"init_from={tmp_path / 'evil.pt'}"], place, env=environment))
    assert "holds something else than weights" in problems[0] and "nothing was run" in problems[0]
    assert not (tmp_path / "marker").exists() and not (place / "next").exists()


def test_a_resume_goes_on_though_the_file_is_gone(launch: Launch, place: Path, tmp_path: Path) -> None:
    os.link(place / "bare.pt", tmp_path / "bare.pt")
    line = [*QUICK, "scheduler=constant", f"init_from={tmp_path / 'bare.pt'}"]
    succeeded(launch([*line, "trainer.max_epochs=2", "hydra.run.dir=whole"], place))
    succeeded(launch([*line, "hydra.run.dir=next"], place))
    (tmp_path / "bare.pt").unlink()
    told = succeeded(launch(["+resume=next", "trainer.max_epochs=2"], place))
    assert "begins with" not in told
    assert same(weights_of(place / "next"), weights_of(place / "whole"))
    *_, advice = refused(launch(["+resume=next", "init_from=first", "trainer.max_epochs=3"], place))
    assert advice.startswith("the run has begun, and weights are not loaded into it again; leave this out")


def test_exporting(launch: Launch, place: Path, tmp_path: Path) -> None:
    checkpoint = runner.Checkpoint.open(place / "first")
    file = tmp_path / "a b.safetensors"
    told = succeeded(launch(["export", "first", file, "--weights", "averaged"], place, script="runs"))
    assert told == f"exported {file}  {told.split('  ')[1]}  averaged weights of step 5\n"
    assert same(load_file(file), checkpoint.state()["averaged"]["model"])
    for arguments, message in (
        (["first", file], "stands there already, and nothing is overwritten; choose another name"),
        (["first", tmp_path / "a.bin"], "exports end in .safetensors, .pt or .pth; choose one of these"),
        (["first", tmp_path / "a.pt", "--weights=ema"], "weights is 'ema'; wanted 'raw' or 'averaged'"),
        (["nowhere", tmp_path / "a.pt"], "nowhere"),
    ):
        assert message in refused(launch(["export", *arguments], place, script="runs"))[0]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    packed = tmp_path / "from packed.pt"
    succeeded(launch(["export", "packed.zip", packed], place, script="runs"))
    assert same(torch.load(packed, weights_only=True)["model_state_dict"], checkpoint.tensors())
