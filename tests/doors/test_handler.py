"""The handler: the document's example as written, and a training that does not show where it was broken off."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset, WeightedRandomSampler

from runner import NNHandler
from runner.doors.handler_settings import split_of
from runner.errors import ConfigError, DataError, ResumeError, TrainingError
from runner.records import World

sys.path.append(str(Path(__file__).parent))

from handler_nets import Net, accuracy, assert_equal, data, give_data, made, train

# The example of the document; only the line that imports the handler is another one.
EXAMPLE = """
import torch
from runner import NNHandler
from your_project.models import YourModel

# 1. Initialize the handler
handler = NNHandler(
    model_class=YourModel,
    device="cuda" if torch.cuda.is_available() else "cpu"
)

# 2. Configure the handler
handler.set_optimizer(torch.optim.Adam, lr=0.001)
handler.set_loss_fn(torch.nn.CrossEntropyLoss())
handler.set_train_loader(train_dataset, batch_size=32)
handler.set_val_loader(val_dataset, batch_size=32)

# 3. Configure auto-saving
handler.auto_save(
    interval=5,                          # Save every 5 epochs
    save_path="checkpoints",             # Directory to save checkpoints
    name="model_epoch{epoch}_valloss{val_loss:.4f}",  # Filename format
    overwrite=False                      # Keep all checkpoints
)

# 4. Train the model
handler.train(epochs=30, validate_every=1)

# 5. Save the final model state
handler.save("models/final_model.pth")

# Later: Load the model for inference
loaded_handler = NNHandler.load(
    path="models/final_model.pth",
    device="cuda" if torch.cuda.is_available() else "cpu"
)
"""
YOUR_MODEL = """
import torch


class YourModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x)
"""
SCHEDULERS: list[tuple[Any, Mapping[str, Any]]] = [
    (None, {}),
    (lr_scheduler.LinearLR, {"start_factor": 0.1, "total_iters": 3}),
    (lr_scheduler.CosineAnnealingLR, {"T_max": 4}),
    (lr_scheduler.OneCycleLR, {"max_lr": 0.1, "total_steps": 8}),
    (lr_scheduler.CyclicLR, {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "cycle_momentum": False}),
    (lr_scheduler.ReduceLROnPlateau, {"patience": 0, "threshold": 0.5}),
    (lr_scheduler.LambdaLR, {"lr_lambda": lambda epoch: 0.5**epoch}),
]


def test_the_example_of_the_document_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "your_project").mkdir()
    (tmp_path / "your_project" / "models.py").write_text(YOUR_MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {"train_dataset": data(0), "val_dataset": data(1)}
    try:
        exec(EXAMPLE, names)
    finally:
        for name in [name for name in sys.modules if name.startswith("your_project")]:
            del sys.modules[name]
    handler, loaded = names["handler"], names["loaded_handler"]
    assert len(handler.train_losses) == len(handler.val_losses) == 30
    expected = {f"model_epoch{n}_valloss{handler.val_losses[n - 1]:.4f}.pth" for n in (5, 10, 15, 20, 25, 30)}
    assert {path.name for path in Path("checkpoints").iterdir()} == expected
    assert type(loaded.model).__name__ == "YourModel"
    assert not loaded.model.training
    assert_equal(handler, loaded)


@pytest.mark.parametrize(("scheduler", "arguments"), SCHEDULERS, ids=lambda value: getattr(value, "__name__", None))
def test_twice_two_epochs_are_four_bit_for_bit(tmp_path: Path, scheduler: Any, arguments: Mapping[str, Any]) -> None:
    settings = {"ema_decay": 0.9, "gradient_accumulation_steps": 2, "gradient_clipping_norm": 0.5}
    chosen = () if scheduler is None else (scheduler,)
    whole = train(made(*chosen, **arguments), 4, **settings)
    parts = train(made(*chosen, **arguments), 2, **settings)
    # What is drawn in between is no affair of the training.
    torch.rand(3)
    parts.save(tmp_path / "half.pth")
    given = {name: value for name, value in arguments.items() if callable(value)}
    loaded = NNHandler.load(tmp_path / "half.pth", **given)
    assert_equal(parts, loaded)
    assert_equal(whole, train(parts, 2, **settings))
    torch.rand(5)
    give_data(loaded)
    assert_equal(whole, train(loaded, 2, **settings))


def test_a_sampler_with_a_generator_of_its_own_goes_on_where_it_was(tmp_path: Path) -> None:
    def with_sampler(handler: NNHandler) -> NNHandler:
        sampler = RandomSampler(data(), generator=torch.Generator().manual_seed(7))
        handler.set_train_loader(data(), batch_size=8, sampler=sampler)
        return handler

    whole = train(with_sampler(made()), 4)
    parts = train(with_sampler(made()), 2)
    parts.save(tmp_path / "half.pth")
    loaded = NNHandler.load(tmp_path / "half.pth")
    give_data(loaded)
    assert_equal(whole, train(with_sampler(loaded), 2))
    assert_equal(whole, train(parts, 2))


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(*data().tensors, strict=True))


def batched(handler: NNHandler) -> None:
    handler.set_train_loader(data(), batch_size=8, shuffle=True, num_workers=1, prefetch_factor=3, pin_memory=True)


def loaded(handler: NNHandler) -> None:
    handler.set_train_loader(DataLoader(data(), batch_size=8, shuffle=True))
    handler.set_val_loader(DataLoader(data(1), batch_size=5))


def streamed(handler: NNHandler) -> None:
    handler.set_train_loader(Stream(), batch_size=8)


def weighted(handler: NNHandler) -> None:
    handler.set_train_loader(data(), batch_size=8, sampler=WeightedRandomSampler([1.0] * 26, 20))


def evaluating_itself(handler: NNHandler) -> None:
    if handler.epoch == 0:
        handler.set_optimizer(torch.optim.LBFGS, lr=0.1, max_iter=2)


def in_groups(parameters: Iterator[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    first, *others = parameters
    return torch.optim.SGD([{"params": [first], "lr": lr / 2}, {"params": others}], lr=lr, momentum=0.9)


def grouped(handler: NNHandler) -> None:
    if handler.epoch == 0:
        handler.set_optimizer(in_groups, lr=0.1)


@pytest.mark.parametrize("setting", [batched, loaded, streamed, weighted, evaluating_itself, grouped])
def test_so_are_they_with_loaders_and_optimizers_of_every_kind(
    tmp_path: Path, setting: Callable[[NNHandler], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    whole = made()
    setting(whole)
    train(whole, 4)
    half = made()
    setting(half)
    train(half, 2)
    half.save(tmp_path / "half.pth")
    again = NNHandler.load(tmp_path / "half.pth", trust=[in_groups.__module__])
    give_data(again)
    setting(again)
    assert_equal(whole, train(again, 2))
    assert_equal(whole, train(half, 2))


def in_sequence(handler: NNHandler) -> None:
    first = lr_scheduler.ConstantLR(handler.optimizer, 0.5, 1)
    second = lr_scheduler.ExponentialLR(handler.optimizer, 0.5)
    handler.set_scheduler(lr_scheduler.SequentialLR, schedulers=[first, second], milestones=[2])


def test_schedulers_in_sequence_are_set_again_and_go_on(tmp_path: Path) -> None:
    whole = made()
    in_sequence(whole)
    train(whole, 4)
    half = made()
    in_sequence(half)
    train(half, 2).save(tmp_path / "half.pth")
    with pytest.warns(UserWarning, match=r"no file can hold its schedulers .* or call set_scheduler with it before"):
        again = NNHandler.load(tmp_path / "half.pth")
    assert_equal(half, again)
    in_sequence(again)
    give_data(again)
    assert_equal(whole, train(again, 2))
    assert [row["lr"] for row in whole.history] == [0.05, 0.05, 0.025, 0.0125]


def test_a_seed_makes_a_training_and_is_not_begun_anew_when_it_goes_on() -> None:
    whole = train(made(), 4, seed=3)
    torch.manual_seed(99)
    parts = made()
    torch.rand(4)
    assert_equal(whole, train(train(parts, 2, seed=3), 2, seed=3))
    other = train(made(), 4, seed=4)
    assert other.train_losses != whole.train_losses


def test_it_trains_what_the_engine_trains(tmp_path: Path) -> None:
    """Against a loop written out by hand, on batches in their order."""
    torch.manual_seed(1)
    handler = NNHandler(Net, dropout=0.0)
    plain = Net(dropout=0.0)
    plain.load_state_dict(handler.model.state_dict())
    handler.set_optimizer(torch.optim.SGD, lr=0.1, momentum=0.9)
    handler.set_scheduler(lr_scheduler.StepLR, step_size=1, gamma=0.5)
    handler.set_loss_fn(nn.CrossEntropyLoss())
    handler.set_train_loader(data(), batch_size=8)
    handler.add_metric("accuracy", accuracy)
    train(handler, 2)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    right = 0.0
    for _ in range(2):
        right = 0.0
        for x, y in DataLoader(data(), batch_size=8):
            optimizer.zero_grad()
            outputs = plain(x)
            nn.functional.cross_entropy(outputs, y).backward()
            optimizer.step()
            right += float((outputs.argmax(1) == y).sum())
        scheduler.step()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, handler.model.state_dict()[name]), name
    assert handler.history[-1]["accuracy"] == pytest.approx(right / 26)
    assert handler.history[-1].keys() == {"epoch", "loss", "lr", "accuracy"}


def test_a_part_that_was_put_in_eval_mode_stays_in_it(tmp_path: Path) -> None:
    handler = made()
    handler.model.norm.eval()
    before = handler.model.norm.running_mean.clone()
    train(handler, 1)
    assert torch.equal(handler.model.norm.running_mean, before)
    handler.model.eval()
    train(handler, 1)
    assert not torch.equal(handler.model.norm.running_mean, before)


def test_two_handlers_in_one_process_share_nothing() -> None:
    alone = train(made(), 3)
    one, other = made(), made(lr=0.5)
    train(one, 1)
    train(other, 2)
    train(one, 2)
    assert_equal(alone, one)
    assert len(one.train_losses) == 3
    assert len(other.train_losses) == 2


def test_a_validation_comes_after_epochs_that_its_interval_divides() -> None:
    handler = train(train(made(), 3, validate_every=2), 2, validate_every=2)
    assert [row["epoch"] for row in handler.history if "val_loss" in row] == [2, 4]
    assert len(handler.val_losses) == 2
    assert "val_accuracy" in handler.history[1]
    assert train(made(), 2, validate_every=0).val_losses == []


def test_the_raw_weights_are_not_overwritten_by_the_averaged_ones() -> None:
    plain, averaging = train(made(), 2), train(made(), 2, ema_decay=0.9)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, averaging.model.state_dict()[name]), name
    assert plain.averaged_model is None
    assert averaging.averaged_model is not None
    weight = averaging.averaged_model.first.weight
    assert not torch.equal(weight, averaging.model.first.weight)
    with pytest.warns(UserWarning, match="averaged weights of the training before are dropped"):
        train(averaging, 1)
    assert averaging.averaged_model is None


def test_on_the_cpu_mixed_precision_is_bfloat16() -> None:
    handler = made()
    handler.set_loss_fn(lambda outputs, targets: nn.functional.cross_entropy(outputs.float(), targets))
    seen = set()
    handler.add_metric("seen", lambda outputs, targets: seen.add(outputs.dtype) or 0.0)
    train(handler, 1, use_amp=True)
    assert seen == {torch.bfloat16}


def test_early_stopping_waits_as_long_as_was_said_also_across_a_file(tmp_path: Path) -> None:
    def stopping(handler: NNHandler) -> NNHandler:
        handler.set_early_stopping(3, min_delta=100.0)
        return handler

    whole = train(stopping(made()), 9)
    assert whole.epoch == 4
    half = train(stopping(made()), 2)
    half.save(tmp_path / "half.pth")
    loaded = NNHandler.load(tmp_path / "half.pth")
    give_data(loaded)
    assert_equal(whole, train(loaded, 9))
    with pytest.warns(UserWarning, match="nothing was trained, because 3 evaluations in a row were no better than"):
        train(loaded, 9)
    assert loaded.epoch == 4


def interrupting(number: int) -> Callable[[Any, Any], float]:
    """A metric during whose call of this number somebody presses Ctrl-C."""
    calls: list[int] = []

    def once(outputs: Any, targets: Any) -> float:
        calls.append(1)
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        return 0.0

    return once


def test_an_interrupt_ends_it_after_the_step_saved_and_the_rest_follows_exactly(tmp_path: Path) -> None:
    whole = train(made(), 3)
    handler = made()
    handler.auto_save(1, tmp_path, "at{epoch}")
    handler.add_metric("accuracy", interrupting(8))
    # The file of the first epoch stays.
    file = tmp_path / "at1_step6.pth"
    with pytest.raises(KeyboardInterrupt) as raised:
        train(handler, 3)
    assert str(raised.value) == (f'stopped in epoch 2, after its batch 2; go on with NNHandler.load("{file}")')
    assert (tmp_path / "at1.pth").is_file()
    loaded = NNHandler.load(file)
    assert (loaded.epoch, len(loaded.history)) == (1, 1)
    give_data(loaded)
    train(loaded, 2)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name


def interrupted(folder: Path) -> Path:
    """A file in the middle of the second epoch, after two of its four batches of 8."""
    handler = made()
    handler.auto_save(-1, folder, "stopped")
    handler.add_metric("accuracy", interrupting(6))
    with pytest.raises(KeyboardInterrupt):
        train(handler, 2, validate_every=0)
    return folder / "stopped_step6.pth"


def test_an_interrupt_without_a_file_says_how_to_have_one() -> None:
    handler = made()
    handler.add_metric("accuracy", lambda outputs, targets: signal.raise_signal(signal.SIGINT) or 0.0)
    with pytest.raises(
        KeyboardInterrupt, match=r"after its batch 1; nothing of that is in a file: handler\.save\(path\)"
    ):
        train(handler, 1)


def test_a_line_an_epoch_stays_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    handler = made()
    handler.train(3, validate_every=2)
    *epochs, closing = capsys.readouterr().out.splitlines()
    assert len(epochs) == 3
    for line, row in zip(epochs, handler.history, strict=True):
        loss, metric = f"loss {row['loss']:.4f}", f"accuracy {row['accuracy']:.4f}"
        assert line.startswith(f"epoch {row['epoch']}/3  {loss}  {metric}")
        assert (f"  val_loss {row.get('val_loss', 0.0):.4f}" in line) == (row["epoch"] == 2)
        assert line.endswith("  lr 5.0e-02  best" if row["epoch"] == 2 else "  lr 5.0e-02")
    assert closing.startswith("trained 3 epochs, 12 steps in 0 s; best val_loss ")


def test_what_is_left_on_the_terminal_tells_of_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    handler = made()
    handler.add_metric("accuracy", lambda outputs, targets: signal.raise_signal(signal.SIGINT) or 0.0)
    with pytest.raises(KeyboardInterrupt):
        handler.train(1)
    assert capsys.readouterr().out.startswith("stopped by SIGINT in epoch 1, after its batch 1: 0 epochs, 1 step in ")


def test_an_unfinished_epoch_goes_on_with_batches_of_another_size(tmp_path: Path) -> None:
    handler = NNHandler.load(interrupted(tmp_path))
    give_data(handler, batch_size=4)
    handler.auto_save(None)
    with pytest.warns(UserWarning, match="train: the position: batch 2 of 8 samples is batch 4 of 4"):
        train(handler, 1)
    assert handler.parts.state.progress.samples == 52


def test_an_unfinished_epoch_wants_the_loader_that_it_was_read_by(tmp_path: Path) -> None:
    handler = NNHandler.load(interrupted(tmp_path))
    give_data(handler)
    streamed(handler)
    with pytest.raises(ResumeError, match="was read by a loader of another kind"):
        train(handler, 1)
    # Nothing is lost by that.
    handler.save(tmp_path / "again.pth")
    whole = train(made(), 2, validate_every=0)
    again = NNHandler.load(tmp_path / "again.pth")
    for one in (handler, again):
        give_data(one)
        one.auto_save(None)
        train(one, 1, validate_every=0)
        assert all(torch.equal(value, one.model.state_dict()[name]) for name, value in whole.model.state_dict().items())


class Counting(nn.Module):
    """A loss that changes while it is used."""

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(size))

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return nn.functional.cross_entropy(outputs, targets) * (1 + self.calls.mean() / 100)


def test_what_a_loss_remembers_goes_on_and_a_new_one_begins_as_it_is(tmp_path: Path) -> None:
    def counted(size: int = 1) -> NNHandler:
        handler = made()
        handler.set_loss_fn(Counting(size))
        return handler

    whole, half = train(counted(), 2), train(counted(), 1)
    half.save(tmp_path / "a.pth")
    for loss, fits in ((Counting(), True), (Counting(2), False)):
        again = NNHandler.load(tmp_path / "a.pth")
        give_data(again)
        again.set_loss_fn(loss)
        if fits:
            assert_equal(whole, train(again, 1))
        else:
            with pytest.raises(ResumeError, match="the state of the loss that was saved does not fit Counting"):
                train(again, 1)
    weighted_loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    half.set_loss_fn(weighted_loss)
    train(half, 1)
    half.set_loss_fn(nn.CrossEntropyLoss(weight=torch.ones(3)))
    train(half, 1)
    assert torch.equal(half.parts.loss.function.weight, torch.ones(3))


def test_several_processes_share_out_no_loader_of_ones_own() -> None:
    split = split_of("set_train_loader", DataLoader(data()), {})
    with pytest.raises(ConfigError, match="which cannot be shared out to 2 processes; give the data set"):
        split.batches(seed=0, world=World(0, 2), device=torch.device("cpu"), resumable=True)


def test_a_loss_is_a_module_a_function_with_arguments_or_a_class_with_its(tmp_path: Path) -> None:
    given: list[tuple[Any, Mapping[str, Any]]] = [
        (nn.CrossEntropyLoss(label_smoothing=0.1), {}),
        (nn.CrossEntropyLoss, {"label_smoothing": 0.1}),
        (nn.functional.cross_entropy, {"label_smoothing": 0.1}),
    ]
    trained = []
    for number, (loss, arguments) in enumerate(given):
        handler = made()
        handler.set_loss_fn(loss, **arguments)
        trained.append(train(handler, 1))
        trained[-1].save(tmp_path / f"{number}.pth")
    assert_equal(trained[0], trained[1])
    assert_equal(trained[0], trained[2])
    # The file knows it, so that only the data are set again.
    for number, handler in enumerate(trained):
        loaded = NNHandler.load(tmp_path / f"{number}.pth")
        give_data(loaded)
        assert_equal(train(loaded, 1), train(handler, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "train(epochs=0): wanted a whole number from 1"),
        ({"validate_every": -1}, "train(validate_every=-1): wanted a whole number of epochs, or 0 or None for never"),
        ({"gradient_accumulation_steps": 0}, "train(gradient_accumulation_steps=0): wanted a whole number of batches"),
        ({"gradient_clipping_norm": 0.0}, "train(gradient_clipping_norm=0.0): wanted a number above 0, or None"),
        ({"ema_decay": 1.0}, "train(ema_decay=1.0): wanted a number in [0, 1), 0 for no averaged weights"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_trained(
    settings: Mapping[str, Any], message: str
) -> None:
    handler = made()
    with pytest.raises(ConfigError) as caught:
        train(handler, **{"epochs": 1, **settings})
    assert message in str(caught.value)
    assert handler.epoch == 0


def test_what_is_not_set_is_all_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        train(NNHandler(Net), 1)
    assert caught.value.problems == (
        "train: first call set_optimizer",
        "train: first call set_loss_fn",
        "train: first call set_train_loader",
    )
    handler = made(lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(ConfigError, match=r"train\(validate_every=0\): ReduceLROnPlateau waits"):
        train(handler, 1, validate_every=0)


def test_what_cannot_be_set_is_refused_where_it_is_set() -> None:
    handler = NNHandler(Net)
    refusals: list[tuple[Any, str]] = [
        (lambda: NNHandler(dict), r"NNHandler\(model_class=...\): made a dict; wanted a torch.nn.Module"),
        (
            lambda: NNHandler(Net()),
            r"NNHandler\(model_class=...\): is an object, Net\(...\); wanted its class, .*: NNHandler\(Net, ...\)$",
        ),
        (
            lambda: handler.set_optimizer(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1)),
            r"set_optimizer: is an object, SGD\(...\); wanted its class, .*: set_optimizer\(SGD, ...\)$",
        ),
        (
            lambda: handler.set_optimizer(torch.optim.SGD, params=[]),
            "set_optimizer: SGD takes 'params' first, where the handler gives the model's parameters; leave it out, or",
        ),
        (
            lambda: handler.set_optimizer(lambda: 3),
            "takes no argument by position; wanted what takes the model",
        ),
        (lambda: NNHandler(Net, device="nowhere"), r"device is 'nowhere'; wanted auto, cpu, cuda, cuda:N or mps"),
        (lambda: handler.set_scheduler(lr_scheduler.StepLR, step_size=1), "no optimizer yet; call set_optimizer first"),
        (lambda: handler.set_optimizer(lambda parameters: 3), "made a int; wanted a torch.optim.Optimizer"),
        (lambda: handler.set_loss_fn(nn.MSELoss(reduction="sum")), "has reduction='sum'; wanted 'mean'"),
        (lambda: handler.set_train_loader(data(), bach_size=3), "no such argument; did you mean 'batch_size'?"),
        (lambda: handler.set_train_loader(data(), sampler=[1], shuffle=True), "sampler option is mutually exclusive"),
        (lambda: handler.set_val_loader(DataLoader(data()), batch_size=3), "a DataLoader has its own batch_size"),
        (lambda: handler.set_train_loader(data(), batch_size=None), "wanted a whole number; what are batches already"),
        (lambda: handler.set_val_loader(3), r"set_val_loader\(int\): wanted a data set or a loader"),
        (lambda: handler.add_metric("val_x", accuracy), "wanted a word that is not taken, such as 'accuracy'"),
        (lambda: handler.set_early_stopping(0), "set_early_stopping: patience is 0; wanted a number of at least 1"),
        (lambda: setattr(handler, "model", Net()), "that is another model; make a new NNHandler for it"),
    ]
    for refused, message in refusals:
        with pytest.raises(ConfigError, match=message):
            refused()
    handler.set_optimizer(torch.optim.SGD, lr=0.1)
    with pytest.raises(ConfigError, match="ChainedScheduler takes 'schedulers' first, where the handler gives the opt"):
        handler.set_scheduler(lr_scheduler.ChainedScheduler, schedulers=[])
    with pytest.raises(ConfigError, match="made a dict; wanted one of torch's schedulers"):
        handler.set_scheduler(lambda optimizer: {})


def test_batches_and_losses_of_another_form_are_said() -> None:
    handler = made()
    handler.set_train_loader([{"x": 1.0}] * 4)
    with pytest.raises(ConfigError, match=r"gives a dict as a batch; wanted \(inputs, targets\)"):
        train(handler, 1)
    handler = made()
    handler.set_loss_fn(nn.functional.cross_entropy, reduction="none")
    with pytest.raises(ConfigError, match=r"gave a tensor of shape \(8,\); wanted the mean over the samples"):
        train(handler, 1)


@pytest.mark.parametrize(
    ("metric", "what"),
    [(lambda outputs, targets: outputs, r"a tensor of shape \(8, 3\)"), (lambda outputs, targets: None, "NoneType")],
)
def test_a_metric_that_gives_no_number_is_named(metric: Callable[..., Any], what: str) -> None:
    handler = made()
    handler.add_metric("f1", metric)
    with pytest.raises(ConfigError, match=rf"add_metric\('f1'\): the function gave {what}; wanted the mean over the"):
        train(handler, 1)


def test_what_does_not_fit_the_data_is_said_in_the_words_of_a_loader() -> None:
    handler = made()
    handler.set_train_loader(data(), batch_size=99, drop_last=True)
    with pytest.raises(DataError, match=r"drop_last is True, .*; set drop_last=False or a smaller batch_size$"):
        train(handler, 1)


def test_a_device_that_is_not_there_is_said_in_the_words_of_python() -> None:
    # No machine has both.
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(
        ConfigError, match=rf"device is '{absent}', and this machine has only .*; give device=\"auto\"$"
    ):
        NNHandler(Net, device=absent)


def test_a_handler_says_what_it_has_and_where_it_stands() -> None:
    assert repr(NNHandler(Net)) == "NNHandler(Net on cpu, step 0, epoch 0)"
    handler = train(made(lr_scheduler.StepLR, step_size=1), 1)
    best = f"best val_loss {handler.best:.4f}"
    assert repr(handler) == f"NNHandler(Net on cpu with AdamW and StepLR, step 4, epoch 1, {best})"


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    handler = made(lr=1e30)
    with pytest.raises(
        TrainingError, match=r"no checkpoint holds this step\. Lower lr in set_optimizer, or train\(grad"
    ):
        train(handler, 3)


def test_another_scheduler_begins_from_the_optimizers_own_rate() -> None:
    handler = made(lr_scheduler.LinearLR, start_factor=0.1)
    handler.set_scheduler(lr_scheduler.LinearLR, start_factor=0.5)
    assert handler.optimizer.param_groups[0]["lr"] == pytest.approx(0.025)
    handler.set_optimizer(torch.optim.SGD, lr=0.3)
    assert handler.scheduler is None
    handler.optimizer.param_groups[0]["lr"] = 0.2
    train(handler, 2)
    assert [row["lr"] for row in handler.history] == [0.2, 0.2]


def test_a_batch_of_several_inputs_goes_into_the_model_by_position() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return self.layer(one + other)

    handler = NNHandler(Two)
    handler.set_optimizer(torch.optim.SGD, lr=0.1)
    handler.set_loss_fn(nn.CrossEntropyLoss())
    x, y = data().tensors
    handler.set_train_loader(TensorDataset(x, x, y), batch_size=8)
    assert len(train(handler, 1).train_losses) == 1
