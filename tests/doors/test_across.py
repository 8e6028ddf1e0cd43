"""What one door writes, every other opens: each kind of file by each reader, the same weights bit for bit."""

import contextlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import TensorDataset

import runner
from runner import ModelContainer, NNHandler
from runner.checkpoint.interop import read_weights
from runner.cli.runs import app
from runner.errors import CheckpointError
from runner.models import ESNModel, classic_esn
from runner.training import optimizer_state

NETS = """
import torch
from torch import nn

from runner import save_load


@save_load(version="1.0")
class Net(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.first, self.norm = nn.Linear(64, width), nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 10, bias=False)

    def forward(self, x):
        return self.last(self.norm(torch.relu(self.first(x.flatten(1)))))


@save_load(compress=True)
class Small(Net):
    pass
"""
FROM_HANDLERS = ("handler", "handler's split files")
FILES = (
    *("save_load", "save_load, compressed", *FROM_HANDLERS, "handler's weights"),
    *("container", "container's inference", "ESN"),
    *("run", "run packed as a zip", "run packed for torch", "tutorial's dict"),
)
ONLY_WEIGHTS = ("tutorial's dict",)
"""They do not tell how a model is made."""


@dataclass(frozen=True)
class File:
    """A file, what it holds, and how to make such a model by hand."""

    path: Path
    weights: Mapping[str, Tensor]
    cls: Any
    arguments: Mapping[str, Any]

    def model(self) -> Any:
        return self.cls(**self.arguments)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a module of networks, and a state directory in which it is remembered."""
    home = tmp_path_factory.mktemp("across")
    (home / "acrossnets.py").write_text(NETS)
    (home / "conf" / "model").mkdir(parents=True)
    (home / "conf" / "model" / "across.yaml").write_text("_target_: acrossnets.Net\nwidth: 3\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        patch.syspath_prepend(str(home))
        yield home
    sys.modules.pop("acrossnets", None)


@pytest.fixture(scope="module")
def files(home: Path) -> dict[str, File]:
    import acrossnets as nets  # type: ignore[import-not-found]

    made: dict[str, File] = {}

    def add(name: str, path: str | Path, model: nn.Module, cls: Any, **arguments: Any) -> None:
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        made[name] = File(home / path, weights, cls, arguments)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, cls, width in (("save_load", nets.Net, 6), ("save_load, compressed", nets.Small, 7)):
            net = cls(width)
            net.save(f"{width}.pth")
            add(name, f"{width}.pth", net, cls, width=width)

        handler = NNHandler(nets.Net, width=8)
        handler.set_optimizer(torch.optim.AdamW, lr=0.01)
        handler.set_scheduler(StepLR, step_size=1, gamma=0.5)
        handler.set_loss_fn(nn.CrossEntropyLoss)
        handler.set_train_loader(TensorDataset(torch.randn(16, 64), torch.randint(0, 10, (16,))), batch_size=8)
        handler.train(1, progress_bar=False)
        handler.save("handler.pth")
        handler.save("split.pth", single_file=False)
        for name, path in zip((*FROM_HANDLERS, "handler's weights"), ("handler", "split", "split.model"), strict=True):
            add(name, f"{path}.pth", handler.model, nets.Net, width=8)

        container = ModelContainer()
        objects = container.initialize(nets.Net, {"width": 4}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})
        objects.model(torch.randn(8, 64)).square().sum().backward()
        assert objects.optimizer is not None
        objects.optimizer.step()
        add("container", container.save("container"), objects.model, nets.Net, width=4)
        add("container's inference", container.save_inference("container"), objects.model, nets.Net, width=4)

        esn = classic_esn(20, 2, 1)
        esn.save("esn.pt")
        add("ESN", "esn.pt", esn, classic_esn, reservoir_size=20, input_size=2, output_size=1)

    run = runner.run(["model=across", "runtime.device=cpu", "data.batch_size=512", "trainer.max_epochs=1"])
    add("run", run.directory, run.model, nets.Net, width=3)
    for name, path in (("run packed as a zip", "run.zip"), ("run packed for torch", "run.pt")):
        assert runs("pack", run.directory, path) == 0
        add(name, path, run.model, nets.Net, width=3)
    assert runs("export", run.directory, "tutorial.pth") == 0
    add("tutorial's dict", "tutorial.pth", run.model, nets.Net, width=3)
    assert tuple(made) == FILES
    return made


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))


def runs(*words: object) -> Any:
    """The command `runs` in this process; its exit code."""
    return app(args=[*map(str, words)], prog_name="runs", standalone_mode=False) or 0


def through_the_package(file: File, name: str) -> nn.Module:
    return runner.load(file.path)


def through_the_class(file: File, name: str) -> nn.Module:
    if name == "ESN":
        return ESNModel.load_from_file(file.path, model=file.model())
    return file.cls.load(file.path, **(file.arguments if name in ONLY_WEIGHTS else {}))  # type: ignore[no-any-return]


def into_an_object(file: File, name: str) -> nn.Module:
    model = file.model()
    model.load(file.path)
    return model  # type: ignore[no-any-return]


def through_a_handler(file: File, name: str) -> nn.Module:
    told = "was not saved by a handler, so that it has no history"
    own = name in (*FROM_HANDLERS, "handler's weights", *ONLY_WEIGHTS)
    with contextlib.nullcontext() if own else pytest.warns(UserWarning, match=told):
        return NNHandler.load(file.path).model


def into_a_new_handler(file: File, name: str) -> nn.Module:
    return NNHandler.initialize_from_checkpoint(file.path, file.cls, **file.arguments).model


def through_a_container(file: File, name: str) -> nn.Module:
    return ModelContainer().load(file.path)[1].model


def through_a_container_by_class(file: File, name: str) -> nn.Module:
    cls = ESNModel if name == "ESN" else file.cls
    arguments = file.arguments if name in ONLY_WEIGHTS else {}
    return ModelContainer().load(file.path, cls, model_kwargs=arguments)[1].model


def through_an_export(file: File, name: str) -> nn.Module:
    target = file.path.with_name(f"exported {name}.safetensors".replace("/", " "))
    target.unlink(missing_ok=True)
    assert runs("export", file.path, target) == 0
    model: nn.Module = file.model()
    model.load_state_dict(dict(read_weights(target).tensors))
    return model


READERS: dict[str, Callable[[File, str], nn.Module]] = {
    "runner.load": through_the_package,
    "Net.load": through_the_class,
    "net.load": into_an_object,
    "NNHandler.load": through_a_handler,
    "NNHandler.initialize_from_checkpoint": into_a_new_handler,
    "ModelContainer.load": through_a_container,
    "ModelContainer.load with the class": through_a_container_by_class,
    "runs export": through_an_export,
}
NEED_TO_BE_TOLD = ("runner.load", "NNHandler.load", "ModelContainer.load")
"""Readers to whom nobody says how the model is made."""


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", FILES)
def test_every_reader_opens_every_file(files: Mapping[str, File], name: str, reader: str) -> None:
    file = files[name]
    if name == "handler's split files" and "NNHandler" not in reader:
        # They are a set of files, of which that with the weights is one.
        file, name = files["handler's weights"], "handler's weights"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if name in ONLY_WEIGHTS and reader in NEED_TO_BE_TOLD:
            with pytest.raises(CheckpointError, match=r"tutorial\.pth: .*does not tell how (its|their) model is made"):
                READERS[reader](file, name)
            return
        read = READERS[reader](file, name).state_dict()
    assert read.keys() == file.weights.keys()
    for key, value in file.weights.items():
        assert read[key].dtype == value.dtype, key
        assert torch.equal(read[key], value), key


@pytest.mark.parametrize("name", [name for name in FILES if name != "handler's split files"])
def test_the_commands_show_and_verify_every_file(
    files: Mapping[str, File], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files[name].path
    assert runs("show", path) == 0
    shown = capsys.readouterr().out
    assert path.name in shown
    assert name in ONLY_WEIGHTS or files[name].cls.__name__ in shown or "ESNModel" in shown
    assert runs("verify", path) == 0
    assert "damaged" not in capsys.readouterr().out.replace("none damaged", "")


@pytest.mark.parametrize("name", FILES)
def test_every_file_becomes_the_tutorial_s_dict(files: Mapping[str, File], name: str, tmp_path: Path) -> None:
    file = files["handler's weights"] if name == "handler's split files" else files[name]
    assert runs("export", file.path, tmp_path / "weights.pt") == 0
    values = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert values["model_state_dict"].keys() == file.weights.keys()
    assert all(torch.equal(value, file.weights[key]) for key, value in values["model_state_dict"].items())


@pytest.mark.parametrize("name", ["handler", "container", "run", "run packed as a zip", "run packed for torch"])
def test_an_optimizer_has_its_state_again_in_a_container(files: Mapping[str, File], name: str) -> None:
    metadata, (model, optimizer, scheduler) = ModelContainer().load(files[name].path)
    assert optimizer is not None
    assert metadata["optim_kwargs"]["lr"] == {"handler": 0.01, "container": 0.1}.get(name, 3e-3)
    assert (scheduler is not None) is (name == "handler")
    saved = runner.Checkpoint.open(files[name].path).state(["optimizer"])["optimizer"]
    here = optimizer_state.capture(optimizer, model)
    assert here["groups"] == saved["groups"]
    assert here["state"].keys() == saved["state"].keys() != set()
    for key, values in saved["state"].items():
        assert all(torch.equal(here["state"][key][one], value) for one, value in values.items()), key


@pytest.mark.parametrize("name", ["handler", "container", "run", "run packed as a zip", "run packed for torch"])
def test_a_loop_of_one_s_own_goes_on_from_every_file_with_an_optimizer(files: Mapping[str, File], name: str) -> None:
    model = files[name].model()
    kind = torch.optim.SGD if name == "container" else torch.optim.AdamW
    optimizer = kind(model.parameters(), lr=1.0)
    restored = runner.restore(files[name].path, model=model, optimizer=optimizer)
    assert any(line.startswith(f"optimizer {kind.__name__}: the state of 5 parameters") for line in restored.loaded)
    assert optimizer.param_groups[0]["lr"] != 1.0


@pytest.mark.parametrize("name", ["save_load", "container's inference"])
def test_a_file_without_an_optimizer_says_so_when_one_is_restored(files: Mapping[str, File], name: str) -> None:
    model = files[name].model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    everything: dict[str, Any] = {"optimizer": optimizer, "scheduler": StepLR(optimizer, 1), "generators": True}
    before = model.first.weight.clone()
    with pytest.raises(CheckpointError) as raised:
        runner.restore(files[name].path, model=model, **everything)
    lines = [f"{part}: the checkpoint has none" for part in everything]
    assert str(raised.value).splitlines()[:-1] == [f"{files[name].path}: {line}" for line in lines]
    assert torch.equal(model.first.weight, before)
    restored = runner.restore(files[name].path, model=model, strict=False, **everything)
    assert restored.left_out == tuple(lines)
    assert torch.equal(model.first.weight, files[name].weights["first.weight"])


def test_who_reads_what_another_keeps_saving_reads_one_or_the_other(home: Path, tmp_path: Path) -> None:
    from acrossnets import Net

    path, container, ended = tmp_path / "net.zip", ModelContainer(), threading.Event()
    net = Net(3)

    def save(value: float) -> None:
        nn.init.constant_(net.first.weight, value)
        net.save(path)

    def keep_saving() -> None:
        while not ended.is_set():
            save(1.0)
            save(2.0)

    save(0.0)

    thread = threading.Thread(target=keep_saving)
    thread.start()
    try:
        for _ in range(5):
            for read in (runner.load, Net.load, lambda path: container.load(path)[1].model):
                weight = read(path).first.weight
                assert torch.equal(weight, weight[0, 0].expand_as(weight))
    finally:
        ended.set()
        thread.join()
