import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.store import CheckpointStore
from runner.errors import CheckpointError, DamagedError, FormatError
from runner.records import Progress, Saved

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]


def test_a_run_its_checkpoints_and_a_checkpoint_can_all_be_opened(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    save(store, 1, val_loss=0.1)
    newest = save(store, 2, val_loss=0.2).path
    for place in (store.directory.parent, store.directory, newest, str(newest)):
        opened = Checkpoint.open(place)
        assert (opened.path, opened.step, opened.epoch) == (newest, 2, 0)
        assert opened.metrics == {"val_loss": 0.2}
        assert opened.reasons == ("every_steps",)
        assert opened.progress == Progress(step=2, evaluated_step=2)
    assert repr(opened) == f"Checkpoint({str(newest)!r}, step=2)"


def test_the_latest_is_the_greatest_generation_not_the_greatest_step(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    for step in (5, 9, 3):
        save(store, step)
    assert Checkpoint.open(store.directory, "latest").step == 3


def test_the_best_is_judged_by_the_monitor_of_the_config(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    for step, loss in enumerate((0.5, 0.2, float("nan"), 0.2, float("-inf")), start=1):
        save(store, step, val_loss=loss)
    save(store, 6)
    assert Checkpoint.open(store.directory.parent, "best").step == 2
    assert Checkpoint.open(store.directory, 4).step == 4


def test_config_overrides_and_documents_come_back(make_store: MakeStore, save: Save) -> None:
    checkpoint = Checkpoint.open(save(make_store(), 1).path)
    assert checkpoint.config == {"seed": 0, "monitor": {"metric": "val_loss", "mode": "min"}}
    assert checkpoint.overrides == ["seed=0"]
    assert checkpoint.document("config.yaml") == b"seed: 0\n"
    with pytest.raises(CheckpointError, match=re.escape("has no 'notes.txt'; it has config.yaml, config.json, ")):
        checkpoint.document("notes.txt")


def test_tensors_are_the_models_by_the_keys_of_its_state_dict(
    make_store: MakeStore, make_state: Callable[[int], Any], same: Callable[[Any, Any], bool]
) -> None:
    state = make_state(1)
    state["model"]["tied"] = state["model"]["head.weight"]
    state["model"]["_extra_state"] = (1, "text")
    store = make_store()
    store.save(
        state,
        progress=Progress(),
        reasons=(),
        metrics={},
        documents={},
        facts={},
        frozen=["base.weight", "head.weight"],
    ).wait()
    checkpoint = Checkpoint.open(store.directory)
    expected = {name: value for name, value in state["model"].items() if isinstance(value, torch.Tensor)}
    found = checkpoint.tensors()
    assert same(found, expected)
    assert found["tied"] is found["head.weight"]
    assert same(checkpoint.tensors(["tied", "head.bias"]), {name: expected[name] for name in ("head.bias", "tied")})
    with pytest.raises(CheckpointError, match=re.escape("has no tensor 'head.wieght'; did you mean 'head.weight'?")):
        checkpoint.tensors(["head.wieght"])


@pytest.mark.parametrize("dtype", ["bf16", torch.int64])
def test_a_dtype_that_is_none_of_real_numbers_is_refused(make_store: MakeStore, save: Save, dtype: Any) -> None:
    checkpoint = Checkpoint.open(save(make_store(), 1).path)
    with pytest.raises(CheckpointError, match=r"dtype is .*; wanted one of real numbers, such as torch\.bfloat16"):
        checkpoint.tensors(dtype=dtype)


def test_one_that_was_removed_meanwhile_is_said_to_be(make_store: MakeStore, save: Save) -> None:
    checkpoint = Checkpoint.open(save(make_store(), 1).path)
    shutil.rmtree(checkpoint.path)
    with pytest.raises(CheckpointError, match=r"step-000000001: was removed meanwhile, .*`runs tag` first"):
        checkpoint.state()


def test_a_choice_behind_the_path_is_told_how_to_be_made(make_store: MakeStore, save: Save) -> None:
    path = save(make_store(), 1).path.parent
    with pytest.raises(CheckpointError, match=r"@best: is not there; .*; which='best' chooses in .*checkpoints"):
        Checkpoint.open(f"{path}@best")


def test_tensors_that_are_not_asked_for_are_not_read(make_store: MakeStore, save: Save) -> None:
    checkpoint = Checkpoint.open(save(make_store(), 1).path)
    (checkpoint.path / "optimizer.safetensors").unlink()
    assert set(checkpoint.tensors()) == {"head.weight", "head.bias", "base.weight"}


def test_a_part_of_the_tensors_is_chosen_by_patterns(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    checkpoint = Checkpoint.open(save(store, 1).path)
    whole = checkpoint.tensors()
    for include, exclude, names in (
        (["head.*"], None, {"head.weight", "head.bias"}),
        (None, ["*.weight"], {"head.bias"}),
        (["head.*"], ["*.bias"], {"head.weight"}),
        ([], None, set()),
    ):
        found = checkpoint.tensors(include=include, exclude=exclude)
        assert found.keys() == names and all(torch.equal(found[name], whole[name]) for name in names)
    with pytest.raises(CheckpointError, match=r"has no tensor like 'haed\.\*'; it has head\.weight"):
        checkpoint.tensors(include=["haed.*"])


def test_tensors_are_placed_as_asked(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    checkpoint = Checkpoint.open(save(store, 1).path)
    found = checkpoint.tensors(dtype=torch.float16, device="meta")
    assert {(value.dtype, value.device.type) for value in found.values()} == {(torch.float16, "meta")}


def test_verify_names_each_damage_and_its_tensors(make_store: MakeStore, save: Save) -> None:
    checkpoint = Checkpoint.open(save(make_store(), 1).path)
    path = checkpoint.path / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    (checkpoint.path / "config.yaml").unlink()
    assert checkpoint.verify() == [
        f"{checkpoint.path / 'config.yaml'}: is missing; use another checkpoint, or put the file back",
        f"{path}: is damaged: bytes 0 to {len(raw)}, which hold the header and the tensors 'head.weight', 'head.bias', "
        "are not those that were written (checksum differs); use another checkpoint",
    ]


def test_verify_notices_that_another_checkpoint_took_the_place(
    make_store: MakeStore, save: Save, tmp_path: Path
) -> None:
    one = Checkpoint.open(save(make_store(tmp_path / "a"), 1).path)
    other = save(make_store(tmp_path / "b"), 2).path
    one.path.rename(tmp_path / "moved")
    other.rename(one.path)
    assert one.verify()[0].endswith("is another one than when it was opened; open it again")


def test_what_is_no_run_is_refused_saying_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "step-000000003").mkdir()
    for name, message in (
        ("nothing", "is not there; give a run's directory or a checkpoint's"),
        (
            "notes/a.txt",
            "is a file, and no packed checkpoint (it begins with b'x'); give a run's directory, a checkpoint's, "
            "or a file that `runs pack` wrote",
        ),
        ("notes", "is neither a run nor a checkpoint; it holds a.txt; give a run's directory"),
        ("empty", "is neither a run nor a checkpoint; it holds nothing; give a run's directory"),
        ("run", "has no checkpoint yet; train until one is saved"),
        ("step-000000003", "has no manifest.json, so it is no complete checkpoint; use another one"),
    ):
        with pytest.raises(CheckpointError) as caught:
            Checkpoint.open(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {message}"


def test_what_is_not_among_the_checkpoints_is_refused(make_store: MakeStore, save: Save) -> None:
    store = make_store()
    path = save(store, 10, other=1.0).path
    run = store.directory.parent
    for place, which, message in (
        (run, 11, "has no checkpoint of step 11; the newest are of steps 10"),
        (run, "best", "no checkpoint has a finite val_loss of its own step; use 'latest' or a step number"),
        (
            run,
            "newest",
            "no checkpoint is called 'newest'; wanted 'latest', 'best', a step number or a tag (there are none)",
        ),
        (run, True, "no checkpoint is called True; wanted 'latest', 'best', a step number or a tag"),
        (path, "good", "is one checkpoint, and is not tagged 'good'; give the run"),
        (path, 11, "is the checkpoint of step 10, not 11; give the run"),
    ):
        with pytest.raises(CheckpointError) as caught:
            Checkpoint.open(place, which)
        assert str(caught.value) == f"{place}: {message}"


def test_a_run_with_only_damaged_checkpoints_says_what_is_damaged(make_store: MakeStore, save: Save) -> None:
    path = save(make_store(), 1).path / "manifest.json"
    path.write_bytes(path.read_bytes()[:-1])
    for place in (path.parent, path.parent.parent):
        with pytest.raises(DamagedError, match=re.escape(f"{path}: is damaged")):
            Checkpoint.open(place)


@pytest.mark.parametrize(
    "text", [b"[]", b"{", b'{"config": [], "overrides": {}}', b"[" * 99999, b'{"config": ' + b"1" * 5000 + b"}"]
)
def test_a_config_that_makes_no_sense_is_refused(text: bytes, make_store: MakeStore) -> None:
    store = make_store()
    store.save({}, progress=Progress(), reasons=(), metrics={}, documents={"config.json": text}, facts={}).wait()
    checkpoint = Checkpoint.open(store.directory)
    with pytest.raises(FormatError, match=r"config\.json: (is not JSON|has no 'config')"):
        _ = checkpoint.config
    with pytest.raises(FormatError, match=r"config\.json: (is not JSON|has no 'overrides')"):
        _ = checkpoint.overrides


def test_best_without_a_monitor_in_the_config_is_refused(make_store: MakeStore) -> None:
    store = make_store()
    text = json.dumps({"config": {"monitor": None}, "overrides": []}).encode()
    store.save({}, progress=Progress(), reasons=(), metrics={}, documents={"config.json": text}, facts={}).wait()
    with pytest.raises(CheckpointError, match=r"names no monitor\.metric to judge by; use 'latest' or a step number"):
        Checkpoint.open(store.directory, "best")


def test_a_state_that_refers_to_a_lost_tensor_is_damage(make_store: MakeStore, save: Save) -> None:
    from dataclasses import replace

    from runner.checkpoint.manifest import to_bytes

    checkpoint = Checkpoint.open(save(make_store(), 1).path)
    files = {name: record for name, record in checkpoint.manifest.files.items() if name != "frozen.safetensors"}
    manifest = replace(checkpoint.manifest, files=files)
    (checkpoint.path / "manifest.json").write_bytes(to_bytes(manifest))
    opened = Checkpoint.open(checkpoint.path)
    with pytest.raises(
        DamagedError, match=r"state\.json: the state refers to the tensor 'base\.weight', which is in no"
    ):
        opened.state()
    with pytest.raises(DamagedError, match=r"the tensor 'base\.weight' is in no tensor file"):
        opened.tensors()
