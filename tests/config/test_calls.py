"""The call that makes an object, stored and made again; and what somebody may write in its place to do harm."""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from runner.config.calls import build_call, build_value, call_of, not_trusted
from runner.config.decoding import missing
from runner.errors import CheckpointError, ConfigError, DamagedError, FormatError, RunnerError, TrustError

HERE = Path("/somewhere/net.pt")
MARK = "EXECUTED"
"""The name of the file that appears in the current directory when something hostile is executed."""
TOUCH = f"open({MARK!r}, 'w').close()"


class Net(nn.Module):
    def __init__(self, width: int, *, activation: Any = torch.relu, sizes: tuple[int, ...] = (8, 8)) -> None:
        super().__init__()
        self.width, self.activation, self.sizes = width, activation, sizes
        self.head = nn.Linear(width, 1)


class Many(nn.Module):
    def __init__(self, first: Any, /, second: Any, *rest: Any, option: Any = None, **more: Any) -> None:
        super().__init__()
        self.given = (first, second, rest, option, more)


class Hiding(nn.Module):
    def __init__(self, _inner: Any, password: Any = None, schedule: Any = lambda step: 1.0) -> None:
        super().__init__()
        self.given = (_inner, password, schedule)


class Refusing(nn.Module):
    def __init__(self, width: int, of: type[BaseException] = ValueError) -> None:
        super().__init__()
        raise of(f"width {width} is no good")


@pytest.fixture
def again() -> Callable[..., Any]:
    """`again(cls, *args, **kwargs)`: what is built of the call, through JSON, by somebody who trusts this module."""

    def again(made: Any, *args: Any, **kwargs: Any) -> Any:
        node = json.loads(json.dumps(call_of(made, args, kwargs), allow_nan=False))
        return build_call(node, where=HERE, trust=[__name__])

    return again


def here(name: str) -> str:
    return f"{__name__}.{name}"


def test_a_call_is_stored_with_its_defaults() -> None:
    assert call_of(Net, (3,), {}) == {
        "_target_": here("Net"),
        "width": 3,
        "activation": {"$": "name", "value": "torch.relu"},
        "sizes": {"$": "tuple", "items": [8, 8]},
    }


def test_a_call_that_would_fail_is_not_stored() -> None:
    with pytest.raises(TypeError, match=r"missing a required argument: 'width'"):
        call_of(Net, (), {})


def test_a_module_is_made_again(again: Callable[..., Any]) -> None:
    made = again(Net, 3, activation=nn.functional.gelu, sizes=(1, 2))
    assert (made.width, made.activation, made.sizes) == (3, nn.functional.gelu, (1, 2))


def test_every_kind_of_parameter_gets_its_argument(again: Callable[..., Any]) -> None:
    assert again(Many, 1, 2).given == (1, 2, (), None, {})
    assert again(Many, 1, 2, 3, (4,), option=5, more=6).given == (1, 2, (3, (4,)), 5, {"more": 6})


def test_an_argument_may_begin_with_an_underscore(again: Callable[..., Any]) -> None:
    assert again(Hiding, nn.ReLU).given[0] is nn.ReLU


def test_a_default_that_cannot_be_stored_is_there_again(again: Callable[..., Any]) -> None:
    assert "schedule" not in call_of(Hiding, (1,), {})
    assert again(Hiding, 1).given[2](0) == 1.0


@pytest.mark.parametrize("name", ["_target_", "_args_", "$", "option"])
def test_a_name_that_means_something_else_is_asked_for(name: str) -> None:
    if name == "option":
        node = call_of(lambda option, /, **more: None, (1,), {name: 2})
        assert node["option"] == 1
    else:
        node = call_of(Many, (1, 2), {name: 3})
        assert node["_target_"] == here("Many")
    assert node["_kwargs_"] == missing(f"has {name!r} among its names")


def test_what_a_file_cannot_hold_is_asked_for_all_at_once() -> None:
    node = call_of(Net, (3,), {"activation": lambda x: x, "sizes": [Net(1)]})
    with pytest.raises(CheckpointError) as caught:
        build_call(node, where=HERE, trust=[__name__])
    assert str(caught.value).splitlines() == [
        "/somewhere/net.pt: Net(activation=...) is a lambda, which has no name that it can be imported by; pass "
        'it: load(path, arguments={"activation": ...})',
        "/somewhere/net.pt: Net(sizes=...) is a Net, and how it was made is not known; pass it: "
        'load(path, arguments={"sizes": ...})',
    ]
    made = build_call(node, where=HERE, trust=[__name__], arguments={"activation": torch.tanh, "sizes": ()})
    assert (made.width, made.activation, made.sizes) == (3, torch.tanh, ())


def test_one_of_several_that_a_file_cannot_hold_is_asked_for() -> None:
    node = call_of(Many, (1, 2, lambda: 3), {})
    with pytest.raises(CheckpointError, match=r"Many\(_args_=...\) is a lambda.*pass it: load\(path, arg"):
        build_call(node, where=HERE, trust=[__name__])
    for rest in ([3], (3,)):
        assert build_call(node, where=HERE, trust=[__name__], arguments={"_args_": rest}).given[2] == (3,)


@pytest.mark.parametrize("password", ["<redacted>", {"$": "tuple", "items": ["<redacted>"]}, [{"a": "<redacted>"}]])
def test_a_secret_that_was_left_out_is_asked_for(password: Any) -> None:
    node = {"_target_": here("Hiding"), "_inner": 1, "password": password}
    with pytest.raises(CheckpointError) as caught:
        build_call(node, where=HERE, trust=[__name__])
    assert str(caught.value) == (
        "/somewhere/net.pt: Hiding(password=...) was left out when it was saved, because it looks like a secret; "
        'pass it: load(path, arguments={"password": ...})'
    )
    assert build_call(node, where=HERE, trust=[__name__], arguments={"password": "x"}).given[1] == "x"


def test_a_class_of_this_user_that_is_not_trusted_is_refused_with_what_to_type() -> None:
    with pytest.raises(TrustError) as caught:
        build_call({"_target_": "mynets.Net"}, where=HERE)
    assert str(caught.value) == (
        "/somewhere/net.pt: model: _target_ 'mynets.Net' is not trusted; if you know what it does, "
        'add +trust=[mynets] (in Python: trust=["mynets"])'
    )


def test_a_class_that_is_handed_over_is_not_looked_for() -> None:
    node = {"_target_": "gone.Net", "width": 3}
    assert build_call(node, where=HERE, given={"gone.Net": Net}).width == 3
    assert build_call(node, where=HERE, moved={"gone.Net": Net}).width == 3
    assert build_call(node, where=HERE, moved={"gone.Net": here("Net")}).width == 3


def test_a_class_that_is_gone_says_how_to_tell_where_it_is() -> None:
    with pytest.raises(TrustError) as caught:
        build_call({"_target_": "torch.nn.Lineal"}, where=HERE)
    assert "_target_ 'torch.nn.Lineal': 'torch.nn.Lineal' cannot be imported" in str(caught.value)
    node = {"_target_": "torch.nn.Lineal", "in_features": 1, "out_features": 1}
    assert isinstance(build_call(node, where=HERE, moved={"torch.nn.Lineal": "torch.nn.Linear"}), nn.Linear)


@pytest.mark.parametrize(
    ("target", "how"),
    [
        ("__main__.Net", "was defined in a script or notebook (__main__), and this one has no such name"),
        ("nets.make.<locals>.Net", "was made inside a function, so that it cannot be imported"),
    ],
)
def test_a_class_that_cannot_be_imported_says_why_and_takes_another_place(target: str, how: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        build_call({"_target_": target, "width": 1}, where=HERE)
    assert str(caught.value) == (
        f"/somewhere/net.pt: model: {target!r} {how}; move it to a module, and say where it is now: "
        f'load(path, moved={{"{target}": "mymodule.Net"}})'
    )
    assert build_call({"_target_": target, "width": 1}, where=HERE, moved={target: Net}).width == 1


def test_a_class_of_the_running_script_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = type("Net", (Net,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Net", mine, raising=False)
    assert type(build_call({"_target_": "__main__.Net", "width": 1}, where=HERE)) is mine


@pytest.mark.parametrize("of", [ValueError, KeyError, RuntimeError, OSError, RecursionError, AssertionError])
def test_whatever_a_constructor_raises_is_told(of: type[Exception]) -> None:
    node = {"_target_": here("Refusing"), "width": 3}
    for form in (node, {"_target_": here("Net"), "width": {"$": "call", "of": node["_target_"], "arguments": node}}):
        inner = form["width"]
        if isinstance(inner, dict):
            inner["arguments"] = {"width": 3, "of": {"$": "name", "value": here("Kind")}}
        with pytest.raises(CheckpointError) as caught:
            build_call(
                form,
                where=HERE,
                trust=[__name__],
                given={here("Kind"): of},
                arguments={"of": of} if form is node else {},
            )
        shown = f"{of(0)}".replace("0", "width 3 is no good") if of is not KeyError else "'width 3 is no good'"
        assert str(caught.value) == (
            f"/somewhere/net.pt: model: Refusing(width=3, of={of!r:.40}) could not be built: {of.__name__}: {shown}; "
            "give other arguments, or the class as it was then"
        )


def test_arguments_that_do_not_fit_are_told() -> None:
    with pytest.raises(CheckpointError, match=r"Net\(width=3, depth=2\) could not be built: TypeError: .*'depth'"):
        build_call({"_target_": here("Net"), "width": 3}, where=HERE, trust=[__name__], arguments={"depth": 2})


def test_a_value_that_no_file_can_hold_is_asked_for() -> None:
    with pytest.raises(CheckpointError, match=r"^/somewhere/net.pt: loss is a lambda; no file can hold that; pass it$"):
        build_value(missing("is a lambda"), where=HERE, path="loss")


def test_a_name_to_trust_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'os; rm' is not the name of a module"):
        build_call({"_target_": "torch.nn.ReLU"}, where=HERE, trust=["os; rm"])


# ---- what somebody may write ----


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that appears when something hostile is done; there are modules that do it when they are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "canary.py").write_text(f"{TOUCH}\nclass Net: pass\n")
    yield tmp_path / MARK
    sys.modules.pop("canary", None)


def name(value: Any) -> dict[str, Any]:
    return {"$": "name", "value": value}


def call(of: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"$": "call", "of": of, "arguments": {**({"_args_": list(args)} if args else {}), **kwargs}}


SHELL = call("os.system", f"touch {MARK}")
LOADED = call("importlib.machinery.ModuleSpec", "canary", None, origin="canary.so")

RANGE = {"$": "range", "items": [0, 2, 1]}
HOSTILE: dict[str, Any] = {
    "a shell": SHELL,
    "a shell by its real name": call("posix.system", f"touch {MARK}"),
    "a shell in a list": [[SHELL]],
    "a shell in a tuple": {"$": "tuple", "items": [SHELL]},
    "a shell as a key": {"$": "dict", "items": [[SHELL, 1]]},
    "a shell in a call that may be made": call("torch.nn.Linear", 1, 1, bias=SHELL),
    "a shell in a config": {"$": "omegaconf", "value": {"a": SHELL}},
    "a shell to be called later": {"$": "partial", "of": "os.system", "arguments": {"_args_": [f"touch {MARK}"]}},
    "a shell in what is called later": {"$": "partial", "of": "torch.nn.Linear", "arguments": {"_args_": [SHELL]}},
    "a shell by its name": name("os.system"),
    "a member of what is no enum": {"$": "member", "of": "os.environ", "value": "HOME"},
    "a member of a class": {"$": "member", "of": "torch.nn.Linear", "value": "forward"},
    "a shell beside what is needed": {"$": "tuple", "items": [], "more": SHELL},
    "a shell in a form that is not known": {"$": "new", "of": SHELL},
    "a shell in what is missing": {"$": "missing", "why": SHELL},
    "exec": call("builtins.exec", TOUCH),
    "an import": call("importlib.import_module", "canary"),
    "a class of a module that acts when it is imported": call("canary.Net"),
    "the name of such a class": name("canary.Net"),
    "a shell through a module of torch": call("torch.nn.functional.importlib.import_module", "canary"),
    "a loader through the module of harmless functions": call("math.__loader__.create_module", LOADED),
    "the class of a module": call("math.__class__", "canary"),
    "a name through a module that may be named": call("torch.os.system", f"touch {MARK}"),
    "a name with underscores": call("torch.nn.Linear.__init__.__globals__.get", "os"),
    "a pickle": call("torch.load", "canary.pt", weights_only=False),
    "a run of this program": call("runner.run", ["a=b"]),
    "a full-width name": name("\uff4fs.system"),
    "an interpolation for a name": name("${oc.env:HOME}"),
    "an interpolation that calls": {"$": "omegaconf", "value": {"a": "${oc.create:{_target_: os.system}}"}},
    "yaml": {"$": "omegaconf", "value": "!!python/object/apply:os.system ['touch EXECUTED']"},
    "a name that is no text": name(["os.system"]),
    "a name that is missing": {"$": "call", "arguments": {}},
    "a form without a name": {"$": None},
    "a form that is a list": {"$": ["call"], "of": "os.system"},
    "a form that is not known": {"$": "pickle", "data": "gASVJ..."},
    "a call without arguments": {"$": "call", "of": "torch.nn.ReLU"},
    "a call with a list of arguments": {"$": "call", "of": "torch.nn.ReLU", "arguments": [1]},
    "a call with a tuple of arguments": {**call("torch.nn.ReLU"), "arguments": {"$": "tuple", "items": []}},
    "a call with a number of arguments": {**call("torch.nn.ReLU"), "arguments": {"_args_": 3}},
    "a call with a shell for its arguments": {**call("torch.nn.ReLU"), "arguments": SHELL},
    "a call of a range of arguments": {**call(here("Many")), "arguments": {"_args_": RANGE}},
    "a partial of a range of arguments": {"$": "partial", "of": here("Many"), "arguments": {"_args_": RANGE}},
    "a partial without arguments": {"$": "partial", "of": "torch.nn.ReLU", "arguments": {}},
    "a call inside, with an argument that is missing": call("torch.nn.ReLU", {"$": "missing", "why": "is a lambda"}),
    "a tuple of everything": {"$": "tuple", "items": {"$": "range", "items": [0, 10**12]}},
    "a tuple of a text": {"$": "tuple", "items": "abc"},
    "a mapping of texts": {"$": "dict", "items": ["abc"]},
    "a mapping with a key that cannot be one": {"$": "dict", "items": [[[1], 1]]},
    "a range of texts": {"$": "range", "items": ["a"]},
    "a path of a number": {"$": "path", "value": 3},
    "a type that is not known": {"$": "type", "name": "memoryview"},
    "a namespace of a list": {"$": "namespace", "value": [1]},
    "a namespace with numbers for names": {"$": "namespace", "value": {"$": "dict", "items": [[1, 1]]}},
    "a dtype that is none": {"$": "tensor", "dtype": "Tensor", "shape": [1], "base64": "AAAA"},
    "a dtype that would be imported": {"$": "tensor", "dtype": "_dynamo", "shape": [1], "base64": "AAAA"},
    "a huge tensor": {"$": "tensor", "dtype": "float32", "shape": [2**62], "base64": "AAAA"},
    "a tensor that is too huge": {"$": "tensor", "dtype": "float32", "shape": [2**62, 2**62], "base64": "AAAA"},
    "a tensor of less than nothing": {"$": "tensor", "dtype": "float32", "shape": [-1], "base64": "AAAA"},
    "a tensor of a text": {"$": "tensor", "dtype": "float32", "shape": "a", "base64": "AAAA"},
    "a tensor of no base64": {"$": "tensor", "dtype": "float32", "shape": [1], "base64": "\u00e4"},
    "whole numbers with a gradient": {
        **{"$": "tensor", "dtype": "int8", "shape": [1], "base64": "AA=="},
        "requires_grad": True,
    },
    "an array that numpy does not have": {"$": "array", "dtype": "bfloat16", "shape": [1], "base64": "AAA="},
    "a device that is none": {"$": "device", "name": "moon"},
    "a size of texts": {"$": "size", "lengths": ["a"]},
}


@pytest.mark.parametrize("form", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_argument_is_refused_and_nothing_is_run(form: Any, canary: Path) -> None:
    named, rest = {"_target_": here("Many"), "first": 1}, {"_target_": here("Many")}
    for node in ({**named, "second": form}, {**rest, "_args_": [form]}, {**named, "": form}, {**named, "$": form}):
        with pytest.raises(RunnerError) as caught:
            build_call(node, where=HERE, trust=[__name__])
        assert str(caught.value).startswith("/somewhere/net.pt: ")
    if isinstance(form, dict):
        for value in (form, [form]):
            with pytest.raises(RunnerError):
                build_value(value, where=HERE, path="optimizer")
    assert not canary.exists()
    assert "canary" not in sys.modules


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "canary.Net", "torch.nn.functional.relu", "torch.optim.SGD", "torch.nn.init.torch.hub.load"),
        *("builtins.eval", "math.sqrt", "math.__loader__.load_module", "runner.run", "", "os", ".", None, 3, ["os"]),
        *({"$": "name", "value": "os.system"}, "${a}", "a" * 400 + ".b", "torch.nn", "torch.nn.Linear.forward"),
    ],
    ids=repr,
)
def test_a_hostile_class_is_refused_and_nothing_is_run(target: Any, canary: Path) -> None:
    with pytest.raises(RunnerError) as caught:
        model = build_call({"_target_": target, "_args_": [f"touch {MARK}"]}, where=HERE)
        # What only computes may be named, and is no model.
        assert target == "math.sqrt", model
    assert str(caught.value).startswith("/somewhere/net.pt: model")
    assert not canary.exists()
    assert "canary" not in sys.modules


@pytest.mark.parametrize("function", [len, abs, min, max, sum, round])
def test_a_harmless_function_of_python_s_own_needs_no_trust(function: Any, again: Callable[..., Any]) -> None:
    assert again(Net, 1, activation=function).activation is function
    later = again(Net, 1, activation=functools.partial(function, 1))
    assert later.activation.func is function


def test_what_a_file_may_name_it_cannot_have_called() -> None:
    """It might not come back: the sum of a range of a few digits."""
    for form in (call("builtins.sum", {"$": "range", "items": [0, 10**15, 1]}), call("builtins.abs", -1)):
        with pytest.raises(
            TrustError, match=r"_target_ 'builtins\.(sum|abs)' is not trusted; if you know what it does, add"
        ):
            build_call({"_target_": here("Many"), "_args_": [1, form]}, where=HERE, trust=[__name__])


def test_another_function_of_python_s_own_can_be_trusted_alone() -> None:
    node = call_of(Net, (1,), {"activation": sorted})
    with pytest.raises(TrustError, match=r'in Python: trust=\["builtins\.sorted"\]'):
        build_call(node, where=HERE, trust=[__name__])
    assert not_trusted(node).keys() >= {"builtins.sorted"}
    made = build_call(node, where=HERE, trust=[__name__, "builtins.sorted"])
    assert made.activation is sorted


def test_such_arguments_are_carried_out_where_they_are_trusted(canary: Path) -> None:
    """Or the tests above would prove nothing."""
    made = build_call({"_target_": here("Many"), "_args_": [1, SHELL]}, where=HERE, trust=[__name__, "os", "posix"])
    assert made.given == (1, 0, (), None, {})
    assert canary.exists()


def nested(depth: int) -> Any:
    form: Any = []
    for _ in range(depth):
        form = [form]
    return form


@pytest.mark.parametrize("depth", [300, 20_000])
def test_what_is_nested_too_deep_is_refused(depth: int) -> None:
    form = nested(depth)
    with pytest.raises(DamagedError, match=r"is nothing that this program writes .*nested deeper than 200 levels"):
        build_call({"_target_": here("Many"), "first": form}, where=HERE, trust=[__name__])
    while form:
        # Freed from the outside, so that it is not freed in depth.
        form = form.pop()


def test_what_is_larger_than_it_looks_is_refused() -> None:
    form: Any = []
    for _ in range(60):
        form = [form, form]
    with pytest.raises(DamagedError, match=r"more than 2000000 values"):
        build_call({"_target_": here("Many"), "first": form}, where=HERE, trust=[__name__])


def test_what_contains_itself_is_refused() -> None:
    form: dict[str, Any] = {}
    form["again"] = form
    with pytest.raises(DamagedError, match=r"nested deeper"):
        build_call({"_target_": here("Many"), "first": form}, where=HERE, trust=[__name__])


def test_a_target_that_is_no_name_is_refused() -> None:
    with pytest.raises(FormatError, match=r"^/somewhere/net.pt: model has 3 for a name; wanted MODULE.NAME$"):
        build_call({"_target_": 3}, where=HERE)


def test_a_module_that_fails_when_it_is_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failingnets.py").write_text("raise RuntimeError('not today')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TrustError, match=r"'failingnets' cannot be imported .RuntimeError: not today"):
        build_call({"_target_": "failingnets.Net"}, where=HERE, trust=["failingnets"])
