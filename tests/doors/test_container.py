"""`ModelContainer`: the document's examples as written, the bugs of its original, and what is our own."""

import itertools
import json
import math
import runpy
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

import runner
from runner import ModelContainer
from runner.checkpoint.single import save_file
from runner.config.decoding import Missing
from runner.errors import (
    CheckpointError,
    ConfigError,
    DamagedError,
    FormatError,
    InitializationError,
    MissingError,
    SaveError,
    TrustError,
)

# The examples of the document; only the line that imports the container is another one.
INITIALIZING = """
from runner import ModelContainer
container = ModelContainer()

model_objects = container.initialize(
    Model,
    model_kwargs,
    torch.optim.Adam,
    optim_kwargs
)
"""
SAVING = """
container.save("./", "tutorial")

container.save("./", "tutorial", loss=0.55, epoch=5)
"""
LOADING = """
from runner import ModelContainer
container = ModelContainer()
metadata, objs = container.load(file_path)
"""


class Net(nn.Module):
    """Some of everything that a checkpoint has to hold."""

    def __init__(
        self, sizes: tuple[int, ...] = (4, 3), names: Any = None, activation: Callable[[Tensor], Tensor] = torch.relu
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.norm = nn.BatchNorm1d(sizes[-1])
        self.names, self.activation = names, activation
        self.register_buffer("recent", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.activation(layer(x))
        self.recent = x.detach().flatten()[:2]
        return self.norm(x)


class Refusing(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        raise KeyError(f"no width {width}")


def rise(step: int) -> float:
    """A factor that another process finds by its name."""
    return min(1.0, (step + 1) / 5)


def in_two_parts(optimizer: torch.optim.Optimizer, at: int) -> SequentialLR:
    first, then = LinearLR(optimizer, total_iters=at), CosineAnnealingLR(optimizer, T_max=10)
    return SequentialLR(optimizer, [first, then], milestones=[at])


def split(parameters: Any, lr: float) -> torch.optim.SGD:
    """An optimizer that sorts the parameters into groups of its own."""
    every = list(parameters)
    of = lambda plain: [one for one in every if (one.ndim > 1) is plain]  # noqa: E731
    return torch.optim.SGD([{"params": of(True)}, {"params": of(False), "lr": 10 * lr}], lr=lr, momentum=0.9)


class Rest(LRScheduler):
    """A scheduler that keeps a function among its state."""

    def __init__(self, optimizer: torch.optim.Optimizer, factor: float) -> None:
        self.shape = lambda step: factor / (step + 1)
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        return [base * self.shape(self.last_epoch) for base in self.base_lrs]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def container() -> ModelContainer:
    return ModelContainer(clock=lambda: 1700000000.9)


def trained(objects: Any, steps: int = 3) -> list[float]:
    """Take some steps with the objects of a container; the losses."""
    losses = []
    for step in range(steps):
        x = torch.linspace(-1, 1, 20).reshape(5, 4) * (step + 1)
        loss = (objects.model(x) - 0.3).square().mean()
        objects.optimizer.zero_grad()
        loss.backward()
        objects.optimizer.step()
        if isinstance(objects.scheduler, ReduceLROnPlateau):
            objects.scheduler.step(1.0)
        elif objects.scheduler is not None:
            objects.scheduler.step()
        losses.append(loss.item())
    return losses


def saved(container: ModelContainer, **metadata: Any) -> tuple[Any, str]:
    """A small model and its optimizer after some steps, and the file that they were saved in."""
    objects = container.initialize(Net, {"sizes": (4, 3)}, torch.optim.Adam, {"lr": 0.1})
    trained(objects)
    return objects, container.save("out", "net", **metadata)


def document(path: str) -> Any:
    """metadata.json as a program reads it that knows nothing of this one."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("metadata.json"), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def members(path: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path: str, **config: Any) -> str:
    """The file with another config, sealed with the right sums, as somebody who means harm would have it."""
    checkpoint = runner.Checkpoint.open(path)
    documents = {name: checkpoint.document(name) for name in checkpoint.manifest.files if name == "metadata.json"}
    text = json.dumps({"config": {**checkpoint.config, **config}, "overrides": []}).encode()
    target = Path("rewritten.zip")
    save_file(target, checkpoint.state(), documents={**documents, "config.json": text}, facts={})
    return str(target)


# The document


def test_the_examples_of_the_document_run_as_they_are_written() -> None:
    Path("example.py").write_text(f"{INITIALIZING}\n{SAVING}\n")
    given = {"torch": torch, "Model": Net, "model_kwargs": {"sizes": (4, 2)}, "optim_kwargs": {"lr": 0.01}}
    first = runpy.run_path("example.py", given)
    model, optimizer, scheduler = first["model_objects"]
    assert isinstance(model, Net)
    assert isinstance(optimizer, torch.optim.Adam)
    assert scheduler is None
    written = sorted(path.name for path in Path().glob("tutorial_checkpoint_*.zip"))
    assert len(written) == 2
    Path("example.py").write_text(LOADING)
    loaded = [runpy.run_path("example.py", {"file_path": f"./{name}"}) for name in written]
    for names in loaded:
        weights = names["objs"].model.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        assert names["metadata"]["optim_kwargs"] == {"lr": 0.01}
    assert sorted(names["metadata"].get("loss", 0.0) for names in loaded) == [0.0, 0.55]


def test_a_file_is_called_after_its_prefix_and_the_second(container: ModelContainer) -> None:
    container.initialize(Net, {})
    assert container.save("./", "tutorial") == "./tutorial_checkpoint_1700000000.zip"
    assert container.save(folder="deep/er", prefix=None) == "deep/er/checkpoint_1700000000.zip"
    assert container.save_inference("deep", "net") == "deep/net_inference_1700000000.zip"
    assert container.save_inference(Path("deep"), "") == "deep/inference_1700000000.zip"


def test_the_timestamp_is_now() -> None:
    container, before = ModelContainer(), int(time.time())
    container.initialize(Net, {})
    path = container.save("out")
    assert before <= container.load(path)[0]["timestamp"] <= time.time()


def test_metadata_is_what_the_objects_were_made_with_and_what_was_passed(container: ModelContainer) -> None:
    container.initialize(Net, {"names": ["a"]}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, StepLR, {"step_size": 2})
    metadata, _ = ModelContainer().load(container.save("out", "net", loss=0.55, epoch=5))
    assert metadata == {
        "model_class": f"{Net.__module__}.Net",
        "model_kwargs": {"names": ["a"]},
        "optim_class": "torch.optim.sgd.SGD",
        "optim_kwargs": {"lr": 0.1, "momentum": 0.9},
        "scheduler_class": "torch.optim.lr_scheduler.StepLR",
        "scheduler_kwargs": {"step_size": 2},
        "timestamp": 1700000000,
        "loss": 0.55,
        "epoch": 5,
    }
    assert list(metadata)[-2:] == ["loss", "epoch"]


def test_a_file_for_inference_has_the_model_alone(container: ModelContainer) -> None:
    objects, path = saved(container)
    inference = container.save_inference("out", "net", note="ready")
    assert Path(inference).stat().st_size < Path(path).stat().st_size
    assert document(inference) == {
        "model_class": f"{Net.__module__}.Net",
        "model_kwargs": {"sizes": {"$": "tuple", "items": [4, 3]}},
        "timestamp": 1700000000,
        "note": "ready",
    }
    metadata, (model, optimizer, scheduler) = ModelContainer().load(inference)
    assert (optimizer, scheduler) == (None, None)
    assert metadata["note"] == "ready"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in objects.model.state_dict().items())
    assert torch.equal(model.recent, torch.zeros(2))
    assert not {"optimizer.safetensors", "extra.safetensors"} & members(inference).keys()


# The bugs of the original


@pytest.mark.parametrize(
    ("scheduler_class", "scheduler_kwargs"),
    [
        (StepLR, {"step_size": 2, "gamma": 0.5}),
        (LinearLR, {"start_factor": 0.1, "total_iters": 6}),
        (OneCycleLR, {"max_lr": 0.2, "total_steps": 12}),
        (CosineAnnealingLR, {"T_max": 8}),
        (LambdaLR, {"lr_lambda": rise}),
        (ReduceLROnPlateau, {"patience": 1, "factor": 0.3}),
        (in_two_parts, {"at": 4}),
        (Rest, {"factor": 0.5}),
    ],
)
@pytest.mark.parametrize(
    ("optim_class", "optim_kwargs"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.AdamW, {"lr": 0.1, "betas": (0.8, 0.99)}),
        (split, {"lr": 0.05}),
    ],
)
def test_a_training_goes_on_from_a_file_as_if_it_had_not_been_broken_off(
    container: ModelContainer, optim_class: Any, optim_kwargs: Any, scheduler_class: Any, scheduler_kwargs: Any
) -> None:
    objects = container.initialize(Net, {"sizes": (4, 3)}, optim_class, optim_kwargs, scheduler_class, scheduler_kwargs)
    trained(objects, 5)
    path = container.save("out")
    rates = [dict(group, params=None) for group in objects.optimizer.param_groups]
    _, again = ModelContainer().load(path)
    assert [dict(group, params=None) for group in again.optimizer.param_groups] == rates
    assert again.scheduler.get_last_lr() == objects.scheduler.get_last_lr()
    assert torch.equal(again.model.recent, objects.model.recent)
    assert trained(again, 6) == trained(objects, 6)
    assert again.scheduler.get_last_lr() == objects.scheduler.get_last_lr()


def test_two_saves_in_one_second_are_two_files(container: ModelContainer) -> None:
    objects = container.initialize(Net, {})
    paths = []
    for value in (1.0, 2.0, 3.0):
        with torch.no_grad():
            objects.model.layers[0].weight.fill_(value)
        paths.append(container.save("out", "net"))
    names = ["net_checkpoint_1700000000.zip", "net_checkpoint_1700000000_2.zip", "net_checkpoint_1700000000_3.zip"]
    assert paths == [f"out/{name}" for name in names]
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(names)
    first = [ModelContainer().load(path)[1].model.layers[0].weight[0, 0].item() for path in paths]
    assert first == [1.0, 2.0, 3.0]


def test_tuples_and_numbers_as_keys_come_back_as_they_were(container: ModelContainer) -> None:
    odd = {1: "a", "1": "b", (2, 3): None, None: [(), (1, (2,))]}
    container.initialize(Net, {"sizes": (4, 3, 2), "names": odd}, torch.optim.Adam, {"betas": (0.8, 0.9)})
    given = {"pair": (1, 2), "rows": [(1, 2), [3, 4]], "by_epoch": {1: 0.5, 2: 0.25, False: 0, None: 0.0, 0.5: ()}}
    path = container.save("out", **given)
    document(path)
    metadata, objects = ModelContainer().load(path)
    assert metadata["model_kwargs"] == {"sizes": (4, 3, 2), "names": odd}
    assert repr(objects.model.names) == repr(odd)
    assert metadata["optim_kwargs"] == {"betas": (0.8, 0.9)}
    assert {name: repr(metadata[name]) for name in given} == {name: repr(value) for name, value in given.items()}


def test_what_is_not_finite_is_valid_json_and_comes_back(container: ModelContainer) -> None:
    container.initialize(Net, {"names": [math.inf, math.nan]})
    path = container.save("out", loss=math.nan, best=[-math.inf, -0.0], big=10**30)
    assert document(path)["loss"] == {"$": "float", "value": "nan"}
    metadata, objects = ModelContainer().load(path)
    assert math.isnan(metadata["loss"])
    assert repr(metadata["best"]) == "[-inf, -0.0]"
    assert metadata["big"] == 10**30
    assert repr(objects.model.names) == "[inf, nan]"


def test_nothing_in_a_file_is_a_pickle(container: ModelContainer) -> None:
    _, path = saved(container)
    files = members(path)
    assert set(files) - {"git.diff"} - {name for name in files if name.startswith("source.")} == {
        *("manifest.json", "config.json", "metadata.json", "state.json"),
        *("model.safetensors", "optimizer.safetensors", "extra.safetensors"),
    }
    assert not any(name.endswith((".pkl", ".pickle")) for name in files)


def test_the_folder_is_made(container: ModelContainer) -> None:
    container.initialize(Net, {})
    assert Path(container.save("a/b/c", "net")).is_file()


def test_a_scheduler_is_not_left_out_because_there_is_no_optimizer(container: ModelContainer) -> None:
    with pytest.raises(ValueError, match="scheduler_class without optim_class: a scheduler drives an optimizer; give"):
        container.initialize(Net, {}, scheduler_class=StepLR, scheduler_kwargs={"step_size": 1})


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((int, {}), r"model_class is <class 'int'>; wanted a class of torch\.nn\.modules\.module\.Module"),
        ((rise, {}), "model_class is <function rise .*wanted a class of"),
        ((nn.Linear(1, 1), {}), r"model_class is an object, Linear\(\.\.\.\); wanted a class of .*: give Linear"),
        ((None, {}), "model_class is None; wanted a class"),
        ((Net, {}, Net, {}), "optim_class is <class .*; wanted a class of torch.optim.optimizer.Optimizer"),
        ((Net, {}, "adam", {}), "optim_class is 'adam'; wanted a class of .*, or a function that makes one"),
        ((Net, {}, None, {"lr": 1}), "optim_kwargs without optim_class: there is nothing that they are for; give it"),
        ((Net, [1]), r"model_kwargs is \[1\]; wanted a dict of arguments by name"),
        ((Net, {1: 2}), r"model_kwargs is \{1: 2\}; wanted a dict"),
        (
            (Net, {}, torch.optim.SGD, {"params": [], "lr": 1.0}),
            "optim_kwargs has 'params': the container itself gives the model's parameters; leave it out",
        ),
        (
            (Net, {}, torch.optim.SGD, {}, StepLR, {"optimizer": None, "step_size": 1}),
            "scheduler_kwargs has 'optimizer': the container itself gives the optimizer; leave it out",
        ),
    ],
)
def test_what_cannot_be_initialized_is_refused(container: ModelContainer, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        container.initialize(*arguments)
    assert isinstance(raised.value, ConfigError)


@pytest.mark.parametrize(
    ("arguments", "message", "cause"),
    [
        ((Refusing, {"width": 3}), r"model: Refusing\(width=3\) could not be built: KeyError: 'no width 3'", KeyError),
        (
            (Net, {"size": 3}),
            r"model: Net\(size=3\) could not be .* argument 'size'; give other model_kwargs",
            TypeError,
        ),
        ((Net, {}, torch.optim.SGD, {"lr": -1}), r"optimizer: SGD\(lr=-1\) could not be built: ValueError", ValueError),
        ((Net, {}, torch.optim.SGD, {}, StepLR, {}), r"scheduler: StepLR\(\) .*give other scheduler_kwargs", TypeError),
        ((Net, {}, lambda params: 7), r"optimizer: <lambda> made a int; wanted a torch\.optim\.optimizer\.Opt", None),
        ((Net, {}, lambda: 7), r"optimizer: .*TypeError: takes no argument by position", TypeError),
    ],
)
def test_what_a_constructor_raises_is_the_cause(
    container: ModelContainer, arguments: Any, message: str, cause: type | None
) -> None:
    with pytest.raises(InitializationError, match=message) as raised:
        container.initialize(*arguments)
    assert isinstance(raised.value, RuntimeError)
    assert raised.value.__cause__ is None if cause is None else isinstance(raised.value.__cause__, cause)


def test_what_failed_leaves_the_container_as_it_was(container: ModelContainer) -> None:
    objects, path = saved(container)
    for failing in (lambda: container.initialize(Refusing, {"width": 1}), lambda: container.load("nothing.zip")):
        with pytest.raises(runner.RunnerError):
            failing()
    _, again = ModelContainer().load(container.save("out"))
    assert torch.equal(again.model.layers[0].weight, objects.model.layers[0].weight)
    assert path != container.save("out", "net")


@pytest.mark.parametrize("how", ["save", "save_inference"])
def test_there_is_nothing_to_save_before_something_is_made(container: ModelContainer, how: str) -> None:
    with pytest.raises(
        RuntimeError, match=r"out: nothing to save in this container; call initialize\(\.\.\.\) or load"
    ):
        getattr(container, how)("out")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor(0.5), r"metadata 'loss' is a torch\.Tensor, which JSON does not have; .*; give its \.item\(\)"),
        (np.float32(0.5), r"metadata 'loss' is a numpy\.float32, which JSON does not have"),
        ({1, 2}, "metadata 'loss' is a set, which JSON does not have; wanted numbers, text, lists or dicts$"),
        ([1, {"deep": Path("x")}], r"metadata 'loss\[1\]\.deep' is a pathlib\..*Path, which"),
        ({(1, 2): 3}, "metadata 'loss' has a key of type tuple; wanted text or numbers, as JSON has"),
        (lambda: 1, "metadata 'loss' is a function, which JSON does not have"),
    ],
)
def test_metadata_that_is_no_json_is_named_with_its_type(container: ModelContainer, value: Any, message: str) -> None:
    container.initialize(Net, {})
    for how in (container.save, container.save_inference):
        with pytest.raises(ValueError, match=message):
            how("out", loss=value)
    assert not Path("out").exists()


def test_metadata_that_holds_itself_is_refused(container: ModelContainer) -> None:
    endless: list[Any] = []
    endless.append(endless)
    container.initialize(Net, {})
    with pytest.raises(ConfigError, match=r"is nested deeper than 50 levels; wanted plain values"):
        container.save("out", rows=endless)


def test_kinds_of_numbers_and_containers_become_what_json_has(container: ModelContainer) -> None:
    class Level(IntEnum):
        LOW = 1

    class Word(str, Enum):  # noqa: UP042 - its text is another one than its value
        ONE = "one"

    container.initialize(Net, {})
    given = {"a": Level.LOW, "b": Word.ONE, "c": np.float64(0.5), "d": OrderedDict(x=True), "e": {Word.ONE: Level.LOW}}
    path = container.save("out", **given)
    assert {name: document(path)[name] for name in given} == {
        **{"a": 1, "b": "one", "c": 0.5},
        **{"d": {"x": True}, "e": {"one": 1}},
    }
    metadata, _ = ModelContainer().load(path)
    assert [type(metadata[name]) for name in "abcd"] == [int, str, float, dict]


@pytest.mark.parametrize(
    "name", ["timestamp", "model_class", "model_kwargs", "optim_class", "optim_kwargs", "scheduler_kwargs"]
)
def test_a_name_that_the_container_uses_itself_is_refused(container: ModelContainer, name: str) -> None:
    container.initialize(Net, {})
    with pytest.raises(ValueError, match=f"metadata '{name}': the container itself notes something under this name"):
        container.save("out", **{name: 1})


def test_a_prefix_is_part_of_a_file_s_name(container: ModelContainer) -> None:
    container.initialize(Net, {})
    with pytest.raises(ValueError, match=r"prefix is '\.\./net'; wanted the beginning of a file's name; put folders"):
        container.save("out", "../net")


def test_a_folder_that_is_a_file_is_named(container: ModelContainer) -> None:
    Path("out").write_text("mine")
    container.initialize(Net, {})
    with pytest.raises(SaveError, match="out"):
        container.save("out", "net")
    assert Path("out").read_text() == "mine"


def test_a_file_that_is_not_there_is_named(container: ModelContainer) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.zip: is not there") as raised:
        container.load("gone.zip")
    assert isinstance(raised.value, MissingError)


def test_a_damaged_file_is_named(container: ModelContainer) -> None:
    _, path = saved(container)
    raw = bytearray(Path(path).read_bytes())
    place = raw.find(b"PK\x01\x02") - 10
    raw[place] ^= 1
    Path(path).write_bytes(raw)
    with pytest.raises(DamagedError, match="net_checkpoint_1700000000"):
        ModelContainer().load(path)


def test_an_optimizer_of_other_parameters_is_refused(container: ModelContainer) -> None:
    objects, _ = saved(container)
    objects.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    with pytest.raises(
        ConfigError, match=r"the optimizer trains 1 parameters that are not in the model.*make them part"
    ):
        container.save("out", "more")
    assert not list(Path("out").glob("more*"))


# Our own


def test_a_loaded_container_saves_the_same_bytes_again(container: ModelContainer) -> None:
    container.initialize(
        Net, {"names": (1,)}, torch.optim.AdamW, {"lr": 0.1}, OneCycleLR, {"max_lr": 1, "total_steps": 9}
    )
    path = container.save("out", "first")
    again = ModelContainer()
    _, objects = again.load(path)
    assert objects.model.training
    one, two = members(path), members(again.save("out", "second"))
    same = ["state.json", "config.json", *(name for name in one if name.endswith(".safetensors"))]
    assert {name: one[name] == two[name] for name in same} == dict.fromkeys(same, True)
    assert json.loads(two["metadata.json"])["model_kwargs"] == json.loads(one["metadata.json"])["model_kwargs"]


def test_a_file_is_a_checkpoint_like_any_other(container: ModelContainer) -> None:
    objects, path = saved(container)
    model = runner.load(path)
    assert isinstance(model, Net)
    assert torch.equal(model.layers[0].weight, objects.model.layers[0].weight)
    fresh = Net((4, 3))
    optimizer = torch.optim.Adam(fresh.parameters(), lr=1.0)
    told = str(runner.restore(path, model=fresh, optimizer=optimizer))
    assert "optimizer Adam: the state of 4 parameters, learning rate 0.1" in told
    assert torch.equal(fresh.recent, objects.model.recent)
    assert runner.Checkpoint.open(path).verify() == []
    restored = runner.restore(container.save_inference("out"), model=fresh)
    assert restored.left_out == ("the transient buffers of Net: the checkpoint has none",)


def test_loading_draws_no_random_number_that_shows(container: ModelContainer) -> None:
    _, path = saved(container)
    state = torch.get_rng_state()
    ModelContainer().load(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_later_changes_of_the_arguments_do_not_show(container: ModelContainer) -> None:
    names = ["a"]
    objects = container.initialize(Net, {"names": names})
    names.append("b")
    assert objects.model.names == ["a", "b"]
    assert ModelContainer().load(container.save("out"))[1].model.names == ["a"]


def test_the_dtypes_are_those_that_were_saved(container: ModelContainer) -> None:
    objects = container.initialize(Net, {}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})
    objects.model.double()
    objects.model(torch.ones(3, 4, dtype=torch.float64)).sum().backward()
    objects.optimizer.step()
    _, again = ModelContainer().load(container.save("out"))
    for name, value in objects.model.state_dict().items():
        assert again.model.state_dict()[name].dtype == value.dtype, name
        assert torch.equal(again.model.state_dict()[name], value), name
    kept = [state["momentum_buffer"] for state in again.optimizer.state.values()]
    assert {one.dtype for one in kept} == {torch.float64}


def test_the_groups_of_an_optimizer_are_those_that_were_saved(container: ModelContainer) -> None:
    objects = container.initialize(Net, {"sizes": (4, 3)}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})
    last = objects.optimizer.param_groups[0]["params"].pop()
    objects.optimizer.add_param_group({"params": [last], "lr": 0.5, "weight_decay": 0.01})
    trained(objects)
    _, again = ModelContainer().load(container.save("out"))
    assert [len(group["params"]) for group in again.optimizer.param_groups] == [3, 1]
    assert again.optimizer.param_groups[1]["params"][0] is again.model.norm.bias
    assert [(group["lr"], group["weight_decay"]) for group in again.optimizer.param_groups] == [(0.1, 0), (0.5, 0.01)]
    assert trained(again) == trained(objects)


def test_a_part_that_is_wrapped_is_saved_under_its_own_name(container: ModelContainer) -> None:
    objects = container.initialize(Net, {"sizes": (4, 3)}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})
    objects.model.layers[0] = nn.DataParallel(objects.model.layers[0])
    trained(objects)
    _, again = ModelContainer().load(container.save("out"))
    assert type(again.model.layers[0]) is nn.Linear
    assert trained(again) == trained(objects)


def test_saves_at_the_same_time_are_as_many_files(container: ModelContainer) -> None:
    container.initialize(Net, {})
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda number: container.save("out", "net", number=number), range(12)))
    assert len(set(paths)) == 12
    assert sorted(ModelContainer().load(path)[0]["number"] for path in paths) == list(range(12))
    assert len(list(Path("out").iterdir())) == 12


def test_the_device_is_the_one_that_was_asked_for(container: ModelContainer) -> None:
    _, path = saved(container)
    _, (model, optimizer, _) = ModelContainer().load(path, device="cpu")
    assert model.layers[0].weight.device.type == "cpu"
    assert optimizer is not None
    with pytest.raises(ConfigError, match="device is 'warp'; wanted auto, cpu, cuda"):
        ModelContainer().load(path, device="warp")


# What no file can hold


def test_a_lambda_in_place_of_a_class_is_asked_for_on_loading(container: ModelContainer) -> None:
    halving = lambda optimizer: StepLR(optimizer, 1, gamma=0.5)  # noqa: E731
    objects = container.initialize(Net, {}, torch.optim.SGD, {"lr": 0.1}, halving)
    trained(objects, 2)
    path = container.save("out")
    with pytest.raises(CheckpointError, match=r"scheduler: was made by a lambda.*: load\(path, scheduler_class=...\)$"):
        ModelContainer().load(path)
    _, loaded = ModelContainer().load(path, scheduler_class=halving)
    assert loaded.scheduler.state_dict() == objects.scheduler.state_dict()


def test_a_scheduler_that_does_not_take_the_optimizer_first_is_refused_in_words(container: ModelContainer) -> None:
    with pytest.raises(ConfigError, match="ChainedScheduler takes 'schedulers' first, and not the optimizer"):
        container.initialize(Net, {}, torch.optim.SGD, {"lr": 0.1}, ChainedScheduler, {"schedulers": []})


def test_a_lambda_breaks_no_saving_and_is_asked_for_on_loading(
    container: ModelContainer, caplog: pytest.LogCaptureFixture
) -> None:
    square = lambda x: x * x  # noqa: E731
    objects = container.initialize(
        Net, {"activation": square}, torch.optim.SGD, {"lr": 0.1}, LambdaLR, {"lr_lambda": lambda step: 1 / (step + 1)}
    )
    trained(objects, 2)
    path = container.save("out", "net")
    assert [record.getMessage().rpartition("; ")[2] for record in caplog.records] == [
        'pass it when it is loaded: load(path, model_kwargs={"activation": ...})',
        'pass it when it is loaded: load(path, scheduler_kwargs={"lr_lambda": ...})',
    ]
    assert document(path)["scheduler_kwargs"]["lr_lambda"]["$"] == "missing"
    with pytest.raises(CheckpointError) as raised:
        ModelContainer().load(path)
    why = "was not stored: it is a lambda, which has no name that it can be imported by; pass it: load(path, "
    assert str(raised.value).splitlines() == [
        f"{path}: Net(activation=...) {why}model_kwargs={{'activation': ...}})",
        f"{path}: LambdaLR(lr_lambda=...) {why}scheduler_kwargs={{'lr_lambda': ...}})",
    ]
    again = ModelContainer()
    halved = {"lr_lambda": lambda step: 0.5 / (step + 1)}
    metadata, loaded = again.load(path, model_kwargs={"activation": square}, scheduler_kwargs=halved)
    assert loaded.model.activation is square
    assert metadata["model_kwargs"] == {"activation": square}
    assert loaded.scheduler.last_epoch == 2
    assert loaded.scheduler.get_last_lr() == objects.scheduler.get_last_lr() == [pytest.approx(0.1 / 3)]
    loaded.optimizer.step()
    loaded.scheduler.step()
    assert loaded.scheduler.get_last_lr() == [0.1 * 0.5 / 4]
    assert "missing" in document(again.save("out"))["model_kwargs"]["activation"].values()


def test_a_secret_is_not_written_and_is_asked_for_on_loading(container: ModelContainer) -> None:
    secret = "hf_" + "a" * 30
    container.initialize(Net, {"names": secret})
    path = container.save("out", api_key="k" * 20)
    assert all(secret.encode() not in text and b"k" * 20 not in text for text in members(path).values())
    with pytest.raises(
        CheckpointError, match=r"Net\(names=\.\.\.\) was not stored: .*looks like a secret.*model_kwargs=\{'names'"
    ):
        ModelContainer().load(path)
    assert ModelContainer().load(path, model_kwargs={"names": secret})[1].model.names == secret


def test_an_argument_of_the_model_can_be_another_one(container: ModelContainer) -> None:
    _, path = saved(container)
    metadata, objects = ModelContainer().load(path, model_kwargs={"names": "other"})
    assert objects.model.names == "other"
    assert metadata["model_kwargs"] == {"sizes": (4, 3), "names": "other"}
    with pytest.raises(CheckpointError, match=r"into Net: .*layers\.0\.weight.*the arguments as they were then"):
        ModelContainer().load(path, model_kwargs={"sizes": (4, 2)})


def test_an_argument_of_the_optimizer_is_that_of_its_state(container: ModelContainer) -> None:
    _, path = saved(container)
    with pytest.raises(
        ConfigError, match=r"optim_kwargs 'lr': the file has it.*change the optimizer once it is loaded"
    ):
        ModelContainer().load(path, optim_kwargs={"lr": 1.0})
    with pytest.raises(ConfigError, match="has no scheduler; leave scheduler_class and scheduler_kwargs out"):
        ModelContainer().load(path, scheduler_class=StepLR)


# Trust


SOURCE = "import pathlib\nfrom torch import nn\npathlib.Path('imported').touch()\nclass Far(nn.Linear):\n    pass\n"


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: ModelContainer) -> str:
    """A file of a class of another module, which this user has never handed to a door."""
    home = tmp_path / "elsewhere"
    home.mkdir()
    (home / "farnets.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
    monkeypatch.delitem(sys.modules, "farnets", raising=False)
    import farnets  # type: ignore[import-not-found]

    objects = container.initialize(farnets.Far, {"in_features": 4, "out_features": 3}, torch.optim.SGD, {"lr": 0.1})
    trained(objects)
    path = container.save("out", "far")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    monkeypatch.delitem(sys.modules, "farnets")
    Path("imported").unlink()
    return path


def test_a_class_that_was_handed_over_is_remembered(far: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
    assert type(ModelContainer().load(far)[1].model).__name__ == "Far"


def test_a_class_of_somebody_else_is_refused_and_not_imported(far: str) -> None:
    with pytest.raises(TrustError, match=r"'farnets\.Far' is not trusted.*trust=\[\"farnets\"\]"):
        ModelContainer().load(far)
    assert not Path("imported").exists()
    _, objects = ModelContainer().load(far, trust=["farnets"])
    assert type(objects.model).__module__ == "farnets"
    with pytest.raises(TrustError):
        # What a file names is not this user's own because it was loaded once.
        ModelContainer().load(far)


def test_a_class_that_is_passed_for_that_of_a_run_is_made_and_the_other_not_imported(far: str, tmp_path: Path) -> None:
    node = {"_target_": "farnets.Far", "in_features": 4, "out_features": 3}
    config = {"model": node, "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}}
    text = json.dumps({"config": config, "overrides": []}).encode()
    state = runner.Checkpoint.open(far).state()
    save_file(tmp_path / "run.zip", state, documents={"config.json": text}, facts={})
    with pytest.raises(TrustError, match=r"farnets"):
        ModelContainer().load(tmp_path / "run.zip")
    assert type(ModelContainer().load(tmp_path / "run.zip", nn.Linear)[1].model) is nn.Linear
    assert not Path("imported").exists()


@pytest.mark.parametrize(
    "optimizer",
    [
        {"groups": "x"},
        {"groups": [None]},
        {"groups": [{"params": 3}]},
        {"groups": [{"params": [[]]}]},
        {"state": -1},
        {"state": {"layers.0.weight": True}},
        {"shared": [[]]},
    ],
    ids=repr,
)
def test_a_state_of_nonsense_is_refused_in_words(container: ModelContainer, tmp_path: Path, optimizer: Any) -> None:
    _, path = saved(container)
    checkpoint = runner.Checkpoint.open(path)
    state = checkpoint.state()
    state["optimizer"] |= optimizer
    documents = {"config.json": checkpoint.document("config.json")}
    save_file(tmp_path / "other.zip", state, documents=documents, facts={})
    with pytest.raises(FormatError, match=r"other\.zip: holds no state as a door writes it \("):
        ModelContainer().load(tmp_path / "other.zip")


def test_an_optimizer_that_takes_no_parameters_is_refused(container: ModelContainer, tmp_path: Path) -> None:
    _, path = saved(container)
    checkpoint = runner.Checkpoint.open(path)
    config = {**checkpoint.config, "optimizer": {"_target_": "torch.nn.GaussianNLLLoss"}}
    text = json.dumps({"config": config, "overrides": []}).encode()
    save_file(tmp_path / "other.zip", checkpoint.state(), documents={"config.json": text}, facts={})
    with pytest.raises(
        CheckpointError, match=r"other\.zip: optimizer: torch\.nn\.GaussianNLLLoss takes no argument by position"
    ):
        ModelContainer().load(tmp_path / "other.zip")


def test_a_class_that_is_passed_is_neither_looked_for_nor_imported(far: str) -> None:
    metadata, objects = ModelContainer().load(far, nn.Linear, torch.optim.SGD)
    assert type(objects.model) is nn.Linear
    assert metadata["model_class"] == "torch.nn.modules.linear.Linear"
    assert not Path("imported").exists()


def test_a_class_that_has_moved_is_found_where_it_is_now(far: str) -> None:
    Path("elsewhere/farnets.py").unlink()
    with pytest.raises(TrustError, match=r"farnets(.|\n)*the source that it was saved with is in it: runs show"):
        ModelContainer().load(far, trust=["farnets"])
    _, objects = ModelContainer().load(far, moved={"farnets.Far": "torch.nn.Linear"})
    assert type(objects.model) is nn.Linear
    assert type(ModelContainer().load(far, moved={"farnets.Far": nn.Linear})[1].model) is nn.Linear


@pytest.mark.parametrize("part", ["model", "optimizer", "scheduler"])
@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.system", "command": "touch MARK"},
        {"_target_": "torch.hub.load", "repo_or_dir": "."},
        {"_target_": "builtins.exec"},
        {
            "_target_": "torch.nn.Linear",
            "bias": {"$": "call", "of": "os.system", "arguments": {"command": "touch MARK"}},
        },
        {"_target_": "torch.optim.SGD", "lr": {"$": "name", "value": "os.system"}},
    ],
)
def test_a_file_that_means_harm_is_refused(container: ModelContainer, part: str, node: Mapping[str, Any]) -> None:
    container.initialize(
        nn.Linear, {"in_features": 2, "out_features": 2}, torch.optim.SGD, {}, StepLR, {"step_size": 1}
    )
    path = rewritten(container.save("out"), **{part: node})
    with pytest.raises((TrustError, CheckpointError), match=r"is not trusted|its state does not fit"):
        ModelContainer().load(path)
    assert not Path("MARK").exists()


def test_metadata_that_means_harm_runs_nothing(container: ModelContainer) -> None:
    container.initialize(nn.ReLU, {})
    checkpoint = runner.Checkpoint.open(container.save("out"))
    harm = {"timestamp": 1, "note": {"$": "call", "of": "os.system", "arguments": {"command": "touch MARK"}}}
    documents = {"config.json": checkpoint.document("config.json"), "metadata.json": json.dumps(harm).encode()}
    save_file(Path("harm.zip"), checkpoint.state(), documents=documents, facts={})
    with pytest.raises(DamagedError, match=r"harm\.zip: metadata\.json: .*nothing that this program writes"):
        ModelContainer().load("harm.zip")
    assert not Path("MARK").exists()


def test_a_node_that_is_none_is_refused(container: ModelContainer) -> None:
    container.initialize(nn.ReLU, {})
    path = rewritten(container.save("out"), model=["torch.nn.ReLU"])
    with pytest.raises(CheckpointError, match=r"model is \['torch\.nn\.ReLU'\]; wanted a mapping with a _target_"):
        ModelContainer().load(path)


# Classes that do not go together with the file


def test_a_state_is_not_given_to_an_optimizer_of_another_class(container: ModelContainer) -> None:
    _, path = saved(container)
    with pytest.raises(
        CheckpointError, match=r"the optimizer was a torch\.optim\.adam\.Adam, and this is a torch\.opt"
    ):
        ModelContainer().load(path, optim_class=torch.optim.SGD)


def test_classes_are_checked_on_loading_too(container: ModelContainer) -> None:
    _, path = saved(container)
    with pytest.raises(ValueError, match="model_class is <class 'int'>; wanted a class of"):
        ModelContainer().load(path, int)  # type: ignore[arg-type]


def test_weights_of_another_program_need_a_class(container: ModelContainer) -> None:
    net = Net((4, 2))
    torch.save(net.state_dict(), "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth: holds weights, .*load\(path, Net, model_kwargs="):
        container.load("weights.pth")
    metadata, objects = container.load("weights.pth", Net, model_kwargs={"sizes": (4, 2)})
    assert torch.equal(objects.model.layers[0].weight, net.layers[0].weight)
    assert objects.optimizer is None
    assert metadata["model_kwargs"] == {"sizes": (4, 2)}
    assert isinstance(metadata["timestamp"], int)
    assert container.load(container.save("out"))[1].model.layers[0].weight.shape == (2, 4)


def test_what_is_missing_shows_in_no_metadata(container: ModelContainer) -> None:
    container.initialize(Net, {"activation": lambda x: x})
    metadata, _ = ModelContainer().load(container.save("out"), model_kwargs={"activation": torch.tanh})
    assert not any(isinstance(value, Missing) for value in metadata["model_kwargs"].values())
