"""The decorator `save_load`: the document's examples as written, the bugs of its original, and what is our own."""

import contextlib
import copy
import dataclasses
import importlib
import inspect
import io
import json
import math
import os
import pickle
import runpy
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Module

import runner
from runner import save_load
from runner.checkpoint.single import save_file
from runner.config.decoding import Missing
from runner.config.encoding import CALL
from runner.errors import CheckpointError, ConfigError, DamagedError, SaveError, TrustError

# The examples of the document; only the line that imports the decorator is another one.
BASIC = """
import torch
from torch.nn import Module

from runner import save_load


@save_load()
class MyModel(Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(10, 5)


# Create an instance of MyModel
my_model = MyModel()

# Save the model checkpoint
my_model.save("my_model.pth")

# Load the model checkpoint
loadedim = MyModel.load("my_model.pth")
"""
CUSTOM = """
import torch
from torch.nn import Module

from runner import save_load


@save_load(
    save_method_name="custom_save",
    load_method_name="custom_load",
    pre_save_hook=my_pre_save_hook,
    post_load_hook=my_post_load_hook,
)
class CustomModel(Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(10, 5)


# Create an instance of CustomModel
custom_model = CustomModel()

# Custom save and load
custom_model.custom_save("custom_model.pth")
loaded_custom_model = CustomModel.custom_load("custom_model.pth")
"""
PARTIAL = """
import torch
from torch.nn import Module

from runner import save_load


@save_load(partial_load=True)
class PartialModel(Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(10, 5)


# Create an instance of PartialModel
partial_model = PartialModel()

# Save the model checkpoint
partial_model.save("partial_model.pth")

# Load only the updated part of the model checkpoint
loaded_partial_model = PartialModel.load("partial_model.pth")
"""
VERSIONED = """
import torch
from torch.nn import Module

from runner import save_load


@save_load(version="1.0")
class VersionedModel(Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(10, 5)


# Create an instance of VersionedModel
versionedim = VersionedModel()

# Save the model checkpoint
versionedim.save("versionedim.pth")

# Load the model checkpoint with version compatibility check
loaded_versionedim = VersionedModel.load("versionedim.pth")
"""
PARAMETERS = {
    "save_method_name": "save",
    "load_method_name": "load",
    "config_instance_var_name": "_config",
    "init_and_load_classmethod_name": "init_and_load",
    "version": None,
    "pre_save_hook": None,
    "post_load_hook": None,
    "compress": False,
    "partial_load": False,
}


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@save_load()
class Net(Module):
    """A network."""

    def __init__(self, width: int = 3, *, depth: int = 2, activation: Any = torch.tanh, sizes: Any = ()) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.activation(layer(x))
        return x


@save_load(version="1.0")
class Other(Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)


class Sub(Net):
    """A subclass with a constructor of its own."""

    def __init__(self, factor: int, name: str = "sub") -> None:
        super().__init__(2 * factor, depth=1)
        self.name = name


class Flagged:
    def __init__(self, *args: Any, flag: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.flag = flag


class Mixed(Flagged, Net):
    pass


@dataclasses.dataclass(eq=False)
class Data(Net):
    width: int = 4
    names: tuple[str, ...] = ("a",)

    def __post_init__(self) -> None:
        super().__init__(self.width)


class Silent(Net):
    """Its `__new__` hands nothing up."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, z: int, k: int = 3) -> None:
        super().__init__(z)
        self.k = k


@save_load()
class Counted(Module):
    """It has a `__new__` of its own, and arguments of every kind."""

    made = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        Counted.made += 1
        return super().__new__(cls)

    def __init__(self, first: int, /, second: int, *rest: int, third: int = 3, **more: Any) -> None:
        super().__init__()
        self.given = (first, second, rest, third, more)


@save_load()
class Whole(Module):
    """A coder and a decoder that are given to it."""

    def __init__(self, coder: Module, head: Module | None = None) -> None:
        super().__init__()
        self.coder, self.head = coder, head or nn.Identity()


@save_load()
class Taps(Module):
    """Tied weights, and buffers that are kept and that are not."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(size, size, bias=False), nn.Linear(size, size, bias=False)
        self.out.weight = self.into.weight
        self.norm = nn.BatchNorm1d(size)
        self.register_buffer("seen", torch.zeros(size))
        self.register_buffer("scratch", torch.zeros(size), persistent=False)


def same(one: Module, other: Module) -> bool:
    here, there = one.state_dict(), other.state_dict()
    return here.keys() == there.keys() and all(
        torch.equal(here[name], there[name]) and here[name].dtype == there[name].dtype for name in here
    )


def pickled(net: Any) -> Any:
    """What comes out of a pickle of ours."""
    return pickle.loads(pickle.dumps(net))  # noqa: S301


def example(text: str, **names: Any) -> dict[str, Any]:
    """The names of a script after it has run in the current directory."""
    Path("example.py").write_text(text, encoding="utf-8")
    return runpy.run_path("example.py", names, run_name="__main__")


# The document


def test_the_basic_example_runs() -> None:
    done = example(BASIC)
    assert type(done["loadedim"]) is done["MyModel"]
    assert same(done["loadedim"], done["my_model"])


def test_the_example_with_names_and_hooks_of_ones_own_runs() -> None:
    seen: dict[str, list[Any]] = {"saving": [], "loaded": []}
    done = example(CUSTOM, my_pre_save_hook=seen["saving"].append, my_post_load_hook=seen["loaded"].append)
    assert same(done["loaded_custom_model"], done["custom_model"])
    assert seen["saving"] == [done["custom_model"]]
    assert seen["loaded"] == [done["loaded_custom_model"]]
    assert not hasattr(done["CustomModel"], "save")


@pytest.mark.parametrize(
    ("text", "names"),
    [(PARTIAL, ("partial_model", "loaded_partial_model")), (VERSIONED, ("versionedim", "loaded_versionedim"))],
)
def test_the_examples_of_partial_loading_and_versions_run(text: str, names: tuple[str, str]) -> None:
    done = example(text)
    assert same(done[names[0]], done[names[1]])


def test_the_parameters_are_the_documented_ones() -> None:
    parameters = inspect.signature(save_load).parameters
    assert {name: one.default for name, one in parameters.items()} == PARAMETERS


@pytest.mark.parametrize(
    ("method", "wanted"),
    [("save", "path, overwrite=True"), ("load", "path, strict=True"), ("init_and_load", "path, strict=True")],
)
def test_the_methods_take_what_they_are_documented_to(method: str, wanted: str) -> None:
    given = [
        one.replace(annotation=one.empty)
        for one in inspect.signature(getattr(Net(), method)).parameters.values()
        if one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    assert ", ".join(map(str, given)) == wanted
    assert getattr(Net, method).__doc__
    assert getattr(Net, method).__qualname__ == f"Net.{method}"


def test_it_can_be_written_without_parentheses() -> None:
    @save_load
    class Bare(Module):
        def __init__(self, n: int) -> None:
            super().__init__()

    assert Bare(3)._config == {"n": 3}
    Bare(3).save("bare.pth")
    assert isinstance(Bare.load("bare.pth"), Bare)


def test_load_builds_from_a_class_and_fills_an_object() -> None:
    net = Net(4, depth=1)
    net.save("net.pth")
    built = Net.load("net.pth")
    assert built._config["width"] == 4
    assert same(built, net)
    other = Net(4, depth=1).eval()
    before = other.layers[0].weight
    assert other.load("net.pth") is other
    assert same(other, net)
    assert other.layers[0].weight is before
    assert not other.training


def test_a_model_that_is_built_is_in_the_mode_of_a_new_one_and_draws_nothing() -> None:
    Net().eval().save("net.pth")
    state = torch.get_rng_state()
    assert Net.load("net.pth").training
    assert torch.equal(torch.get_rng_state(), state)


def test_init_and_load_builds_and_calls_the_hook_once() -> None:
    seen: list[Any] = []

    @save_load(init_and_load_classmethod_name="revive", post_load_hook=seen.append)
    class Hooked(Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.fc = nn.Linear(n, n)

    net = Hooked(3)
    net.save("net.pth")
    revived = Hooked.revive("net.pth")
    assert same(revived, net)
    assert seen == [revived]
    net.load("net.pth")
    assert seen == [revived, net]


def test_a_file_that_is_not_there_is_named() -> None:
    for load in (Net.load, Net().load, Net.init_and_load):
        with pytest.raises(FileNotFoundError, match=r"nowhere/net\.pth"):
            load("nowhere/net.pth")


def test_without_overwrite_a_file_that_is_there_stays_and_no_hook_is_called() -> None:
    called: list[Any] = []

    @save_load(pre_save_hook=called.append)
    class Hooked(Module):
        pass

    Path("net.pth").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"net\.pth: stands there already, and overwrite is False"):
        Hooked().save("net.pth", overwrite=False)
    assert Path("net.pth").read_bytes() == b"precious"
    assert not called
    Hooked().save("net.pth")
    assert len(called) == 1


def test_folders_are_made() -> None:
    Net().save("a/b/net.pth")
    Net().save(Path("c") / "net.zip", overwrite=False)
    assert Net.load("a/b/net.pth")._config == Net.load(Path("c") / "net.zip")._config


def test_the_hook_before_saving_runs_before_the_state_is_read() -> None:
    @save_load(pre_save_hook=lambda net: net.fc.weight.data.fill_(7))
    class Filled(Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 1)

    Filled().save("net.pth")
    assert Filled.load("net.pth").fc.weight.item() == 7


# The original's bugs


def test_opening_a_file_runs_nothing_of_it() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, ("touch EXECUTED",)

    torch.save({"_config": Bomb(), "state": Net().state_dict()}, "bomb.pth")
    Path("raw.pth").write_bytes(pickle.dumps(Bomb()))
    for file in ("bomb.pth", "raw.pth"):
        for load in (Net.load, Net().load):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.suppress(CheckpointError):
                    load(file)
    assert not Path("EXECUTED").exists()


HOSTILE: dict[str, Any] = {
    "a shell in place of the class": {"_target_": "os.system", "command": "touch EXECUTED"},
    "a shell in an argument": {
        "activation": {"$": "call", "of": "os.system", "arguments": {"command": "touch EXECUTED"}}
    },
    "a shell in a list": {
        "sizes": [{"$": "partial", "of": "os.system", "arguments": {"_args_": ["touch EXECUTED"]}}],
    },
    "exec by its name": {"activation": {"$": "name", "value": "builtins.exec"}},
    "a class of another kind": {"_target_": "torch.optim.SGD"},
    "a function": {"_target_": "torch.nn.functional.relu"},
    "no name": {"_target_": ["os.system"]},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_names_something_else_is_refused_before_anything_is_imported_or_called(change: Any) -> None:
    forged(Net(), "net.zip", change)
    with pytest.raises((TrustError, CheckpointError)):
        Net.load("net.zip")
    assert not Path("EXECUTED").exists()


def forged(net: Any, file: str, change: dict[str, Any]) -> None:
    """Save a module with something else in the place of what made it."""
    written(net, file, {"door": "save_load", "model": {**vars(net)[CALL], **change}})


def written(net: Module, file: str, config: dict[str, Any]) -> None:
    """Save a module with this config."""
    document = json.dumps({"config": config, "overrides": []}).encode()
    save_file(Path(file), {"model": net.state_dict()}, documents={"config.json": document}, facts={})


def test_an_argument_that_cannot_be_stored_breaks_neither_construction_nor_saving(
    caplog: pytest.LogCaptureFixture,
) -> None:
    double = lambda x: 2 * x  # noqa: E731
    with Path(os.devnull).open() as file:
        net = Net(activation=double, sizes=[1, file])
        for _ in range(2):
            net.save("net.pth")
    # Each argument is named at the first save alone.
    activation, sizes = [record.getMessage() for record in caplog.records]
    assert activation.startswith("net.pth: Net(activation=...) is a lambda")
    assert activation.endswith("no file can hold that; pass it when it is loaded: Net.load(path, activation=...)")
    assert sizes.endswith("Net.load(path, sizes=...)")
    assert net._config["activation"] is double
    with pytest.raises(CheckpointError) as refused:
        Net.load("net.pth")
    message = str(refused.value)
    assert "Net(activation=...) is a lambda" in message
    assert 'load(path, arguments={"activation": ...})' in message
    assert "Net(sizes=...)" in message
    again = Net.load("net.pth", activation=double, sizes=())
    assert again(torch.ones(3)).equal(net(torch.ones(3)))
    assert Net.load("net.pth", arguments={"activation": double, "sizes": ()}).activation is double
    assert same(Net().load("net.pth"), net)


def test_an_argument_that_holds_itself_or_is_very_deep_breaks_neither_construction_nor_saving() -> None:
    itself: list[Any] = [1]
    itself += [itself, {"itself": itself}]
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for sizes in (itself, deep):
        net = Net(sizes=sizes)
        net.save("net.pth")
        with pytest.raises(CheckpointError, match=r"Net\(sizes=\.\.\.\) is nested deeper than 50 levels"):
            Net.load("net.pth")
        assert same(Net.load("net.pth", sizes=()), net)


def test_a_module_without_a_known_making_is_an_argument_that_cannot_be_stored() -> None:
    class Plain(Module):
        pass

    Whole(Plain()).save("whole.pth")
    with pytest.raises(
        CheckpointError,
        match=r"Whole\(coder=\.\.\.\) is the class .*Plain.*load\(path, arguments={\"coder\": \.\.\.}\)",
    ):
        Whole.load("whole.pth")
    assert isinstance(Whole.load("whole.pth", coder=Plain()).coder, Plain)


SUBCLASSES: dict[str, Callable[[], Any]] = {
    "its own constructor": lambda: Sub(2, name="s"),
    "a mixin": lambda: Mixed(5, depth=1, flag=True),
    "a dataclass": lambda: Data(5, ("b", "c")),
    "a __new__ that hands nothing up": lambda: Silent(2, k=9),
}


@pytest.mark.parametrize("make", SUBCLASSES.values(), ids=SUBCLASSES)
def test_a_subclass_is_rebuilt_as_itself_with_its_own_arguments(make: Callable[[], Any]) -> None:
    net = make()
    net.save("net.pth")
    for cls in (type(net), Net):
        again = cls.load("net.pth")
        assert type(again) is type(net)
        assert again._config == net._config
        assert same(again, net)
    assert {name: vars(net).get(name) for name in ("flag", "k", "name")} == {
        name: vars(again).get(name) for name in ("flag", "k", "name")
    }


def test_a_file_of_the_base_class_is_no_file_of_the_subclass() -> None:
    Net().save("net.pth")
    with pytest.raises(CheckpointError, match=r"is of '.*\.Net'; Sub\.load wanted '.*\.Sub' or a subclass"):
        Sub.load("net.pth")


def test_the_class_is_what_it_was() -> None:
    assert str(inspect.signature(Net)).startswith("(width: int = 3, *, depth: int = 2, ")
    assert list(inspect.signature(Sub).parameters) == ["factor", "name"]
    assert list(inspect.signature(Mixed).parameters) == ["args", "flag", "kwargs"]
    assert list(inspect.signature(Data).parameters) == ["width", "names"]
    assert list(inspect.signature(Silent).parameters) == ["z", "k"]
    assert inspect.getfullargspec(Net).kwonlyargs == ["depth", "activation", "sizes"]
    assert (Net.__name__, Net.__qualname__, Net.__module__, Net.__doc__) == ("Net", "Net", __name__, "A network.")
    assert isinstance(Net(), Module)
    assert type(Net) is type
    with pytest.raises(TypeError, match=r"Net\.__init__\(\) got an unexpected keyword argument 'wide'"):
        Net(wide=3)  # type: ignore[call-arg]


def test_a_dataclass_on_top_gives_the_signature() -> None:
    @dataclasses.dataclass(eq=False)
    @save_load()
    class Late(Module):
        width: int = 3

        def __post_init__(self) -> None:
            super().__init__()

    assert list(inspect.signature(Late).parameters) == ["width"]
    assert Late(4)._config == {"width": 4}


def test_another_version_is_a_warning_that_names_both_or_an_error() -> None:
    Other().save("net.pth")
    settings = dataclasses.replace(Other._runner_save_load, version="2.0")  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Other, "_runner_save_load", settings)
        for load in (Other.load, Other().load):
            with pytest.warns(UserWarning, match=r"net\.pth: .*'1\.0' of Other.*'2\.0'") as told:
                load("net.pth")
            assert [Path(one.filename) for one in told] == [Path(__file__)]
            with pytest.raises(
                CheckpointError, match=r"'1\.0' of Other, and this is '2\.0'; use that version, or load"
            ):
                load("net.pth", versions="error")
            load("net.pth", versions="silent")
        with pytest.raises(ConfigError, match="versions is 'no'; wanted one of 'warn', 'error', 'silent'"):
            Other.load("net.pth", versions="no")


def test_the_same_version_or_none_is_silent() -> None:
    Other().save("net.pth")
    Other.load("net.pth", versions="error")
    settings = dataclasses.replace(Other._runner_save_load, version=None)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Other, "_runner_save_load", settings)
        Other.load("net.pth", versions="error")
        Other().save("none.pth")
    Other.load("none.pth", versions="error")


@pytest.mark.parametrize(
    "wrap",
    [lambda net: nn.DataParallel(net), lambda net: torch.compile(net, backend="eager")],
    ids=["parallel", "compiled"],
)
def test_a_wrapped_model_is_saved_and_loaded_under_its_own_names(wrap: Callable[[Any], Any]) -> None:
    net = Net()
    whole = wrap(net)
    Net.save(whole, "whole.pth")
    assert same(Net.load("whole.pth"), net)
    torch.save(whole.state_dict(), "plain.pt")
    assert same(Net().load("plain.pt"), net)
    assert same(Net.load("plain.pt"), net)
    other = wrap(Net())
    (other.module if isinstance(other, nn.DataParallel) else other).load("whole.pth")
    assert [value.tolist() for value in other.state_dict().values()] == [
        value.tolist() for value in whole.state_dict().values()
    ]


def test_a_compiled_part_of_a_model_has_the_names_of_the_part() -> None:
    net = Net()
    net.layers[0] = torch.compile(net.layers[0], backend="eager")
    net.save("net.pth")
    plain = Net.load("net.pth")
    assert list(plain.state_dict()) == [f"layers.{i}.{name}" for i in range(2) for name in ("weight", "bias")]
    again = Net()
    again.layers[0] = torch.compile(again.layers[0], backend="eager")
    again.load("net.pth")
    assert same(again, net)


def test_a_part_that_is_really_called_module_keeps_its_name() -> None:
    @save_load()
    class Holder(Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.weight = nn.Linear(2, 2), nn.Parameter(torch.zeros(2))

    holder = Holder()
    holder.save("net.pth")
    assert same(Holder.load("net.pth"), holder)


# Arguments


def test_the_config_has_the_arguments_with_defaults_as_they_were_given() -> None:
    sizes = [1, {"a": [2]}]
    net = Net(4, sizes=sizes)
    sizes[1]["a"].append(3)  # type: ignore[index]
    assert net._config == {"width": 4, "depth": 2, "activation": torch.tanh, "sizes": [1, {"a": [2]}]}
    net.save("net.pth")
    assert Net.load("net.pth")._config == net._config
    assert Counted(1, 2, 4, 5, other=6)._config == {"first": 1, "second": 2, "rest": (4, 5), "third": 3, "other": 6}


def test_the_config_can_have_another_name() -> None:
    @save_load(config_instance_var_name="hparams")
    class Named(Module):
        def __init__(self, n: int = 1) -> None:
            super().__init__()

    assert Named()._parameters == {}
    assert Named().hparams == {"n": 1}
    assert not hasattr(Named(), "_config")


def test_a_constructor_that_changes_its_arguments_is_called_again_with_what_it_was_given() -> None:
    @save_load()
    class Greedy(Module):
        def __init__(self, sizes: list[int]) -> None:
            super().__init__()
            self.total = sum(sizes.pop() for _ in range(len(sizes)))

    net = Greedy([1, 2, 3])
    net.save("net.pth")
    assert Greedy.load("net.pth").total == 6


ARGUMENTS: dict[str, Any] = {
    "tuple": (1, (2, [3])),
    "int keys": {1: "a", None: "b", (1, 2): "c"},
    "nan": [float("inf"), -0.0],
    "dtype": torch.bfloat16,
    "device": torch.device("cpu"),
    "complex": 1 + 2j,
    "bytes": b"\x00\xff",
    "range": range(3),
    "path": Path("a/b"),
    "class": nn.ReLU,
    "function": nn.functional.gelu,
    "text": "größe ${not.an.interpolation}",
    "large": 2**80,
    "set": {1, 2},
}


@pytest.mark.parametrize("value", ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_come_back_exactly(value: Any) -> None:
    Net(sizes=value).save("net.pth")
    again = Net.load("net.pth")._config["sizes"]
    assert again == value
    assert type(again) is type(value)


def test_nan_and_tensors_come_back() -> None:
    Net(sizes=[math.nan, torch.arange(3.0)]).save("net.pth")
    nan, tensor = Net.load("net.pth")._config["sizes"]
    assert math.isnan(nan)
    assert tensor.equal(torch.arange(3.0))


def test_arguments_by_position_and_name_are_given_in_the_same_way() -> None:
    net = Counted(1, 2, 4, 5, third=6, path="x", strict=None)
    before = Counted.made
    net.save("net.pth")
    assert Counted.load("net.pth").given == (1, 2, (4, 5), 6, {"path": "x", "strict": None})
    assert Counted.made == before + 1


def test_arguments_can_be_replaced_also_those_called_like_ours() -> None:
    Counted(1, 2, path="x").save("net.pth")
    assert Counted.load("net.pth", second=7, arguments={"path": "y"}).given == (1, 7, (), 3, {"path": "y"})


def test_decorated_parts_and_parts_of_torch_are_rebuilt_inside() -> None:
    net = Whole(Net(4), nn.ReLU())
    net.save("net.pth")
    again = Whole.load("net.pth", trust=[__name__])
    assert (type(again.coder), type(again.head)) == (Net, nn.ReLU)
    assert same(again, net)


# Copies and pickles


def test_copies_and_pickles_keep_what_an_object_was_made_with() -> None:
    net = Net(4, depth=1, sizes=[1])
    for again in (copy.copy(net), copy.deepcopy(net), pickled(net)):
        assert again._config == net._config
        assert same(again, net)
        again.save("again.pth")
        assert Net.load("again.pth")._config == net._config
    deep = copy.deepcopy(net)
    deep._config["sizes"].append(2)
    assert net._config["sizes"] == [1]


def test_an_object_of_a_class_that_needs_arguments_is_pickled_and_copied() -> None:
    for again in (pickled(Sub(2)), copy.deepcopy(Sub(2))):
        assert again._config == {"factor": 2, "name": "sub"}


def test_a_lambda_that_is_only_used_to_construct_keeps_nothing_from_being_pickled() -> None:
    net = Unpicklable(lambda: 3)
    assert copy.deepcopy(net)._config == net._config
    again = pickled(net)
    assert isinstance(again._config["width"], Missing)
    torch.save(net, io.BytesIO())


@save_load()
class Unpicklable(Module):
    def __init__(self, width: Callable[[], int], scale: Any = lambda: 1) -> None:
        super().__init__()
        self.fc = nn.Linear(width(), scale())


def test_an_object_from_before_the_decoration_is_saved_and_says_what_is_missing() -> None:
    net = Net(4)
    del vars(net)[CALL]
    net.save("net.pth")
    with pytest.raises(CheckpointError, match=r"Net\(width=\.\.\.\) was not noted"):
        Net.load("net.pth")
    assert same(Net.load("net.pth", width=4, depth=2, activation=None, sizes=()), net)


def test_the_note_is_no_part_of_the_module() -> None:
    net = Whole(Net(), nn.ReLU())
    assert [name for name, _ in net.named_modules()] == [
        "",
        "coder",
        *[f"coder.layers{n}" for n in ("", ".0", ".1")],
        "head",
    ]
    assert all(name.startswith("coder.layers") for name in net.state_dict())


# Classes that are elsewhere now


def test_a_class_that_moved_is_mapped() -> None:
    here = f"{__name__}.Net"
    forged(Net(4), "net.pth", {"_target_": "gone.away.Net"})
    with pytest.raises(CheckpointError) as refused:
        Net.load("net.pth")
    assert "is of 'gone.away.Net'" in str(refused.value)
    assert f'moved={{"gone.away.Net": "{here}"}}' in str(refused.value)
    for new in (here, Net):
        assert Net.load("net.pth", moved={"gone.away.Net": new})._config["width"] == 4


def test_a_class_of_a_script_is_found_by_the_class_that_is_given() -> None:
    example(BASIC)
    again = example(BASIC + "\nkept = MyModel.load('my_model.pth')\n")
    assert type(again["kept"]) is again["MyModel"]
    with pytest.raises(CheckpointError, match=r"moved=\{\"__main__\.MyModel\": \".*\.Net\"\}"):
        Net.load("my_model.pth")


def test_a_class_of_a_function_is_found_by_the_class_that_is_given() -> None:
    def classes() -> tuple[Any, Any]:
        @save_load()
        class Local(Module):
            def __init__(self, n: int = 1) -> None:
                super().__init__()
                self.n = n

        class Inner(Local):
            pass

        return Local, Inner

    local, inner = classes()
    inner(5).save("net.pth")
    assert type(local.load("net.pth")) is inner
    newer, newest = classes()
    assert type(newer.load("net.pth")) is newest
    with pytest.raises(CheckpointError, match="<locals>"):
        Net.load("net.pth")


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """`base()` imports a decorated class anew. Before, an object of a subclass in another module was saved."""
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("base_of_test.py").write_text(
        "from runner import save_load\nfrom torch.nn import Linear, Module\n\n@save_load()\nclass Base(Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = Linear(2, 2)\n"
    )
    Path("sub_of_test.py").write_text("from base_of_test import Base\n\nclass Sub(Base):\n    pass\n")
    importlib.import_module("sub_of_test").Sub().save("net.pth")

    def forgotten() -> None:
        for name in ("base_of_test", "sub_of_test"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()

    def imported() -> Any:
        forgotten()
        return importlib.import_module("base_of_test").Base

    yield imported
    forgotten()


def test_a_subclass_in_a_module_that_is_not_imported_yet_is_found_if_this_user_has_used_it(
    base: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(base().load("net.pth")).__qualname__ == "Sub"
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("somebody else").absolute()))
    cls = base()
    with pytest.raises(
        TrustError, match=r"'sub_of_test\.Sub' is not trusted(.|\n)*Base\.load wanted 'base_of_test\.Base'"
    ):
        cls.load("net.pth")
    assert "sub_of_test" not in sys.modules
    assert type(cls.load("net.pth", trust=["sub_of_test"])).__qualname__ == "Sub"
    # What was trusted for one file is not remembered.
    with pytest.raises(TrustError):
        base().load("net.pth")


def test_where_a_class_is_gone_the_source_in_the_file_is_named(base: Callable[[], Any]) -> None:
    Path("sub_of_test.py").unlink()
    cls = base()
    with pytest.raises(CheckpointError) as refused:
        cls.load("net.pth")
    message = str(refused.value)
    assert "is of 'sub_of_test.Sub'; Base.load wanted" in message
    assert 'moved={"sub_of_test.Sub": "base_of_test.Base"}' in message
    assert message.endswith("the source that it was saved with is in it: runs show net.pth --source")
    assert b"class Sub(Base)" in runner.Checkpoint.open("net.pth").document("source.sub_of_test.py")
    assert same(cls.load("net.pth", moved={"sub_of_test.Sub": "base_of_test.Base"}), cls().load("net.pth"))


def test_a_file_of_another_class_names_both_and_what_opens_it() -> None:
    Other().save("net.pth")
    for load in (Net.load, Net.init_and_load):
        with pytest.raises(CheckpointError) as refused:
            load("net.pth")
        message = str(refused.value)
        assert f"{__name__}.Other" in message
        assert f"{__name__}.Net" in message
        assert "runner.load(path)" in message
    with pytest.raises(CheckpointError, match=r"saved from .*\.Other"):
        Net().load("net.pth")


# Weights that do not fit


def test_partial_loading_loads_what_fits_and_names_the_rest() -> None:
    @save_load(partial_load=True)
    class Part(Module):
        def __init__(self, **sizes: int) -> None:
            super().__init__()
            for name, size in sizes.items():
                setattr(self, name, nn.Linear(2, size, bias=False))

    saved = Part(a=2, b=3, extra=2)
    saved.save("net.pth")
    other = Part(a=2, b=5, new=2)
    before = copy.deepcopy(other)
    with pytest.warns(UserWarning) as told:
        other.load("net.pth")
    assert [str(one.message) for one in told] == [
        "net.pth: 1 of 3 tensors were loaded into Part: missing in the file: new.weight; not in the model: "
        "extra.weight; does not fit: b.weight is float32 [3, 2] there and float32 [5, 2] here"
    ]
    assert [Path(one.filename) for one in told] == [Path(__file__)]
    assert other.a.weight.equal(saved.a.weight)
    assert other.b.weight.equal(before.b.weight)
    assert other.new.weight.equal(before.new.weight)
    with pytest.warns(UserWarning, match="nothing was loaded into Part"):
        Part(z=3).load("net.pth")


def test_strict_is_an_error_that_names_every_tensor_and_changes_nothing() -> None:
    Net(3, depth=2).save("net.pth")
    for other in (Net(3, depth=1), Net(3, depth=3), Net(4, depth=2)):
        before = copy.deepcopy(other)
        with pytest.raises(
            CheckpointError, match=r"net\.pth: cannot be loaded into Net: .*layers\..*Net\.load\(path\)"
        ) as refused:
            other.load("net.pth")
        assert isinstance(refused.value, RuntimeError)
        assert same(other, before)


def test_an_object_that_was_changed_after_it_was_built_is_loaded_into_one_like_it() -> None:
    def changed() -> Net:
        net = Net(depth=1)
        nn.utils.parametrizations.weight_norm(net.layers[0])
        return net

    net = changed()
    net.save("net.pth")
    assert same(changed().load("net.pth"), net)
    with pytest.raises(
        CheckpointError, match=r"missing in the file: layers\.0\.weight.*; prepare an object as that was"
    ):
        Net.load("net.pth")


def test_not_strict_loads_what_is_there_and_still_refuses_another_shape() -> None:
    Net(3, depth=2).save("net.pth")
    one, three = Net(3, depth=1), Net(3, depth=3)
    with pytest.warns(UserWarning, match=r"not in the model: layers\.1\.weight, layers\.1\.bias"):
        one.load("net.pth", strict=False)
    with pytest.warns(UserWarning, match=r"missing in the file: layers\.2\.weight, layers\.2\.bias"):
        three.load("net.pth", strict=False)
    with pytest.warns(UserWarning, match="missing in the file"):
        Net.load("net.pth", strict=False, depth=3)
    assert one.layers[0].weight.equal(three.layers[0].weight)
    with pytest.raises(RuntimeError, match=r"does not fit: layers\.0\.weight is float32 \[3, 3\] there"):
        Net(4, depth=2).load("net.pth", strict=False)


def test_a_model_that_reads_files_of_its_older_versions_still_does() -> None:
    @save_load()
    class Renaming(Module):
        def __init__(self) -> None:
            super().__init__()
            self.new = nn.Linear(2, 2)

        def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
            for name in [name for name in state_dict if name.startswith("old.")]:
                state_dict[name.replace("old.", "new.")] = state_dict.pop(name)
            super()._load_from_state_dict(state_dict, prefix, *rest)

    net = Renaming()
    torch.save({name.replace("new.", "old."): value for name, value in net.state_dict().items()}, "old.pt")
    assert same(Renaming().load("old.pt"), net)
    torch.save({"strange": torch.ones(2), **net.state_dict()}, "strange.pt")
    with pytest.raises(RuntimeError, match="strange"):
        Renaming().load("strange.pt")
    with pytest.warns(UserWarning, match="not in the model: strange"):
        Renaming().load("strange.pt", strict=False)


# Kinds of tensors and modules


def test_tied_weights_stay_tied_and_transient_buffers_are_not_kept() -> None:
    net = Taps()
    net.norm(torch.randn(8, 3))
    net.seen.add_(5)
    net.scratch.add_(5)
    net.save("net.pth")
    again = Taps.load("net.pth")
    assert same(again, net)
    assert again.out.weight is again.into.weight
    assert again.scratch.eq(0).all()
    assert net.load("net.pth").scratch.eq(5).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_that_is_built_has_the_dtypes_that_were_saved(dtype: torch.dtype) -> None:
    net = Taps().to(dtype)
    net.save("net.pth")
    again = Taps.load("net.pth")
    assert same(again, net)
    assert again.out.weight is again.into.weight
    assert Taps().load("net.pth").into.weight.dtype == torch.float32


def test_a_model_that_waits_for_its_shapes_takes_those_of_the_file() -> None:
    @save_load()
    class Lazy(Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.LazyLinear(2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(x)
            return out

    net = Lazy()
    with pytest.raises(SaveError, match=r"net\.pth: not written: fc\.weight has no shape yet; run a batch"):
        net.save("net.pth")
    assert not Path("net.pth").exists()
    y = net(torch.ones(1, 5))
    net.save("net.pth")
    assert Lazy.load("net.pth")(torch.ones(1, 5)).equal(y)


def test_a_model_on_the_meta_device_gets_values() -> None:
    net = Net()
    net.save("net.pth")
    with torch.device("meta"):
        other, built = Net(), Net.load("net.pth")
    with pytest.raises(SaveError, match=r"layers\.0\.weight is on the meta device"):
        other.save("other.pth")
    assert same(other.load("net.pth"), net)
    assert same(built, net)
    assert other.layers[0].weight.requires_grad


def test_what_a_module_keeps_beside_tensors_is_kept() -> None:
    @save_load()
    class Extra(Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.words = nn.Linear(1, 1), ("none",)

        def get_extra_state(self) -> Any:
            return {"words": self.words}

        def set_extra_state(self, state: Any) -> None:
            self.words = state["words"]

    net = Extra()
    net.words = ("a", "b")
    net.save("net.pth")
    assert Extra.load("net.pth").words == ("a", "b")


# Files


def test_a_save_that_fails_leaves_the_file_that_was_there() -> None:
    def refuse(net: Module) -> None:
        if hasattr(net, "bad"):
            raise KeyboardInterrupt

    @save_load(pre_save_hook=refuse)
    class Fragile(Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 1)

    net = Fragile()
    net.save("net.pth")
    before = Path("net.pth").read_bytes()
    net.bad = True
    with pytest.raises(KeyboardInterrupt):
        net.save("net.pth")
    del net.bad
    net.register_buffer("sparse", torch.eye(2).to_sparse())
    with pytest.raises(SaveError, match=r"net\.pth: not written: state\['sparse'\]"):
        net.save("net.pth")
    assert Path("net.pth").read_bytes() == before
    assert [file.name for file in Path().iterdir()] == ["net.pth"]


def test_a_damaged_file_is_noticed() -> None:
    net = Net(32)
    net.save("net.zip")
    data = bytearray(Path("net.zip").read_bytes())
    data[data.index(net.layers[0].weight.detach().numpy().tobytes())] ^= 1
    Path("net.zip").write_bytes(data)
    with pytest.raises(DamagedError):
        Net.load("net.zip")


def test_compressed_files_are_smaller_and_load() -> None:
    def model(compress: bool) -> Any:
        @save_load(compress=compress)
        class Packed(Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(256, 256)

        return Packed

    small, large = model(True), model(False)
    net = small()
    nn.init.ones_(net.fc.weight)
    for file in ("net.pth", "net.zip"):
        net.save(f"small/{file}")
        other = large()
        other.load_state_dict(net.state_dict())
        other.save(f"large/{file}")
        assert Path("small", file).stat().st_size < Path("large", file).stat().st_size / 2
        assert same(small.load(f"small/{file}"), net)
        assert same(large.load(f"small/{file}"), net)
    random = small()
    random.save("random.pth")
    large.save(random, "uncompressed.pth")


def test_compression_without_its_library_is_refused_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match=r"save_load\(compress=True\): .*pip install 'runner\[compress\]'") as refused:
        save_load(compress=True)
    # One traceback tells it.
    assert refused.value.__suppress_context__


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.zip", "net"])
def test_every_reader_opens_the_file(name: str) -> None:
    net = Net(4, depth=1, activation=nn.functional.relu)
    net.save(name)
    assert same(runner.load(name), net)
    checkpoint = runner.Checkpoint.open(name)
    assert checkpoint.verify() == []
    assert checkpoint.config["model"]["width"] == 4
    if name != "net.zip":
        assert torch.load(name, weights_only=True)
    else:
        with zipfile.ZipFile(name) as archive:
            assert json.loads(archive.read("config.json"))["config"]["door"] == "save_load"


def test_what_a_run_has_trained_is_loaded_by_the_class_and_into_an_object() -> None:
    net = Net(4, depth=1)
    written(net, "run.zip", {"model": {"_target_": f"{__name__}.Net", "width": 4, "depth": 1}, "name": "run"})
    assert same(Net.load("run.zip"), net)
    assert Net.load("run.zip", activation=torch.relu)._config["activation"] is torch.relu
    assert same(Net(4, depth=1).load("run.zip"), net)
    with pytest.raises(CheckpointError, match=r"is of '.*\.Net'; Other\.load wanted"):
        Other.load("run.zip")


def test_weights_of_other_programs_are_loaded_into_an_object_and_by_a_class_that_needs_no_arguments() -> None:
    net = Net()
    torch.save(net.state_dict(), "weights.pt")
    torch.save({"epoch": 3, "model_state_dict": net.state_dict(), "loss": 0.5}, "tutorial.pth")
    for file in ("weights.pt", "tutorial.pth"):
        assert same(Net().load(file), net)
        assert same(Net.load(file), net)
        with pytest.raises(CheckpointError, match=r"holds weights, and not how Sub is built .*'factor'.*Sub\.load\("):
            Sub.load(file)
    sub = Sub(2)
    torch.save(sub.state_dict(), "sub.pt")
    assert same(Sub.load("sub.pt", factor=2), sub)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu_is_saved_and_loaded_on_either_device() -> None:
    net = Net().cuda()
    net.save("net.pth")
    assert same(Net.load("net.pth"), net.cpu())
    with torch.device("cuda"):
        on_gpu = Net.load("net.pth")
    assert {value.device.type for value in on_gpu.state_dict().values()} == {"cuda"}
    assert same(on_gpu.cpu(), net)


# Mistakes at decoration


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"save_load: the class .*Plain is no torch\.nn\.Module; decorate a class"):

        @save_load()
        class Plain:
            pass

    with pytest.raises(TypeError, match=r"save_load: <function .*is no torch\.nn\.Module"):
        save_load()(lambda: None)  # type: ignore[type-var]


class Taken(Module):
    def save(self) -> None: ...

    def load(self) -> None: ...

    def init_and_load(self) -> None: ...

    _config = 1


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ("save_method_name", "save"),
        ("load_method_name", "load"),
        ("init_and_load_classmethod_name", "init_and_load"),
        ("config_instance_var_name", "_config"),
        ("save_method_name", "forward"),
        ("config_instance_var_name", "training"),
    ],
)
def test_a_name_that_the_class_has_already_is_refused(parameter: str, name: str) -> None:
    free = {one: f"{one}_x" for one in PARAMETERS if one.endswith("_name")}
    with pytest.raises(ConfigError, match=rf"save_load: Taken has '{name}' already.*; .*save_load\({parameter}="):
        save_load(**{**free, parameter: name})(Taken)  # type: ignore[call-overload]
    assert not hasattr(Taken, "save_method_name_x")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"save_method_name": "a b"}, TypeError, r"save_load\(save_method_name='a b'\): wanted the name of"),
        ({"load_method_name": "class"}, TypeError, r"save_load\(load_method_name='class'\): wanted the name of"),
        ({"save_method_name": "load"}, ConfigError, "two names are the same"),
        ({"version": 1.0}, TypeError, r"save_load\(version=1\.0\): wanted a text, such as '1\.0', or None"),
        ({"pre_save_hook": 3}, TypeError, r"save_load\(pre_save_hook=3\): wanted a function of the module"),
        ({"post_load_hook": "f"}, TypeError, r"save_load\(post_load_hook='f'\): wanted a function of the module"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        save_load(**given)


def test_a_subclass_can_be_decorated_again_with_settings_of_its_own() -> None:
    @save_load(version="3", save_method_name="keep")
    class Again(Sub):
        pass

    again = Again(2)
    again.keep("net.pth")
    assert type(Net.load("net.pth", versions="error")) is Again
    assert Net.load("net.pth")._config == {"factor": 2, "name": "sub"}
    Sub(2).save("sub.pth")
