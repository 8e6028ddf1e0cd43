"""The handler's files: whole or not there, in one or split, and what is said of what does not fit."""

import contextlib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import runner
from runner import NNHandler
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.single import save_file
from runner.doors import handler_training
from runner.doors.handler_settings import plan_of
from runner.errors import CheckpointError, ConfigError, FormatError, MissingError, RunnerError, SaveError, TrustError
from runner.handler import save_multi_files, save_multi_from_single, save_single_file, save_single_from_multi

sys.path.append(str(Path(__file__).parent))

from handler_nets import (
    Activated,
    Ambiguous,
    Around,
    KeepsFunction,
    Net,
    Renamed,
    Unlike,
    Wrapping,
    assert_equal,
    data,
    give_data,
    made,
    train,
)

PARTS = ("model", "optimizer", "scheduler", "training")


@pytest.fixture
def trained() -> NNHandler:
    return train(made(lr_scheduler.StepLR, step_size=1, gamma=0.5), 2, ema_decay=0.9)


def test_a_file_opens_with_torch_and_with_every_reader(trained: NNHandler, tmp_path: Path) -> None:
    save_single_file(trained, tmp_path / "models" / "final.pth")
    path = tmp_path / "models" / "final.pth"
    torch.load(path, weights_only=True)
    model = runner.load(path)
    assert not model.training
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    averaged = runner.load(path, weights="averaged")
    assert torch.equal(averaged.first.weight, trained.averaged_model.first.weight)
    checkpoint = Checkpoint.open(path)
    assert checkpoint.verify() == []
    assert checkpoint.progress.epoch == 2
    assert checkpoint.metrics["val_loss"] == trained.val_losses[-1]


def test_the_file_knows_how_the_model_was_made_and_no_class_is_named(tmp_path: Path) -> None:
    NNHandler(Net, width=5, dropout=0.25).save(tmp_path / "a.pth")
    model = NNHandler.load(tmp_path / "a.pth").model
    assert type(model) is Net
    assert model.first.out_features == 5
    assert model.dropout.p == 0.25


def test_saving_changes_nothing_in_the_training(tmp_path: Path) -> None:
    whole, saving = train(made(), 2), train(made(), 1)
    before = dict(vars(saving.parts))
    save_multi_files(saving, tmp_path / "a")
    saving.save(tmp_path / "b.pth")
    assert vars(saving.parts) == before
    assert_equal(whole, train(saving, 1))


def test_split_files_open_each_on_its_own_and_load_together(trained: NNHandler, tmp_path: Path) -> None:
    trained.save(tmp_path / "final.pth", single_file=False)
    files = {name: tmp_path / f"final.{name}.pth" for name in PARTS}
    assert sorted(tmp_path.iterdir()) == sorted(files.values())
    for path in files.values():
        torch.load(path, weights_only=True)
        assert Checkpoint.open(path).verify() == []
    assert Checkpoint.open(files["optimizer"]).state().keys() == {"optimizer"}
    assert isinstance(runner.load(files["model"]), Net)
    for name in (tmp_path / "final.pth", tmp_path / "final", tmp_path):
        loaded = NNHandler.load(name)
        assert_equal(trained, loaded)
    # A model's file is a handler's file without a training.
    alone = NNHandler.load(files["model"])
    assert alone.optimizer is None
    assert torch.equal(alone.model.first.weight, trained.model.first.weight)
    give_data(loaded)
    assert_equal(train(trained, 1, ema_decay=0.9), train(loaded, 1, ema_decay=0.9))


def test_one_file_becomes_several_and_one_again(trained: NNHandler, tmp_path: Path) -> None:
    trained.save(tmp_path / "one.pth", save_model_code=True)
    save_multi_from_single(tmp_path / "one.pth")
    save_multi_from_single(tmp_path / "one.pth", tmp_path / "parts" / "other.pth")
    save_single_from_multi(tmp_path / "parts", tmp_path / "again.pth")
    one, again = Checkpoint.open(tmp_path / "one.pth"), Checkpoint.open(tmp_path / "again.pth")
    # Byte for byte, but for the order in which the tree has its keys.
    for name in ("model.safetensors", "optimizer.safetensors", "config.json", "source.handler_nets.py"):
        assert one.document(name) == again.document(name), name
    assert one.metrics == again.metrics
    assert one.progress == again.progress
    save_single_from_multi(tmp_path / "one")
    for path in (tmp_path / "one.pth", tmp_path / "one", tmp_path / "parts", tmp_path / "again.pth"):
        assert_equal(trained, NNHandler.load(path))


def test_split_files_of_two_saves_are_not_mixed(trained: NNHandler, tmp_path: Path) -> None:
    trained.save(tmp_path / "a.pth", single_file=False)
    old = (tmp_path / "a.optimizer.pth").read_bytes()
    trained.save(tmp_path / "a.pth", single_file=False)
    (tmp_path / "a.optimizer.pth").write_bytes(old)
    with pytest.raises(CheckpointError, match=r"a\.optimizer\.pth: is of another save than a\.training\.pth"):
        NNHandler.load(tmp_path / "a.pth")
    (tmp_path / "a.optimizer.pth").unlink()
    with pytest.raises(MissingError, match=r"a\.optimizer\.pth: is not there, and belongs to .*a\.training\.pth"):
        NNHandler.load(tmp_path / "a.pth")


def test_what_a_save_no_longer_has_does_not_stay_behind(trained: NNHandler, tmp_path: Path) -> None:
    trained.save(tmp_path / "a.pth", single_file=False)
    NNHandler(Net).save(tmp_path / "a.pth", single_file=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.model.pth", "a.training.pth"]
    assert NNHandler.load(tmp_path / "a").optimizer is None


def test_a_folder_with_several_saves_has_to_be_told_which(trained: NNHandler, tmp_path: Path) -> None:
    for name in ("a", "b"):
        trained.save(tmp_path / name, single_file=False)
    with pytest.raises(CheckpointError, match=r"holds several saves, a, b; name one of them"):
        NNHandler.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"a\.optimizer\.pth: holds the optimizer part alone; give .*a, which"):
        NNHandler.load(tmp_path / "a.optimizer.pth")


@pytest.mark.parametrize("single_file", [True, False])
def test_a_save_that_fails_leaves_what_was_there(
    trained: NNHandler, tmp_path: Path, single_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    trained.save(path, single_file=single_file)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    train(trained, 1, ema_decay=0.9)
    calls: list[int] = []
    write = os.write

    def full(descriptor: int, chunk: Any) -> int:
        calls.append(1)
        if len(calls) > (5 if single_file else 25):
            raise OSError(28, "No space left on device")
        return write(descriptor, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(SaveError, match="No space left on device") as raised:
            trained.save(path, single_file=single_file)
    # The file that is meant, not the one that is written in its stead.
    assert str(raised.value).startswith(f"{tmp_path}/a.")
    assert ".new" not in str(raised.value)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert NNHandler.load(path).epoch == 2


def test_split_files_of_one_name_that_two_processes_write_are_told_of(trained: NNHandler, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    replace_file = os.replace

    def quicker(source: Any, target: Any) -> None:
        # The other one has taken what was written, or put its own there, which is gone as well.
        Path(source).unlink()
        replace_file(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", quicker)
        with pytest.raises(SaveError, match=r"training\.pth: what was written for it is gone: another process saves"):
            trained.save(path, single_file=False)


@pytest.mark.parametrize("renamed", range(5))
def test_a_kill_among_the_renames_leaves_the_old_split_save_or_the_new_one(
    trained: NNHandler, tmp_path: Path, renamed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.save(tmp_path / "a.pth", single_file=False)
    train(trained, 1, ema_decay=0.9)
    replace_file, done = os.replace, []

    def killed(source: Any, target: Any) -> None:
        if len(done) == renamed:
            raise KeyboardInterrupt
        replace_file(source, target)
        done.append(target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with contextlib.suppress(KeyboardInterrupt):
            trained.save(tmp_path / "a.pth", single_file=False)
    assert len(done) == min(renamed, 4)
    assert NNHandler.load(tmp_path / "a.pth").epoch == (3 if renamed else 2)
    if renamed:
        assert_equal(trained, NNHandler.load(tmp_path / "a.pth"))
    # The next save that fails, too, leaves what is there.
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(SaveError):
            trained.save(tmp_path / "a.pth", single_file=False)
    assert NNHandler.load(tmp_path / "a.pth").epoch == (3 if renamed else 2)
    trained.save(tmp_path / "a.pth", single_file=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{name}.pth" for name in PARTS]
    assert_equal(trained, NNHandler.load(tmp_path / "a.pth"))


def test_of_one_file_and_newer_split_ones_beside_it_the_older_is_told(trained: NNHandler, tmp_path: Path) -> None:
    trained.save(tmp_path / "a.pth")
    train(trained, 1, ema_decay=0.9).save(tmp_path / "a.pth", single_file=False)
    with pytest.warns(UserWarning, match=r"a\.pth: is of step 8, and the split files .* of step 12; .* give .*/a$"):
        assert NNHandler.load(tmp_path / "a.pth").epoch == 2
    assert NNHandler.load(tmp_path / "a").epoch == 3


def test_split_files_that_are_none_are_refused_in_words(trained: NNHandler, tmp_path: Path) -> None:
    trained.save(tmp_path / "a.pth", single_file=False)
    rest = Checkpoint.open(tmp_path / "a.training.pth")
    documents = {"config.json": rest.document("config.json")}
    for names in (["../x"], ["model"], "model", [["model"]]):
        facts = {**rest.manifest.facts, "handler_parts": names, "handler_set": "x"}
        save_file(tmp_path / "b.training.pth", rest.state(), documents=documents, facts=facts)
        with pytest.raises(CheckpointError, match=r"/b"):
            NNHandler.load(tmp_path / "b.pth")
    for config in ({"door": "NNHandler"}, {"model": {"_target_": "torch.nn.ReLU"}}):
        text = json.dumps({"config": config, "overrides": []}).encode()
        save_file(tmp_path / "c.pth", {"model": {}}, documents={"config.json": text}, facts={})
        with pytest.raises(FormatError, match=r"c\.pth: is of no Python door; give a file that a handler has saved"):
            save_multi_from_single(tmp_path / "c.pth")
    with pytest.raises(SaveError, match=r"c\.pth: the folder cannot be made: a file is in its place"):
        trained.save(tmp_path / "c.pth" / "d.pth", single_file=False)


def test_what_no_checkpoint_holds_is_refused_in_words(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def get_extra_state(self) -> Any:
            return object()

    with pytest.raises(SaveError, match=r"a\.pth: not written: state\['_extra_state'\] is a builtins\.object"):
        NNHandler(Odd).save(tmp_path / "a.pth")


def test_a_scheduler_that_keeps_a_function_is_saved_without_it(tmp_path: Path) -> None:
    handler = train(made(KeepsFunction), 1)
    handler.save(tmp_path / "a.pth")
    loaded = NNHandler.load(tmp_path / "a.pth")
    assert_equal(handler, loaded)
    assert loaded.scheduler.rule(3) == 3
    loaded.scheduler.step()
    assert loaded.scheduler.get_last_lr() == [0.0125]


def test_what_cannot_be_stored_breaks_no_save_and_is_named_on_load(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    handler = NNHandler(Activated, activation=lambda x: x.relu())
    handler.save(path)
    with pytest.raises(
        CheckpointError, match=r"activation=\.\.\.\) is a lambda.*pass it: NNHandler\.load\(path, activation=\.\.\."
    ):
        NNHandler.load(path)
    assert isinstance(NNHandler.load(path, activation=torch.tanh).model, Activated)


def test_what_no_file_holds_is_said_at_the_first_save(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handler = NNHandler(Activated, activation=lambda x: x.relu())
    handler.set_optimizer(torch.optim.SGD, lr=0.1)
    handler.set_scheduler(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.5)
    handler.set_loss_fn(lambda outputs, targets: outputs.mean())
    path = tmp_path / "a.pth"
    for _ in range(2):
        handler.save(path)
    model, scheduler, loss = [record.getMessage() for record in caplog.records]
    assert model.startswith(f"{path}: Activated(activation=...) is a lambda")
    assert model.endswith("no file can hold that; pass it when it is loaded: NNHandler.load(path, activation=...)")
    assert scheduler.endswith("NNHandler.load(path, lr_lambda=...)")
    assert "set_loss_fn: what it was given is a lambda" in loss
    loaded = NNHandler.load(path, activation=torch.tanh, lr_lambda=lambda epoch: 0.5)
    give_data(loaded)
    with pytest.raises(
        ConfigError, match=r"first call set_loss_fn \(what the file had is a lambda.*no file can hold that\)"
    ):
        train(loaded, 1)


def test_an_argument_that_is_another_one_now_is_that_of_the_next_file(tmp_path: Path) -> None:
    handler = NNHandler(Activated, activation=lambda x: x.relu())
    handler.set_optimizer(torch.optim.SGD, lr=0.1)
    handler.save(tmp_path / "a.pth")
    NNHandler.load(tmp_path / "a.pth", activation=torch.tanh).save(tmp_path / "b.pth")
    assert NNHandler.load(tmp_path / "b.pth").model.activation is torch.tanh
    with pytest.raises(ConfigError, match=r"b\.pth: the optimizer's 'lr': the file has it.* once it is loaded"):
        NNHandler.load(tmp_path / "b.pth", lr=1.0)


def test_a_scheduler_that_begins_anew_may_have_other_arguments(trained: NNHandler, tmp_path: Path) -> None:
    trained.save(tmp_path / "a.pth")
    with pytest.raises(ConfigError, match=r"a\.pth: the scheduler's 'gamma': the file has it"):
        NNHandler.load(tmp_path / "a.pth", gamma=0.1)
    handler = NNHandler.load(tmp_path / "a.pth", gamma=0.1, skip_scheduler=True)
    assert handler.scheduler.gamma == 0.1
    handler.save(tmp_path / "b.pth")
    assert NNHandler.load(tmp_path / "b.pth").scheduler.gamma == 0.1


@pytest.mark.parametrize("door", ["handler", "container"])
def test_groups_of_the_users_own_and_their_rates_are_restored(door: str, tmp_path: Path) -> None:
    container, handler = runner.ModelContainer(), NNHandler(Net)
    model, optimizer, _ = container.initialize(Net, {}, torch.optim.AdamW, {"lr": 0.1})
    if door == "handler":
        handler.set_optimizer(torch.optim.AdamW, lr=0.1)
        model, optimizer = handler.model, handler.optimizer
    group = optimizer.param_groups[0]
    group["params"], rest = group["params"][:2], group["params"][2:]
    optimizer.add_param_group({"params": rest, "lr": 0.01})
    group["lr"] = 0.02
    model(data().tensors[0]).sum().backward()
    optimizer.step()
    path = tmp_path / "a.pth"
    handler.save(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was not saved by a handler")
        loaded = NNHandler.load(path if door == "handler" else container.save(tmp_path))
    assert loaded.optimizer.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()
    assert [(len(one["params"]), one["lr"]) for one in loaded.optimizer.param_groups] == [(2, 0.02), (len(rest), 0.01)]
    loaded.set_loss_fn(nn.CrossEntropyLoss())
    give_data(loaded)
    train(loaded, 1)
    assert [one["lr"] for one in loaded.optimizer.param_groups] == [0.02, 0.01]


def test_a_lambda_of_a_scheduler_can_be_passed_or_set_anew(tmp_path: Path) -> None:
    def half(epoch: int) -> float:
        return 0.5**epoch

    whole = train(made(lr_scheduler.LambdaLR, lr_lambda=half), 4)
    train(made(lr_scheduler.LambdaLR, lr_lambda=half), 2).save(tmp_path / "a.pth")
    passed = NNHandler.load(tmp_path / "a.pth", lr_lambda=half)
    message = (
        r"no file can hold its lr_lambda .*pass it, NNHandler\.load\(path, lr_lambda=\.\.\.\), or call set_scheduler"
    )
    with pytest.warns(UserWarning, match=message):
        later = NNHandler.load(tmp_path / "a.pth")
    give_data(later)
    assert later.optimizer.param_groups[0]["lr"] == passed.optimizer.param_groups[0]["lr"] == 0.0125
    with pytest.raises(ConfigError, match="first call set_scheduler"):
        train(later, 2)
    # What waits for its scheduler is saved as it waits.
    later.save(tmp_path / "b.pth")
    with pytest.warns(UserWarning, match="lr_lambda"):
        later = NNHandler.load(tmp_path / "b.pth")
    later.set_scheduler(lr_scheduler.LambdaLR, lr_lambda=half)
    for handler in (passed, later):
        give_data(handler)
        assert_equal(whole, train(handler, 2))


def test_parts_that_are_skipped_begin_anew(trained: NNHandler, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    trained.save(path)
    fresh = NNHandler.load(path, skip_optimizer=True)
    assert fresh.optimizer.state_dict()["state"] == {}
    assert fresh.train_losses == trained.train_losses
    assert NNHandler.load(path, skip_scheduler=True).optimizer.param_groups[0]["lr"] == 0.05
    assert NNHandler.load(path, skip_ema=True).averaged_model is None
    anew = NNHandler.load(path, skip_history=True)
    assert (anew.epoch, anew.history, anew.best) == (0, [], None)
    assert anew.optimizer.state_dict()["state"] != {}
    give_data(anew)
    assert [row["epoch"] for row in train(anew, 2, ema_decay=0.9).history] == [1, 2]


def test_a_gradient_scaler_goes_on_where_it_was(tmp_path: Path) -> None:
    """Float16 on the CPU: on CUDA `use_amp` makes the same plan."""

    def in_half(handler: NNHandler, epochs: int) -> NNHandler:
        plan = plan_of(
            epochs=epochs,
            done=handler.epoch,
            validate_every=1,
            gradient_accumulation_steps=1,
            use_amp=True,
            gradient_clipping_norm=1.0,
            ema_decay=0.0,
            schedule="epoch",
            early_stopping=handler.parts.early_stopping,
            device=handler.device,
        )
        handler_training.train(
            handler.parts, replace(plan, precision="fp16"), seed=None, progress_bar=False, save_on_last_epoch=False
        )
        return handler

    whole, half = in_half(made(), 4), in_half(made(), 2)
    half.save(tmp_path / "a.pth")
    loaded = NNHandler.load(tmp_path / "a.pth")
    scaler = loaded.parts.state.scaler.state_dict()
    assert scaler == half.parts.state.scaler.state_dict() != torch.amp.GradScaler("cpu").state_dict()
    give_data(loaded)
    assert_equal(whole, in_half(loaded, 2))
    assert whole.parts.state.scaler.state_dict() == loaded.parts.state.scaler.state_dict()


def _change(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrite the weights of a file, as if it came from a class with other names."""
    checkpoint = Checkpoint.open(path)
    state = checkpoint.state()
    documents = {"config.json": checkpoint.document("config.json")}
    state["model"] = change(state["model"])
    save_file(path, state, documents=documents, facts=checkpoint.manifest.facts, progress=checkpoint.progress)


def test_tensors_that_do_not_fit_are_named_and_refused_if_strict(trained: NNHandler, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    trained.save(path)

    def change(state: dict[str, Any]) -> dict[str, Any]:
        del state["norm.weight"]
        return {**state, "extra": torch.ones(2), "last.bias": torch.ones(7)}

    _change(path, change)
    with pytest.raises(CheckpointError, match=r"norm\.weight"):
        NNHandler.load(path, strict_load=True)
    with pytest.warns(UserWarning, match="does not fit") as told:
        loaded = NNHandler.load(path)
    assert all(name in str(told[0].message) for name in ("norm.weight", "extra", "last.bias"))
    assert torch.equal(loaded.model.first.weight, trained.model.first.weight)
    assert loaded.optimizer.state[loaded.model.last.bias] == {}
    give_data(loaded)
    train(loaded, 1, ema_decay=0.9)


@pytest.mark.parametrize("strict", [True, False])
def test_a_file_of_which_nothing_fits_is_an_error(trained: NNHandler, tmp_path: Path, strict: bool) -> None:
    trained.save(tmp_path / "a.pth")
    _change(tmp_path / "a.pth", lambda state: {f"net.{name}": value for name, value in state.items()})
    with pytest.raises(CheckpointError, match=r"none of its 9 tensors .*net\.first\.weight.* fits Net"):
        NNHandler.load(tmp_path / "a.pth", strict_load=strict)
    with pytest.raises(CheckpointError, match="fits Unlike"):
        NNHandler.initialize_from_checkpoint(tmp_path / "a.pth", Unlike, strict_load=strict)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrapped_models_are_their_own(trained: NNHandler, tmp_path: Path, prefix: str) -> None:
    trained.save(tmp_path / "a.pth")
    _change(tmp_path / "a.pth", lambda state: {f"{prefix}{name}": value for name, value in state.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(trained, NNHandler.load(tmp_path / "a.pth"))
    torch.save({f"{prefix}{name}": value for name, value in trained.model.state_dict().items()}, tmp_path / "b.pth")
    begun = NNHandler.initialize_from_checkpoint(tmp_path / "b.pth", Net)
    assert torch.equal(begun.model.last.weight, trained.model.last.weight)
    assert begun.optimizer is None


def test_only_the_weights_begin_another_handler(trained: NNHandler, tmp_path: Path) -> None:
    trained.save(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"missing in the file: head\.weight"):
        NNHandler.initialize_from_checkpoint(tmp_path / "a.pth", Renamed)
    with pytest.warns(UserWarning, match=r"head\.weight, head\.bias; not in the model: last\.weight"):
        begun = NNHandler.initialize_from_checkpoint(tmp_path / "a.pth", Renamed, strict_load=False)
    assert torch.equal(begun.model.first.weight, trained.model.first.weight)
    assert (begun.history, begun.epoch) == ([], 0)


def test_a_network_around_the_model_trains_it_and_is_not_in_the_file(tmp_path: Path) -> None:
    whole, handler = train(made(), 1), made()
    handler.model = Around(handler.model)
    train(handler, 1)
    handler.save(tmp_path / "a.pth")
    assert_equal(whole, NNHandler.load(tmp_path / "a.pth"))


def test_what_is_around_a_part_of_the_model_is_not_in_the_file(tmp_path: Path) -> None:
    """As a part that is compiled: neither its weights nor what the optimizer keeps for them may be lost."""
    whole, handler = train(made(), 1, ema_decay=0.9), made()
    handler.model.first = Around(handler.model.first)
    train(handler, 1, ema_decay=0.9)
    handler.save(tmp_path / "a.pth")
    assert_equal(whole, NNHandler.load(tmp_path / "a.pth"))
    objects = runner.ModelContainer().load(tmp_path / "a.pth")[1]
    assert len(objects.optimizer.state) == len(whole.optimizer.state) == 6
    # Here it is the class itself that puts something around it.
    loaded = NNHandler.load(tmp_path / "a.pth", moved={"handler_nets.Net": Wrapping})
    for one, other in zip(loaded.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(loaded.optimizer.state[one]["exp_avg"], whole.optimizer.state[other]["exp_avg"])


def test_a_part_that_is_really_called_module_keeps_its_own(tmp_path: Path) -> None:
    handler = NNHandler(Ambiguous)
    handler.set_optimizer(torch.optim.Adam, lr=0.1)
    (handler.model.weight.sum() + 2 * handler.model.module.weight.sum()).backward()
    handler.optimizer.step()
    handler.save(tmp_path / "a.pth")
    loaded = NNHandler.load(tmp_path / "a.pth")
    _, objects = runner.ModelContainer().load(tmp_path / "a.pth")
    for model, optimizer in ((loaded.model, loaded.optimizer), (objects.model, objects.optimizer)):
        assert optimizer.state[model.weight]["exp_avg"].unique().tolist() == pytest.approx([0.1])
        assert optimizer.state[model.module.weight]["exp_avg"].unique().tolist() == pytest.approx([0.2])


def test_parameters_that_are_not_in_the_model_are_refused(tmp_path: Path) -> None:
    handler = made()
    handler.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    with pytest.raises(ConfigError, match=r"a\.pth: not written: the optimizer trains 1 parameters that are not in"):
        handler.save(tmp_path / "a.pth")


def test_a_file_names_no_class_that_this_user_has_not_handed_over(
    trained: NNHandler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.save(tmp_path / "a.pth")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    with pytest.raises(TrustError, match=r"'handler_nets\.Net' is not trusted"):
        NNHandler.load(tmp_path / "a.pth")
    assert_equal(trained, NNHandler.load(tmp_path / "a.pth", trust=["handler_nets"]))
    moved = NNHandler.load(tmp_path / "a.pth", moved={"handler_nets.Net": Net})
    assert_equal(trained, moved)


def test_what_was_handed_over_as_an_argument_may_stand_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "def double(x):\n    return 2 * x\n\n\ndef half(epoch):\n    return 0.5**epoch\n"
    (tmp_path / "own_functions.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_functions")
    handler = NNHandler(Activated, activation=own.double)
    handler.set_optimizer(torch.optim.SGD, lr=0.1)
    handler.save(tmp_path / "a.pth")
    assert NNHandler.load(tmp_path / "a.pth").model.activation is own.double
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    handler = NNHandler(Net)
    handler.set_optimizer(torch.optim.SGD, lr=0.1)
    handler.set_scheduler(lr_scheduler.LambdaLR, lr_lambda=own.half)
    handler.save(tmp_path / "b.pth")
    assert NNHandler.load(tmp_path / "b.pth").scheduler.lr_lambdas == [own.half]


def test_the_source_in_a_file_is_named_where_its_class_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone_nets.py").write_text("import torch\n\n\nclass Gone(torch.nn.Linear):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    gone = importlib.import_module("gone_nets")
    NNHandler(gone.Gone, in_features=2, out_features=1).save(tmp_path / "a.pth", save_model_code=True)
    del gone.Gone
    with pytest.raises(TrustError, match=r"(?s)gone_nets\.Gone.*the source that it was saved with is in it"):
        NNHandler.load(tmp_path / "a.pth", trust=["gone_nets"])
    moved = NNHandler.load(tmp_path / "a.pth", moved={"gone_nets.Gone": "torch.nn.Linear"})
    assert type(moved.model) is nn.Linear


NONSENSE: tuple[Any, ...] = (None, "x", [[]], {"x": {"y": None}}, torch.ones(2))


def test_files_of_nonsense_are_refused_in_words(trained: NNHandler, tmp_path: Path) -> None:
    trained.save(tmp_path / "a.pth")
    checkpoint = Checkpoint.open(tmp_path / "a.pth")
    state, config = checkpoint.state(), checkpoint.config
    places = [("state", key) for key in state] + [("config", key) for key in config]
    places += [("handler", key) for key in state["handler"]]
    refused = 0
    for kind, key in places:
        for value in NONSENSE:
            changed = {"state": dict(state), "config": dict(config)}
            if kind == "handler":
                changed["state"]["handler"] = {**state["handler"], key: value}
            elif kind == "config" and isinstance(value, torch.Tensor):
                continue
            else:
                changed[kind][key] = value
            text = json.dumps({"config": changed["config"], "overrides": []}).encode()
            save_file(tmp_path / "b.pth", changed["state"], documents={"config.json": text}, facts={})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    NNHandler.load(tmp_path / "b.pth")
                except RunnerError as error:
                    assert "b.pth" in str(error), (kind, key, value)
                    refused += 1
    assert refused > 60


def test_a_file_of_another_door_begins_a_training(tmp_path: Path) -> None:
    objects = runner.ModelContainer()
    model, optimizer, _ = objects.initialize(
        Net, {"width": 5}, torch.optim.AdamW, {"lr": 0.05}, lr_scheduler.StepLR, {"step_size": 1, "gamma": 0.5}
    )
    model(data().tensors[0]).sum().backward()
    optimizer.step()
    path = objects.save(tmp_path, "other")
    with pytest.warns(UserWarning, match="was not saved by a handler, so that it has no history"):
        handler = NNHandler.load(path)
    assert torch.equal(handler.model.first.weight, model.first.weight)
    assert handler.optimizer.state_dict()["state"][0]["step"] == 1
    handler.set_loss_fn(nn.CrossEntropyLoss())
    give_data(handler)
    assert [row["lr"] for row in train(handler, 2).history] == [0.025, 0.0125]
    handler.save(tmp_path / "mine.pth")
    again = NNHandler.load(tmp_path / "mine.pth")
    assert_equal(handler, again)


def test_a_run_gives_its_model(tmp_path: Path) -> None:
    small = ["data.batch_size=512", "trainer.max_epochs=1", "model.hidden=[8]", "runtime.device=cpu"]
    done = runner.run([*small, f"hydra.run.dir={tmp_path / 'run'}"])
    with pytest.warns(UserWarning, match="was not saved by a handler"):
        handler = NNHandler.load(tmp_path / "run")
    handler.save(tmp_path / "mine.pth")
    state = NNHandler.load(tmp_path / "mine.pth").model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in done.model.state_dict().items())


def test_tensors_keep_the_types_that_they_were_saved_with(tmp_path: Path) -> None:
    handler = NNHandler(Net)
    handler.model.bfloat16()
    handler.save(tmp_path / "a.pth")
    assert NNHandler.load(tmp_path / "a.pth").model.first.weight.dtype == torch.bfloat16


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth: is not there"):
        NNHandler.load(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth: is not there"):
        NNHandler.initialize_from_checkpoint(tmp_path / "nothing.pth", Net)
    with pytest.raises(ConfigError, match="device is 'nowhere'"):
        NNHandler.load(tmp_path / "nothing.pth", device="nowhere")
