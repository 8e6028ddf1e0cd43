"""A checkpoint in one file: what it opens with, and that the file of before is there until the new one is whole."""

import copy
import errno
import json
import resource
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.packed import Packed
from runner.checkpoint.single import save_file, written
from runner.errors import CheckpointError, ConfigError, DamagedError, ExistsError, RunnerError, SaveError
from runner.records import Progress

DOCUMENTS = {"config.json": b'{"config": {"door": "here"}, "overrides": []}', "note.txt": b"\x00 anything"}


def state_of(value: float) -> dict[str, Any]:
    weight = torch.full((3, 2), value)
    return {"model": {"weight": weight, "tied": weight}, "optimizer": {"lr": value}, "history": [(1, value)]}


def save(path: Path, value: float = 1.0, **given: Any) -> Checkpoint:
    return save_file(path, state_of(value), documents=DOCUMENTS, facts={"python": "3"}, **given)


def value_in(path: Path) -> float:
    """What was saved there; all of it is verified."""
    checkpoint = Checkpoint.open(path)
    assert checkpoint.verify() == []
    tensors = checkpoint.tensors()
    assert tensors["tied"] is tensors["weight"]
    return float(tensors["weight"][0, 0])


NAMES = ("net.zip", "net.pt", "net.pth", "net.ckpt", "net", "NET.ZIP")


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_state_comes_back_from_any_name(name: str, compress: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    progress = Progress(step=7, epoch=2)
    save(path, 2.5, progress=progress, metrics={"loss": 0.5}, seconds=3.0, compress=compress)
    checkpoint = Checkpoint.open(path)
    assert (checkpoint.progress, checkpoint.metrics, checkpoint.manifest.seconds) == (progress, {"loss": 0.5}, 3.0)
    assert (checkpoint.manifest.facts, checkpoint.reasons) == ({"python": "3"}, ("asked",))
    assert (checkpoint.config, checkpoint.overrides) == ({"door": "here"}, [])
    assert checkpoint.document("note.txt") == DOCUMENTS["note.txt"]
    state = checkpoint.state()
    assert torch.equal(state["model"]["weight"], torch.full((3, 2), 2.5))
    assert (state["optimizer"], state["history"]) == ({"lr": 2.5}, [(1, 2.5)])
    assert value_in(path) == 2.5


@pytest.mark.parametrize("name", [name for name in NAMES if not name.lower().endswith(".zip")])
def test_torch_opens_what_is_no_zip(name: str, tmp_path: Path) -> None:
    save(tmp_path / name, 2.5)
    values = torch.load(tmp_path / name, weights_only=True)
    found: list[Tensor] = [value for value in tensors_in(values) if value.shape == (3, 2)]
    assert found
    assert all(torch.equal(value, torch.full((3, 2), 2.5)) for value in found)


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for inner in value.values() for tensor in tensors_in(inner)] if isinstance(value, dict) else []


def test_zipfile_and_json_alone_read_a_zip(tmp_path: Path) -> None:
    save(tmp_path / "net.zip")
    with zipfile.ZipFile(tmp_path / "net.zip") as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("config.json"))["config"] == {"door": "here"}
        assert archive.read("note.txt") == DOCUMENTS["note.txt"]


def test_a_compressed_file_is_smaller(tmp_path: Path) -> None:
    state = {"model": {"weight": torch.zeros(500, 500)}}
    sizes = []
    for compress in (False, True):
        save_file(tmp_path / "net.pt", state, documents={}, facts={}, compress=compress)
        sizes.append((tmp_path / "net.pt").stat().st_size)
    assert sizes[1] * 50 < sizes[0]
    assert torch.equal(Checkpoint.open(tmp_path / "net.pt").tensors()["weight"], torch.zeros(500, 500))


def test_folders_are_made(tmp_path: Path) -> None:
    save(tmp_path / "a" / "b" / "net.pt")
    assert value_in(tmp_path / "a" / "b" / "net.pt") == 1.0


def test_what_is_there_is_replaced(tmp_path: Path) -> None:
    save(tmp_path / "net.pt", 1.0)
    save(tmp_path / "net.pt", 2.0)
    assert value_in(tmp_path / "net.pt") == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_who_reads_the_old_file_goes_on_reading_it(tmp_path: Path) -> None:
    save(tmp_path / "net.zip", 1.0)
    with (tmp_path / "net.zip").open("rb") as file:
        save(tmp_path / "net.zip", 2.0)
        with zipfile.ZipFile(file) as archive:
            assert archive.testzip() is None


def test_what_is_there_is_kept_if_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    save(path, overwrite=False)
    before = path.read_bytes()
    with pytest.raises(ExistsError) as caught:
        save(path, 2.0, overwrite=False)
    assert isinstance(caught.value, FileExistsError)
    assert isinstance(caught.value, SaveError)
    assert str(caught.value) == f"{path}: stands there already, and overwrite is False; choose another name"
    assert path.read_bytes() == before


def test_a_link_that_leads_nowhere_is_there(tmp_path: Path) -> None:
    (tmp_path / "net.pt").symlink_to(tmp_path / "gone")
    with pytest.raises(ExistsError):
        save(tmp_path / "net.pt", overwrite=False)


def test_of_two_that_are_not_to_overwrite_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    with pytest.raises(ExistsError, match="overwrite is False"), written(path, 0, overwrite=False) as descriptor:
        save(path, 2.0, overwrite=False)
        assert descriptor
    assert value_in(path) == 2.0
    assert [one.name for one in tmp_path.iterdir()] == ["net.pt"]


def test_many_writers_of_one_name_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    threads = [threading.Thread(target=save, args=(path, float(value))) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value_in(path) in range(8)
    assert [one.name for one in tmp_path.iterdir()] == ["net.pt"]


def test_who_opened_a_file_that_was_replaced_reads_what_he_opened(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    save(path, 1.0)
    checkpoint = Checkpoint.open(path)
    save(path, 2.0)
    assert torch.equal(checkpoint.tensors()["weight"], torch.full((3, 2), 1.0))
    assert checkpoint.verify() == []
    assert value_in(path) == 2.0
    assert copy.copy(Packed(path)).manifest() == Checkpoint.open(path).manifest


def test_who_wrote_a_file_that_was_replaced_before_he_read_it_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    checkpoint = save(path, 1.0)
    save(path, 2.0)
    with pytest.raises(DamagedError) as caught:
        checkpoint.tensors()
    assert str(caught.value) == f"{path}: was replaced since it was written; open it again"


def test_who_opened_a_file_that_was_cut_short_in_its_place_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    save(path, 1.0)
    checkpoint = Checkpoint.open(path)
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DamagedError) as caught:
        checkpoint.tensors()
    assert str(caught.value) == f"{path}: was written over since it was opened; open it again"


def test_a_file_that_is_replaced_all_the_time_can_be_opened(tmp_path: Path) -> None:
    path, ended = tmp_path / "net.pt", threading.Event()
    save(path, 0.0)

    def keep_saving() -> None:
        while not ended.is_set():
            save(path, 1.0)

    thread = threading.Thread(target=keep_saving)
    thread.start()
    try:
        for _ in range(20):
            assert Checkpoint.open(path).step == 0
    finally:
        ended.set()
        thread.join()


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SaveError) as caught:
        save(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a folder; wanted the name of a file in it"


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for path in (tmp_path / "a" / "net.pt", tmp_path / "a" / "b" / "net.pt"):
        with pytest.raises(SaveError) as caught:
            save(path)
        assert str(caught.value) == (
            f"{path.parent}: the folder cannot be made: a file is in its place; choose another"
        )


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"model": {"weight": torch.ones(1)}, "fn": print}, r"state\['fn'\] is a builtins.builtin_function_or_method"),
        ({"model": {"weight": torch.empty(1, device="meta")}}, r"is a tensor of .* on meta"),
    ],
)
def test_a_state_that_no_file_can_hold_leaves_the_old_one(state: Any, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    save(path)
    with pytest.raises(SaveError, match=rf"net\.pt: not written: .*{problem}"):
        save_file(path, state, documents={}, facts={})
    assert value_in(path) == 1.0
    assert [one.name for one in tmp_path.iterdir()] == ["net.pt"]


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "model.safetensors", "../x", "a/b", ""])
def test_a_document_cannot_take_the_name_of_something_else(name: str, tmp_path: Path) -> None:
    with pytest.raises((RunnerError, ValueError)):
        save_file(tmp_path / "net.pt", state_of(1.0), documents={name: b""}, facts={})
    assert not list(tmp_path.iterdir())


def test_without_the_library_nothing_is_compressed_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "net.zip")
    for library in ("compression.zstd", "zstandard", "backports.zstd"):
        monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(ConfigError, match="zstandard"):
        save(tmp_path / "net.zip", 2.0, compress=True)
    assert value_in(tmp_path / "net.zip") == 1.0


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
def test_any_failing_call_leaves_the_old_file(
    code: int, overwrite: bool, tmp_path: Path, file_calls: Callable[[], Any]
) -> None:
    path, number = tmp_path / "in" / "net.pt", 0
    if overwrite:
        save(path, 1.0)
    while True:
        try:
            with file_calls().failing(number, code):
                save(path, 2.0, overwrite=overwrite)
            break
        except SaveError as error:
            assert str(path.parent) in str(error)
        left = [one.name for one in path.parent.iterdir()] if path.parent.exists() else []
        assert left == (["net.pt"] if overwrite else [])
        if overwrite and value_in(path) == 2.0:
            # It has its name; only that this lasts could not be made sure.
            save(path, 1.0)
        number += 1
    assert number > 8
    assert value_in(path) == 2.0


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", ["net.zip", "net.pt"])
def test_a_process_that_is_killed_leaves_the_old_or_the_new_file(
    name: str, after: bool, tmp_path: Path, dying: Callable[[Callable[[], object], int, bool], bool]
) -> None:
    path, number = tmp_path / name, 0
    save(path, 1.0)
    seen = set()
    while dying(lambda: save(path, 2.0), number, after):
        seen.add(value_in(path))
        number += 1
    assert number > 8
    assert seen <= {1.0, 2.0} and 1.0 in seen
    save(path, 3.0)
    assert value_in(path) == 3.0
    # What the dead ones left is gone.
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_any_limit_on_the_size_of_files_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    save(path, 1.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1, 100, 4096, path.stat().st_size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(
                SaveError,
                match=r"\(File too large\); .* wanted, more than one file may have here; raise the limit \(`ulimit",
            ):
                save(path, 2.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert value_in(path) == 1.0
        assert [one.name for one in tmp_path.iterdir()] == ["net.pt"]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["net.zip", "net.pt"])
def test_every_flipped_byte_of_a_file_is_noticed(name: str, compress: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    save(path, compress=compress)
    raw = path.read_bytes()
    for position in range(0, len(raw), 61):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :])
        try:
            damages = Checkpoint.open(path).verify()
        except CheckpointError as error:
            damages = [str(error)]
        assert damages, position
        assert all(str(path) in line for line in damages)
