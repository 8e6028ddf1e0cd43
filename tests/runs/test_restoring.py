"""What a launch overrides wins over what was saved; what cannot be as it was is said."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.training.schedule import Cosine

OPTIONS = ("checkpoint.keep.last=null", "checkpoint.keep.best=null", "hydra.run.dir=here")
TORCH = "scheduler._target_=torch.optim.lr_scheduler."


@pytest.fixture
def resumed(short, messages) -> Callable[..., tuple[dict[str, Any], list[str]]]:
    """The state one step after a resume at step 5 of 10 with other overrides, and what was said of the resume."""

    def resumed(first: Sequence[str], then: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        short("trainer.max_epochs=2", *OPTIONS, *first)
        before = len(messages())
        run = runner.run(["+resume=here@step=5", "trainer.max_steps=6", *then])
        said = [
            line.removeprefix("not as it was: ") for line in messages()[before:] if line.startswith("not as it was")
        ]
        return run.checkpoint(6).state(), said

    return resumed


def groups(state: dict[str, Any]) -> list[dict[str, Any]]:
    return list(state["optimizer"]["groups"])


CONSTANT = "scheduler=constant"


def test_nothing_is_said_and_nothing_changes_where_nothing_was_overridden(short, messages) -> None:
    # The second stops at step 3; the length is no part of a constant learning rate.
    short(CONSTANT, *OPTIONS, "trainer.max_steps=3")
    run = runner.run(["+resume=here", "trainer.max_steps=null"])
    assert not [line for line in messages() if line.startswith("not as it was")]
    assert "at step 3, epoch 1, batch 3, learning rate 0.003" in messages()
    assert {record["lr"] for record in run.records if record["event"] == "step"} == {3e-3}


def test_lr_and_weight_decay_win_over_the_saved_ones(resumed) -> None:
    state, said = resumed([CONSTANT], ["optimizer.lr=1e-4", "optimizer.weight_decay=0.5"])
    (group,) = groups(state)
    assert (group["lr"], group["initial_lr"], group["weight_decay"], group["eps"]) == (1e-4, 1e-4, 0.5, 1e-8)
    assert "the learning rate: 0.003 when it was saved, 0.0001 now, as the config asks" in said


def test_a_new_lr_follows_the_curve_from_where_it_stands(short) -> None:
    short("scheduler.warmup=0", "trainer.max_epochs=2", *OPTIONS)
    run = runner.run(["+resume=here@step=5", "optimizer.lr=6e-3"])
    rates = {record["step"]: record["lr"] for record in run.records if record["event"] == "step"}
    assert rates[6] == 3e-3  # Half of the new one, half-way down the cosine.


def test_settings_of_parameter_groups_win(resumed) -> None:
    first = "optimizer.groups=[{match: '*.bias', weight_decay: 0.1}]"
    then = "optimizer.groups=[{match: '*.bias', weight_decay: 0.0, lr: 1e-5}]"
    state, _ = resumed([CONSTANT, first], [then])
    bias, rest = groups(state)
    assert (bias["weight_decay"], bias["lr"]) == (0.0, 1e-5)
    assert (rest["weight_decay"], rest["lr"]) == (0.01, 3e-3)
    assert all("exp_avg" in values for values in state["optimizer"]["state"].values())


def test_other_parameter_groups_keep_the_state_of_every_parameter(resumed) -> None:
    state, said = resumed([CONSTANT], ["optimizer.groups=[{match: '*.bias', lr: 1e-5}]"])
    assert [group["lr"] for group in groups(state)] == [1e-5, 3e-3]
    assert all(float(values["step"]) == 6 for values in state["optimizer"]["state"].values())
    assert "the settings of the optimizer's groups: they hold other parameters now" in said


def test_another_optimizer_starts_anew_and_says_so(resumed) -> None:
    state, said = resumed([CONSTANT], ["optimizer=sgd"])
    assert state["optimizer"]["class"] == "torch.optim.sgd.SGD"
    assert groups(state)[0]["lr"] == 1e-2
    assert "the optimizer's state: torch.optim.adamw.AdamW was saved, torch.optim.sgd.SGD starts anew" in said


def test_another_scheduler_starts_from_where_the_training_stands_and_says_so(resumed) -> None:
    state, said = resumed([CONSTANT], ["scheduler=cosine", "scheduler.warmup=0"])
    assert state["scheduler"]["class"] == "runner.training.schedule.Cosine"
    assert groups(state)[0]["lr"] == 0.0  # Its end is step 6.
    assert any("Constant was saved, runner.training.schedule.Cosine starts anew" in line for line in said)


def test_a_longer_training_follows_the_longer_curve_and_says_both_rates(short, messages) -> None:
    short("scheduler.warmup=0", *OPTIONS)
    run = runner.run(["+resume=here", "trainer.max_epochs=2"])
    assert "not as it was: the learning rate: 0 when it was saved, 0.0015 now, as the config asks" in messages()
    rates = {record["step"]: record["lr"] for record in run.records if record["event"] == "step"}
    assert rates[6] == 1.5e-3  # Half-way down the cosine over 10 steps.


def test_a_torch_scheduler_follows_an_overridden_lr_and_setting(resumed) -> None:
    step = [f"{TORCH}StepLR", "+scheduler.step_size=6", "+scheduler.gamma=0.1"]
    state, said = resumed(step, ["optimizer.lr=1e-2", "scheduler.gamma=0.5"])
    assert groups(state)[0]["lr"] == pytest.approx(5e-3, rel=1e-9)  # Computed by torch, factor by factor.
    assert state["scheduler"]["state"]["base_lrs"] == [1e-2]
    assert "the learning rate: 0.003 when it was saved, 0.01 now, as the config asks" in said


def test_settings_that_torch_keeps_in_the_groups_are_overridden_too(resumed) -> None:
    cycle = [f"{TORCH}OneCycleLR", "+scheduler.max_lr=1e-2"]
    state, _ = resumed(cycle, ["scheduler.max_lr=2e-2"])
    (group,) = groups(state)
    assert (group["max_lr"], group["initial_lr"]) == (2e-2, 2e-2 / 25)


def test_the_smallest_rates_of_plateau_are_a_list_under_another_name(resumed) -> None:
    state, _ = resumed(["scheduler=plateau"], ["scheduler.min_lr=1e-3", "scheduler.patience=7"])
    saved = state["scheduler"]["state"]
    assert (saved["min_lrs"], saved["patience"]) == ([1e-3], 7)


def test_a_torch_scheduler_keeps_its_own_length_and_that_is_said(short, messages) -> None:
    short(f"{TORCH}CosineAnnealingLR", "+scheduler.T_max=5", *OPTIONS)
    runner.run(["+resume=here", "trainer.max_epochs=2"])
    assert any("CosineAnnealingLR keeps its own, T_max=5; set scheduler.T_max" in line for line in messages())


def test_a_torch_scheduler_that_gets_its_length_from_the_runner_follows_a_longer_one(short) -> None:
    short(f"{TORCH}OneCycleLR", "+scheduler.max_lr=1e-2", *OPTIONS)
    run = runner.run(["+resume=here", "trainer.max_epochs=2"])
    assert run.checkpoint().state()["scheduler"]["state"]["total_steps"] == 10
    rates = [record["lr"] for record in run.records if record["event"] == "step"]
    assert rates[5] > rates[9] > 0  # Torch's own would have raised past its end.


def test_settings_deep_inside_of_a_scheduler_are_overridden_too(resumed) -> None:
    chained = [
        f"{TORCH}ChainedScheduler",
        "+scheduler.schedulers=[{_target_: torch.optim.lr_scheduler.ConstantLR, total_iters: 3}]",
    ]
    then = "scheduler.schedulers=[{_target_: torch.optim.lr_scheduler.ConstantLR, total_iters: 9}]"
    state, said = resumed(chained, [then])
    assert groups(state)[0]["lr"] == 3e-3 / 3  # Its factor is a third for the first 9 steps now.
    assert "the learning rate: 0.003 when it was saved, 0.001 now, as the config asks" in said


def test_a_batch_size_that_is_changed_in_an_epoch_leaves_no_sample_out(short, messages) -> None:
    short(CONSTANT, *OPTIONS, "trainer.max_steps=3")
    run = runner.run(["+resume=here", "trainer.max_steps=null", "data.batch_size=100"])
    said = (
        "not as it was: the position: batch 3 of 256 samples is batch 7 of 100; samples that are trained on again: 68"
    )
    assert said in messages()
    assert "at step 3, epoch 1, batch 7, learning rate 0.003" in messages()
    # Of 13 batches, 6 are left.
    assert run.checkpoint().progress.step == 9
    assert run.checkpoint().progress.samples == 3 * 256 + 1259 - 7 * 100


def test_accumulation_that_is_changed_in_an_epoch_has_nothing_to_convert(short, messages) -> None:
    short(CONSTANT, *OPTIONS, "trainer.max_steps=3")
    run = runner.run(["+resume=here", "trainer.max_steps=null", "trainer.accumulate=2"])
    assert not [line for line in messages() if line.startswith("not as it was")]
    assert (run.checkpoint().progress.step, run.checkpoint().progress.samples) == (4, 1259)


def test_a_schedule_goes_on_at_its_share_of_the_epochs_when_the_batches_are_others(short, messages) -> None:
    short("scheduler.warmup=0", "trainer.max_epochs=2", *OPTIONS)
    run = runner.run(["+resume=here@step=5", "data.batch_size=128"])
    assert not [line for line in messages() if "learning rate:" in line]
    rates = {record["step"]: record["lr"] for record in run.records if record["event"] == "step"}
    assert (rates[6], max(rates)) == (1.5e-3, 15)  # Half-way down the cosine; 10 steps are left of 20.
    assert run.checkpoint().metrics["lr"] == 0


def test_a_schedule_ends_with_the_training_whatever_it_was_counted_in_before(short, messages) -> None:
    # In steps at first, 3 of them; then in epochs, of which the first has had 3 steps of 5, and has 4 of 10 left.
    short("scheduler.warmup=0", "trainer.max_epochs=2", "trainer.max_steps=3", *OPTIONS)
    run = runner.run(["+resume=here", "trainer.max_steps=100", "data.batch_size=128"])
    rates = {record["step"]: record["lr"] for record in run.records if record["event"] == "step"}
    assert max(rates) == 17
    assert rates[17] > run.checkpoint().metrics["lr"] == 0
    # At 6 of 20 steps, the curve is where it is in a run that has had such batches all along.
    assert rates[4] == 3e-3 * Cosine(warmup=0, final=0, total_steps=20).factor(6)


@pytest.mark.parametrize("word", ["+reset=[optimizer,scheduler,averaged,position,best]", "+reset=optimizer"])
def test_parts_are_reset_by_their_names(resumed, word: str) -> None:
    state, said = resumed([CONSTANT, "trainer.ema_decay=0.9"], [word])
    assert {float(values["step"]) for values in state["optimizer"]["state"].values()} == {1.0}
    assert "the optimizer's state begins anew, as +reset=[optimizer] asks" in said
    assert len([line for line in said if "+reset=[" in line]) == word.count(",") + 1


def test_a_part_that_cannot_be_reset_is_refused_with_those_that_can(short) -> None:
    short(*OPTIONS)
    with pytest.raises(runner.ConfigError) as caught:
        runner.run(["+resume=here", "+reset=[momentum]"])
    assert str(caught.value) == (
        "+reset=[momentum]: wanted one of optimizer, scheduler, scaler, averaged, position, best, early_stopping, "
        "generators, objective"
    )


def test_that_the_learning_rate_is_the_saved_one_is_checked_and_said(short, messages) -> None:
    short(f"{TORCH}StepLR", "+scheduler.step_size=2", *OPTIONS, "trainer.max_steps=3")
    runner.run(["+resume=here", "trainer.max_steps=4"])
    (said,) = [line for line in messages() if line.startswith("restored: ")]
    assert said.endswith(", random generators, learning rate") and "optimizer AdamW, scheduler StepLR" in said


STREAM = """
import torch, runner
class Stream(torch.utils.data.IterableDataset):
    at = 0
    def __iter__(self):
        while self.at < 64:
            self.at += 1
            yield torch.zeros(64), self.at % 10
        self.at = 0
    def state_dict(self): return {"at": self.at}
    def load_state_dict(self, state): self.at = state["at"]
def stream(): return runner.Data(Stream())
"""
QUIET = ("monitor=null", "trainer.evaluate.every_epochs=null", "checkpoint.keep.best=null", "model.in_features=64")


def test_the_position_of_a_loader_is_not_converted_and_that_is_said(short, messages, tmp_path: Path) -> None:
    (tmp_path / "streamed.py").write_text(STREAM)
    mine = ("data._target_=streamed.stream", "data.shuffle=false", "data.batch_size=16", *QUIET)
    short(CONSTANT, *OPTIONS, *mine, "checkpoint.save.on_improvement=false", "trainer.max_steps=2")
    runner.run(["+resume=here", "trainer.max_steps=3", "data.batch_size=8"])
    assert (
        "not as it was: the position: how many samples 2 batches were is the loader's own, and data.batch_size "
        "changed, so that it cannot be converted; +reset=[position] begins the epoch again"
    ) in messages()


DATA = """
import torch, runner
def blobs(samples):
    y = torch.arange(samples) % 10
    return runner.Data(torch.utils.data.TensorDataset(torch.randn(samples, 64), y))
"""


def test_data_without_a_fingerprint_are_known_by_their_number(short, messages, tmp_path: Path) -> None:
    (tmp_path / "blobs.py").write_text(DATA)
    quiet = ("monitor=null", "trainer.evaluate.every_epochs=null", "checkpoint.keep.best=null")
    short(
        CONSTANT, *OPTIONS, *quiet, "data._target_=blobs.blobs", "+data.samples=1000", "trainer.max_steps=2",
        "checkpoint.save.on_improvement=false", "model.in_features=64",
    )  # fmt: skip
    facts = runner.Checkpoint.open("here").manifest.facts
    assert (facts["data"], facts["samples"], facts["world"]) == (None, {"train": 1000}, 1)
    runner.run(["+resume=here", "trainer.max_steps=3", "data.samples=1100"])
    assert "not exact: samples of train: 1000 then, 1100 now" in messages()
    said = "the unfinished epoch: the data have 1100 samples, and had 1000, so that it goes on in another order; "
    assert f"not as it was: {said}some samples come twice in it, others not at all" in messages()


def test_newer_checkpoints_are_set_aside_and_named(resumed, tmp_path: Path) -> None:
    _, said = resumed([CONSTANT], [])
    assert any(line.startswith("step-000000010: newer than what is resumed") for line in said)
    assert [path.name for path in (tmp_path / "here/checkpoints/aside").rglob("step-*")] == ["step-000000010"]
