"""Clocks that jump, very many checkpoints, very many or very odd tensors, odd names and odd modes."""

import os
import stat
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import FileCalls, keeping
from torch import Tensor

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.manifest import read_manifest, to_bytes
from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.records import Monitor, Progress, Saved

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]
IsWhole = Callable[[Checkpoint], bool]
Same = Callable[[Any, Any], bool]


def save_state(store: CheckpointStore, state: dict[str, Any], step: int = 1) -> Checkpoint:
    saved = store.save(state, progress=Progress(step=step), reasons=("end",), metrics={}, documents={}, facts={}).wait()
    return Checkpoint.open(saved.path)


def comes_back(store: CheckpointStore, state: dict[str, Any], same: Same) -> bool:
    checkpoint = save_state(store, state)
    return checkpoint.verify() == [] and same(checkpoint.state(), state)


NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
CLOCKS = {
    "runs backwards": [NOON - timedelta(hours=step) for step in range(8)],
    "jumps": [NOON + timedelta(days=days) for days in (0, 1, -4000, 5, -1, 2900000, 0, 0)],
    "stands still": [NOON] * 8,
    "has a time zone": [NOON.astimezone().replace(tzinfo=None).astimezone() + timedelta(hours=h) for h in range(8)],
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_no_clock_decides_which_checkpoint_is_the_newest_or_is_kept(
    clock: str, tmp_path: Path, save: Save, is_whole: IsWhole
) -> None:
    times = iter(CLOCKS[clock])
    keep = KeepPolicy(last=2, best=1, every_steps=None, every_hours=2 / 3600)
    directory = tmp_path / "checkpoints"

    def start() -> CheckpointStore:
        monitor = Monitor("val_loss", "min")
        return CheckpointStore(directory, run="r", keep=keep, monitor=monitor, now=lambda: next(times))

    store = start()
    for step, loss in enumerate((5, 4, 1, 3, 2, 6, 7), 1):
        if step == 4:
            store.close()
            store = start()
        save(store, step, val_loss=loss)
        assert Checkpoint.open(directory).step == step
    # The last two, the best, and the first of every two seconds of training.
    assert [checkpoint.step for checkpoint in store.checkpoints] == [2, 3, 4, 6, 7]
    assert Checkpoint.open(directory, "best").step == 3
    assert all(map(is_whole, store.checkpoints))
    store.close()


def multiply(first: Path, count: int) -> None:
    """Checkpoints of the steps up to `count`, of manifests only: the others' files are not even there."""
    manifest = read_manifest(first)
    for step in range(2, count + 1):
        path = first.with_name(f"step-{step:09d}")
        path.mkdir()
        one = replace(manifest, generation=step, progress=Progress(step=step), metrics={"val_loss": abs(step - 77.0)})
        (path / "manifest.json").write_bytes(to_bytes(one))


def test_ten_thousand_checkpoints_are_listed_chosen_from_and_added_to(
    make_store: MakeStore, save: Save, is_whole: IsWhole
) -> None:
    store = make_store()
    multiply(save(store, 1).path, 10_000)
    assert Checkpoint.open(store.directory).step == 10_000
    assert Checkpoint.open(store.directory, 5_000).step == 5_000
    store = make_store()
    assert len(store.checkpoints) == 10_000
    saved = save(store, 10_001, val_loss=9.0)
    assert Checkpoint.open(store.directory, "best").step == 77
    assert is_whole(Checkpoint.open(saved.path))
    assert read_manifest(saved.path).generation == 10_001


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_very_many_checkpoints_are_removed_at_once(count: int, make_store: MakeStore, save: Save) -> None:
    multiply(save(make_store(), 1).path, count)
    store = make_store(keep=keeping(2))
    with FileCalls().quick():
        save(store, count + 1)
    assert sorted(path.name for path in store.directory.iterdir()) == [
        f"step-{count:09d}",
        f"step-{count + 1:09d}",
    ]


def test_five_thousand_tensors_come_back_all_and_alone(make_store: MakeStore, same: Same) -> None:
    values = torch.randn(5_000, 7)
    model = {f"layers.{number}.weight": values[number].clone() for number in range(5_000)}
    state = {"model": model, "optimizer": {"state": {name: {"exp_avg": value * 2} for name, value in model.items()}}}
    checkpoint = save_state(make_store(), state)
    assert checkpoint.verify() == []
    assert same(checkpoint.state(), state)
    assert same(checkpoint.tensors(["layers.4999.weight"]), {"layers.4999.weight": model["layers.4999.weight"]})


def test_no_tensors_at_all_come_back(make_store: MakeStore, same: Same) -> None:
    for state in ({}, {"model": {}}, {"model": {}, "optimizer": {"state": {}, "groups": []}, "progress": {"step": 0}}):
        assert comes_back(make_store(), state, same)


FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]
GRID = torch.arange(24.0).reshape(4, 6)
ODD: dict[str, Tensor] = {
    "empty": torch.empty(0),
    "empty in one dimension": torch.empty(3, 0, 5, dtype=torch.float64),
    "no dimension": torch.tensor(3.25),
    "no dimension, not a float": torch.tensor(True),
    "transposed": GRID.t(),
    "every second": GRID[::2, 1::2],
    "expanded": torch.tensor([1.0, 2.0]).expand(5, 2),
    "offset": GRID.reshape(-1)[5:9],
    "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "conjugated": torch.randn(3, dtype=torch.complex64).conj(),
    "negated": torch.randn(3, dtype=torch.complex64).conj().imag,
    "one byte": torch.tensor([7], dtype=torch.uint8),
    "not finite": torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0]),
    "just under a chunk": torch.arange(4 * 1024 * 1024 - 4096 - 1, dtype=torch.int64).to(torch.uint8),
    "several chunks": torch.arange(9 * 1024 * 1024 + 3, dtype=torch.int64).to(torch.uint8),
    **{str(dtype): GRID.to(dtype) for dtype in (torch.bfloat16, torch.float16, torch.complex64, torch.complex128)},
    **{str(dtype): (GRID > 3).to(dtype) for dtype in (torch.bool, torch.uint16, torch.uint32, torch.uint64)},
    **{str(dtype): torch.arange(24, dtype=torch.uint8).view(dtype) for dtype in FLOAT8},
    **{f"{dtype}, no dimension": torch.tensor(1.0).to(dtype) for dtype in (*FLOAT8[:2], torch.bfloat16)},
}


@pytest.mark.parametrize("group", ["model", "optimizer", "other"])
@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_come_back_bit_for_bit_wherever_they_stand(
    kind: str, group: str, make_store: MakeStore, same: Same
) -> None:
    assert comes_back(make_store(), {group: {"before": torch.ones(1), "odd": ODD[kind], "after": torch.ones(2)}}, same)


def test_odd_tensors_come_back_all_together(make_store: MakeStore, same: Same) -> None:
    assert comes_back(make_store(), {group: dict(ODD) for group in ("model", "optimizer", "other")}, same)


def test_tied_and_overlapping_tensors_come_back_as_they_were(make_store: MakeStore, same: Same) -> None:
    weight = torch.randn(6, 4)
    state = {"model": {"embed": weight, "head": weight, "part": weight[1:3], "turned": weight.t()}}
    checkpoint = save_state(make_store(), state)
    back = checkpoint.state()
    assert same(back, state)
    assert back["model"]["embed"].data_ptr() == back["model"]["head"].data_ptr()
    assert checkpoint.tensors()["head"].data_ptr() != checkpoint.tensors()["part"].data_ptr()


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16])
def test_tensors_of_more_than_two_gibibytes_come_back(dtype: torch.dtype, make_store: MakeStore) -> None:
    size = 2**31 + 4099
    great = torch.zeros(size // dtype.itemsize + 1, dtype=dtype)
    places = [0, 1, (2**31 - 1) // dtype.itemsize, 2**31 // dtype.itemsize, len(great) - 1]
    great[places] = torch.arange(1, 6).to(dtype)
    checkpoint = save_state(make_store(), {"model": {"great": great, "small": torch.ones(3)}})
    assert checkpoint.verify() == []
    assert torch.equal(checkpoint.state()["model"]["great"], great)


NAMES = ["größe", "a b", "a/b", "a\nb", "", ".", "..", "__metadata__", "😀", "x" * 3000, "a.b", "\u202e", "\x00", "$"]


def test_odd_names_of_tensors_and_keys_come_back(make_store: MakeStore, same: Same) -> None:
    model: dict[str, Any] = {name: torch.tensor([float(number)]) for number, name in enumerate(NAMES)}
    assert comes_back(make_store(), {"model": model, "other": {**model, "plain": NAMES}}, same)


@pytest.mark.parametrize(
    "name", ["größe ö 😀", " spaces  ", "new\nline", "a=b,c", "quo'te\"", "n" * 200, "-rf", "%s{step}", "back\\slash"]
)
def test_odd_paths_are_paths(
    name: str,
    tmp_path: Path,
    make_store: MakeStore,
    save: Save,
    is_whole: IsWhole,
    no_leftovers: Callable[[Path], bool],
) -> None:
    store = make_store(tmp_path / name / "checkpoints", keep=keeping(1))
    for step in (1, 2):
        save(store, step)
    opened = Checkpoint.open(tmp_path / name)
    assert opened.step == 2
    assert is_whole(opened)
    assert no_leftovers(tmp_path)


def test_a_relative_path_stays_what_it_was(
    tmp_path: Path, make_store: MakeStore, save: Save, monkeypatch: pytest.MonkeyPatch, is_whole: IsWhole
) -> None:
    monkeypatch.chdir(tmp_path)
    store = make_store(Path("run") / "checkpoints")
    saved = save(store, 1)
    assert not saved.path.is_absolute()
    assert is_whole(Checkpoint.open("run"))


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o027, 0o077])
def test_modes_of_all_that_is_made_follow_the_umask(
    umask: int, tmp_path: Path, make_store: MakeStore, save: Save
) -> None:
    before = os.umask(umask)
    try:
        store = make_store(tmp_path / "run" / "checkpoints", keep=keeping(1))
        for step in (1, 2):
            save(store, step)
    finally:
        os.umask(before)
    for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_every_one_of_many_saves_beside_a_training_holds_its_own_step(make_store: MakeStore, same: Same) -> None:
    """The training goes on at once: nearly all of it happens while something is being written."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.BatchNorm1d(300))
    optimizer = torch.optim.Adam(model.parameters())
    store, expected = make_store(), {}
    for step in range(1, 31):
        optimizer.zero_grad()
        model(torch.randn(8, 300)).square().mean().backward()
        optimizer.step()
        state = {
            "model": dict(model.state_dict()),
            "optimizer": {"state": dict(enumerate(optimizer.state.values()))},
            "rng": {"torch": torch.get_rng_state(), "rows": [step, [step]]},
        }
        expected[step] = deepcopy(state)
        store.save(state, progress=Progress(step=step), reasons=("x",), metrics={}, documents={}, facts={})
        state["rng"]["rows"][1].append("late")
        state.clear()
    store.wait()
    assert [checkpoint.step for checkpoint in store.checkpoints] == list(range(1, 31))
    for checkpoint in store.checkpoints:
        assert same(checkpoint.state(), expected[checkpoint.step]), checkpoint
