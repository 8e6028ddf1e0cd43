"""Weights out of the files of other programs, made by those programs; and files that mean no good."""

import io
import json
import os
import pickle
import struct
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

from runner.checkpoint.archive import pack
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.interop import look, read_weights
from runner.errors import CheckpointError, DamagedError, FormatError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)


class Config:
    """A class that only the program which made a file knows."""

    def __init__(self, lr: float) -> None:
        self.lr = lr


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(Net().state_dict())


def equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


SAVED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "a state dict": lambda state: state,
    "an ordered one": lambda state: OrderedDict(state),
    "parameters": lambda state: {name: nn.Parameter(t) if t.is_floating_point() else t for name, t in state.items()},
    "the tutorial's dict": lambda state: {
        "epoch": 3,
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        "loss": 0.5,
    },
    "under state_dict": lambda state: {"state_dict": state, "arch": "resnet50", "best_acc1": torch.tensor(70.0)},
    "under model": lambda state: {"model": state, "epoch": 1},
    "with arguments": lambda state: {"model": state, "args": Namespace(lr=0.1, layers=[1, 2])},
    "with numbers beside": lambda state: {**state, "step": 3},
    "averaged by torch": lambda state: {
        "n_averaged": torch.tensor(3),
        **{f"module.{name}": value for name, value in state.items()},
    },
}


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saves(kind: str, legacy: bool, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.anything"
    torch.save(SAVED[kind](state), path, _use_new_zipfile_serialization=not legacy)
    if legacy and kind == "with arguments":
        with pytest.raises(FormatError, match=r"holds something else than weights .*Namespace.*nothing was run"):
            read_weights(path)
        return
    found = read_weights(path)
    expected = {f"module.{name}": t for name, t in state.items()} if kind == "averaged by torch" else state
    assert equal(found.tensors, expected) and str(path) in found.what
    if kind == "with arguments":
        assert found.notes == ("beside the weights are argparse.Namespace; they were not built",)
    elif kind == "with numbers beside":
        assert found.notes == ("no tensors, and passed over: step",)
    else:
        assert found.notes == ()


def lightning(state: dict[str, Tensor], hyper_parameters: Any) -> dict[str, Any]:
    """A checkpoint as Lightning 2.6 lays it out."""
    return {
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": OrderedDict((f"model.{name}", value) for name, value in state.items()),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_loop.state_dict": {"_batches_that_stepped": 2}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": None, "kth_value": torch.tensor(1.0)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3, 4)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [{"step_size": 1, "_last_lr": [0.01]}],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper_parameters,
    }


@pytest.mark.parametrize(
    ("hyper_parameters", "not_built"),
    [
        ({"lr": 0.1}, None),
        ({"root": Path("/data")}, "pathlib.PosixPath"),
        ({"net": nn.Linear(2, 2)}, "torch.nn.modules.linear.Linear"),
        ({"config": OmegaConf.create({"a": {"b": [1, "${c}"]}, "c": 3})}, "omegaconf.dictconfig.DictConfig"),
        ({"counts": defaultdict(list, {1: [2]})}, "collections.defaultdict"),
        (Namespace(lr=0.1), "argparse.Namespace"),
    ],
)
def test_a_lightning_checkpoint(
    hyper_parameters: Any, not_built: str | None, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "epoch=1-step=2.ckpt"
    torch.save(lightning(state, hyper_parameters), path)
    found = read_weights(path)
    assert equal(found.tensors, {f"model.{name}": value for name, value in state.items()})
    assert found.what == f"'state_dict' in the Lightning checkpoint {path}"
    if not_built is None:
        assert not found.notes
    else:
        assert not_built in found.notes[0] and "not built" in found.notes[0]


DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn]


@pytest.mark.parametrize("name", ["model.safetensors", "weights", "weights.pt"])
def test_a_safetensors_file_by_its_content(name: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    state |= {str(dtype): torch.ones(3, 2).to(dtype) for dtype in DTYPES} | {"empty": torch.ones(0, 3)}
    save_file(state, tmp_path / name, {"format": "pt"})
    found = read_weights(tmp_path / name)
    assert equal(
        {n: t.view(torch.uint8) if t.dim() else t for n, t in found.tensors.items()},
        {n: t.view(torch.uint8) if t.dim() else t for n, t in state.items()},
    )
    assert found.what == f"the safetensors file {tmp_path / name}"


def hugging_face(state: dict[str, Tensor], folder: Path, *, ending: str = "safetensors") -> dict[str, str]:
    """A folder as `save_pretrained` leaves it; the map of its index."""
    folder.mkdir(exist_ok=True)
    names = sorted(state)
    weight_map = {}
    for number, part in enumerate((names[:3], names[3:]), 1):
        file = f"model-{number:05d}-of-00002.{ending}"
        tensors = {name: state[name] for name in part}
        if ending == "bin":
            torch.save(tensors, folder / file)
        else:
            save_file(tensors, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"model.{ending}.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text("{}")
    return weight_map


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_hugging_face_folder_in_several_files(ending: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    hugging_face(state, tmp_path / "model", ending=ending)
    found = read_weights(tmp_path / "model")
    assert equal(found.tensors, state) and found.what.startswith("the 2 files of ")
    assert equal(read_weights(tmp_path / "model" / f"model.{ending}.index.json").tensors, state)


def test_a_hugging_face_folder_with_one_file_or_links(state: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_file(state, tmp_path / "blob", {"format": "pt"})
    # As its cache has them.
    (tmp_path / "model" / "model.safetensors").symlink_to("../blob")
    assert equal(read_weights(tmp_path / "model").tensors, state)
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(state, tmp_path / "model" / "pytorch_model.bin")
    assert equal(read_weights(tmp_path / "model").tensors, state)


def test_a_folder_with_several_candidates_or_none(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"holds no weights \(there is nothing\); wanted a file of torch\.save"):
        read_weights(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        save_file(state, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"holds a\.safetensors, b\.safetensors; name one of them"):
        read_weights(tmp_path)


@pytest.mark.parametrize("file", ["../evil.safetensors", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "x\0"])
def test_an_index_cannot_lead_out_of_its_folder(file: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    hugging_face(state, tmp_path / "model")
    save_file(state, tmp_path / "evil.safetensors")
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"body.weight": file}}))
    with pytest.raises(FormatError, match=r"puts 'body\.weight' into .*; wanted the name of a file in the same folder"):
        read_weights(tmp_path / "model")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "has no 'weight_map'"),
        ('{"weight_map": {}}', "has no 'weight_map'"),
        ('{"weight_map": {"a": 1}}', "has no 'weight_map'"),
        ('{"weight_map": {"a": "gone.safetensors"}}', r"gone\.safetensors: is not there, and .* names it"),
        ('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "has no tensor 'a', and"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_an_index_that_is_wrong(index: str, message: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    hugging_face(state, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "model")


def test_what_the_index_does_not_list_is_passed_over_and_said(state: dict[str, Tensor], tmp_path: Path) -> None:
    weight_map = hugging_face(state, tmp_path / "model")
    del weight_map["body.bias"]
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    found = read_weights(tmp_path / "model")
    assert "body.bias" not in found.tensors and "1 tensors that model.safetensors.index.json does not" in found.notes[0]


def test_our_own_runs_and_checkpoints(make_store, save, tmp_path: Path) -> None:
    store = make_store()
    for step, loss in ((1, 0.5), (2, 0.9)):
        save(store, step, val_loss=loss)
    run = store.directory.parent
    for path, which, step in (
        (run, "latest", 2),
        (run, "best", 1),
        (run, 1, 1),
        (store.directory, "latest", 2),
        (store.checkpoints[0].path, "latest", 1),
    ):
        found = read_weights(path, which)
        assert equal(found.tensors, Checkpoint.open(run, step).tensors())
        assert found.what == f"raw weights of the checkpoint {store.checkpoints[step - 1].path}"
    with pytest.raises(CheckpointError, match="has no averaged weights; use the raw ones"):
        read_weights(run, weights="averaged")
    with pytest.raises(CheckpointError, match="weights is 'ema'; wanted 'raw' or 'averaged'"):
        read_weights(run, weights="ema")


@pytest.mark.parametrize("name", ["packed.zip", "packed.pt", "packed"])
def test_our_own_packed_files(name: str, make_store, save, tmp_path: Path) -> None:
    store = make_store()
    save(store, 1)
    pack(store.checkpoints[0], tmp_path / "packed.zip" if name == "packed" else tmp_path / name)
    if name == "packed":
        (tmp_path / "packed.zip").rename(tmp_path / name)
    found = read_weights(tmp_path / name)
    assert equal(found.tensors, store.checkpoints[0].tensors())
    assert found.what == f"raw weights of the checkpoint {tmp_path / name}"
    look(tmp_path / name)


def test_choices_are_for_our_own_runs(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"is no run, so 'best' cannot be chosen in it; leave '@best' out"):
        read_weights(tmp_path / "a.pt", "best")
    with pytest.raises(CheckpointError, match="has no averaged weights that are known as such"):
        read_weights(tmp_path / "a.pt", weights="averaged")
    with pytest.raises(CheckpointError, match=r"nowhere: is not there; wanted a file of torch\.save or safetensors"):
        read_weights(tmp_path / "nowhere")


class Evil:
    """Runs a command when it is unpickled by anything that trusts it."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.what = (function, args)

    def __reduce__(self) -> Any:
        return self.what


def evils(marker: Path) -> dict[str, Evil]:
    import importlib
    import runpy
    import shutil
    import subprocess
    import webbrowser

    touch = f"touch {marker}"
    return {
        "os.system": Evil(os.system, touch),
        "posix.system": Evil(os.system, touch),
        "subprocess.Popen": Evil(subprocess.Popen, touch.split()),
        "builtins.eval": Evil(eval, f"open({str(marker)!r}, 'w').close()"),
        "builtins.exec": Evil(exec, f"open({str(marker)!r}, 'w').close()"),
        "builtins.open": Evil(open, str(marker), "w"),
        "builtins.getattr": Evil(getattr, Path, "cwd"),
        "io.open": Evil(io.open, str(marker), "w"),
        "runpy": Evil(runpy.run_path, str(marker)),
        "importlib": Evil(importlib.import_module, "antigravity"),
        "shutil": Evil(shutil.copy, "/etc/hostname", str(marker)),
        "webbrowser": Evil(webbrowser.open, "file:///"),
        "pickle": Evil(pickle.loads, pickle.dumps(Evil(os.system, touch))),
        "torch.load": Evil(torch.load, str(marker)),
        "path": Evil(Path.touch, marker),
    }


PLACES: dict[str, Callable[[Any], Any]] = {
    "alone": lambda evil: evil,
    "in the state dict": lambda evil: {"w": torch.ones(2), "x": evil},
    "beside it": lambda evil: {"state_dict": {"w": torch.ones(2)}, "args": evil, "pytorch-lightning_version": "2"},
}


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", evils(Path()))
def test_nothing_in_a_pickle_is_run(
    form: str, place: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "marker"
    path = tmp_path / "evil.ckpt"
    value = PLACES[place](evils(marker)[name])
    if form == "pickle":
        path.write_bytes(pickle.dumps(value, protocol=2))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    if form == "zip" and name == "torch.load" and place != "alone":
        # Named by nothing that acts in the standard library: an empty container stands for it.
        assert list(read_weights(path).tensors) == ["w"]
    else:
        with pytest.raises(CheckpointError, match=r"evil\.ckpt: .*; "):
            read_weights(path)
    assert not marker.exists()


def test_the_hostile_pickles_would_run_where_they_are_trusted(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for name in ("builtins.open", "subprocess.Popen", "path"):
        torch.save(evils(marker)[name], tmp_path / "evil.pt")
        made = torch.load(tmp_path / "evil.pt", weights_only=False)
        if name == "subprocess.Popen":
            made.wait()
        elif name == "builtins.open":
            made.close()
        assert marker.exists()
        marker.unlink()


class Own(nn.Sequential):
    """A model of the user's own."""


def test_a_whole_module_is_not_built(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(
        FormatError, match=r"module\.pt: is a whole pickled model \(torch\.nn\.modules\.linear\.Linear\)"
    ):
        read_weights(tmp_path / "module.pt")
    torch.save({"epoch": 1, "net": Own(nn.Linear(2, 2))}, tmp_path / "one.pt")
    with pytest.raises(
        FormatError,
        match=r"one\.pt: holds a whole pickled model under 'net' \(\S+\.Own\), whose classes would have to be run .*"
        r"torch\.save\(model\.state_dict\(\), FILE\), or @save_load for its class$",
    ):
        read_weights(tmp_path / "one.pt")
    torch.save({"model": Config(0.1)}, tmp_path / "own.pt")
    with pytest.raises(FormatError, match=r"holds 'model', and none of them is a state dict.*Config was not built"):
        read_weights(tmp_path / "own.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(FormatError, match=r"is a TorchScript program, which would have to be run"):
        read_weights(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no weights \\(it is empty\\)"),
        (b"\x89PNG\r\n", "holds no weights \\(it begins with"),
        (b"{}", "holds no weights"),
        (b"\x80", "holds something else than weights"),
        (b"\x80\x02.", "holds something else than weights"),
        (b"PK\x03\x04", "is damaged or cut short"),
        (b"\0" * 257 + b"ustar", "is a tar file, as torch saved before version 0.4"),
        (struct.pack("<Q", 2**62) + b"{", "holds no weights"),
        (struct.pack("<Q", 2) + b"{}", "holds no tensor"),
        (struct.pack("<Q", 2) + b"{x", "its header cannot be read"),
    ],
)
def test_what_is_no_weights_is_told(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "file")


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="is no regular file"):
        read_weights(tmp_path / "pipe")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(FormatError, match="holds a list; wanted weights"):
        read_weights(tmp_path / "list.pt")
    torch.save({"a": 1}, tmp_path / "dict.pt")
    with pytest.raises(FormatError, match="holds 'a', and none of them is a state dict"):
        read_weights(tmp_path / "dict.pt")
    torch.save({"w": torch.ones(2, device="meta")}, tmp_path / "meta.pt")
    with pytest.raises(FormatError, match="none of them is a state dict"):
        read_weights(tmp_path / "meta.pt")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(FormatError, match=r"is a zip file of something else \(it holds 'a\.txt'\)"):
        read_weights(tmp_path / "some.zip")


def rewritten(path: Path, change: Callable[[zipfile.ZipInfo, bytes], tuple[zipfile.ZipInfo, bytes] | None]) -> None:
    """Write a zip file again, with every entry changed."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in entries:
            new = change(info, data)
            if new is not None:
                archive.writestr(*new)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    torch.save({"w": torch.zeros(50_000_000, dtype=torch.uint8)}, path)

    def compress(info: zipfile.ZipInfo, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
        info.compress_type = zipfile.ZIP_DEFLATED
        return info, data

    rewritten(path, compress)
    assert path.stat().st_size < 60_000
    with pytest.raises(FormatError, match=r"compressed or encrypted, as torch\.save never writes it"):
        read_weights(path)


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "overlap.pt"
    torch.save({f"w{i}": torch.full((10_000,), i) for i in range(20)}, path)
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    begin = struct.unpack_from("<I", data, end + 16)[0]
    # Every entry of the directory points at the first tensor of its length.
    first: dict[int, int] = {}
    at = begin
    while data[at : at + 4] == b"PK\x01\x02":
        size, name, extra, comment = (
            struct.unpack_from("<I", data, at + 24)[0],
            *struct.unpack_from("<3H", data, at + 28),
        )
        first.setdefault(size, struct.unpack_from("<I", data, at + 42)[0])
        struct.pack_into("<I", data, at + 42, first[size])
        at += 46 + name + extra + comment
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"overlap\.pt: is damaged or cut short"):
        read_weights(path)


def test_an_entry_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.pt"
    torch.save({"w": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("twice/data/0", b"12345678")
    with pytest.raises(FormatError, match="holds 'twice/data/0' twice"):
        read_weights(path)


@pytest.mark.parametrize("number", [b"J\xff\xff\xff\x7f", b"K\xfa", b"\x8a\x08" + b"\xff" * 7 + b"\x3f"])
def test_absurd_sizes_are_refused(number: bytes, tmp_path: Path) -> None:
    path = tmp_path / "absurd.pt"
    torch.save({"w": torch.ones(77)}, path)

    def lie(info: zipfile.ZipInfo, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
        return info, data.replace(b"KM", number) if info.filename.endswith("data.pkl") else data

    rewritten(path, lie)
    with pytest.raises(CheckpointError, match=r"absurd\.pt: "):
        read_weights(path)


def test_every_flipped_byte_is_noticed_or_changes_nothing(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    good = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        held = [place for info in archive.infolist() for place in range(*_extent(good, info))]
    noticed = set()
    for place in [*held, *range(0, len(good), 7)]:
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x41]) + good[place + 1 :])
        try:
            assert equal(read_weights(path).tensors, state)
        except CheckpointError as error:
            assert str(path) in str(error)
            noticed.add(place)
    assert set(held) <= noticed


def _extent(data: bytes, info: zipfile.ZipInfo) -> tuple[int, int]:
    name, extra = struct.unpack_from("<2H", data, info.header_offset + 26)
    begin = info.header_offset + 30 + name + extra
    return begin, begin + info.file_size


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_file_cut_short_anywhere_is_refused(form: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    good = path.read_bytes()
    for length in [*range(0, len(good) - 1, 37), len(good) - 1]:
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match=r"weights: "):
            read_weights(path)
    if form == "safetensors":
        path.write_bytes(good + b"x")
        with pytest.raises(DamagedError, match="the file ends at"):
            read_weights(path)
