import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.config.targets import TargetError, TargetNode, locate, problems_of, target_nodes


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_what_can_be_imported_is_found() -> None:
    import torch

    assert locate("torch.nn.Linear") is torch.nn.Linear
    assert locate("torch.nn.Linear.forward") is torch.nn.Linear.forward


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch.nn.Liner", "torch.nn has no 'Liner'; did you mean 'torch.nn.Linear'?"),
        ("torch.nnn.Linear", "torch has no 'nnn'; did you mean 'torch.nn'?"),
        ("tirch.nn.Linear", "no module 'tirch' can be imported; did you mean 'torch'?"),
        ("mynet.Net", "no module 'mynet' can be imported; did you mean 'mynets'?"),
        ("qqqq.Net", "no module 'qqqq' can be imported; put qqqq.py here, or install the package that has it"),
        ("json.tool", "json.tool is a module, which cannot be called"),
        ("Net", "'Net' is no dotted name; wanted MODULE.NAME"),
        ("a..b", "'a..b' is no dotted name; wanted MODULE.NAME"),
    ],
)
def test_why_a_target_cannot_be_had_is_told(modules: Path, name: str, message: str) -> None:
    (modules / "mynets.py").write_text("")
    with pytest.raises(TargetError) as caught:
        locate(name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nope_not_there\n", "broken.py:1: ModuleNotFoundError: No module named 'nope_not_there'"),
        ("x = 1\ny = x.z\n", "broken.py:2: AttributeError: 'int' object has no attribute 'z'"),
        ("def f(:\n", "broken.py:1: SyntaxError: "),
        ("raise ValueError('no data')\n", "broken.py:1: ValueError: no data"),
    ],
)
def test_the_real_error_of_an_import_is_shown_with_its_place(modules: Path, text: str, reason: str) -> None:
    (modules / "broken.py").write_text(text)
    with pytest.raises(TargetError) as caught:
        locate("broken.Net")
    assert str(caught.value).startswith(f"importing broken failed at {modules / reason.partition(': ')[0]}: ")
    assert reason.partition(": ")[2] in str(caught.value)


def test_a_broken_module_inside_a_package_is_named(modules: Path) -> None:
    (modules / "pack").mkdir()
    (modules / "pack" / "__init__.py").write_text("")
    (modules / "pack" / "nets.py").write_text("import nope_not_there\n")
    with pytest.raises(TargetError, match=r"importing pack\.nets failed at .*nets\.py:1: ModuleNotFoundError"):
        locate("pack.nets.Net")


def problems(group: str, path: str | None = None, **node: Any) -> list[str]:
    return problems_of(TargetNode(path or group, group, node))


ADAMW = {"_target_": "torch.optim.AdamW"}
STEP = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 3}


@pytest.mark.parametrize(
    ("group", "node", "expected"),
    [
        ("optimizer", ADAMW | {"lr": 1e-3, "groups": []}, []),
        ("optimizer", ADAMW | {"betas": [0.9, 0.99], "fused": None, "_partial_": True}, []),
        ("optimizer", ADAMW | {"lr": "abc"}, ["optimizer.lr is 'abc'; torch.optim.AdamW wants a number"]),
        ("optimizer", ADAMW | {"fused": 3}, ["optimizer.fused is 3; torch.optim.AdamW wants true or false"]),
        ("optimizer", ADAMW | {"params": []}, ["optimizer.params: the runner fills this in; leave it out"]),
        (
            "optimizer",
            ADAMW | {"weight_decy": 0, "_partial_": True},
            [
                "optimizer.weight_decy: torch.optim.AdamW takes no argument 'weight_decy'; "
                "did you mean 'optimizer.weight_decay'?"
            ],
        ),
        ("scheduler", STEP, []),
        ("scheduler", {"_target_": "runner.training.schedule.Cosine", "warmup": 0.1, "final": 0.0}, []),
        (
            "scheduler",
            {"_target_": "runner.training.schedule.Cosine", "warmup": 0.1, "final": 0.0, "total_steps": 3},
            ["scheduler.total_steps: the runner fills this in; leave it out"],
        ),
        (
            "scheduler",
            {"_target_": "torch.optim.lr_scheduler.StepLR"},
            [
                "scheduler.step_size: torch.optim.lr_scheduler.StepLR needs this argument; "
                "type +scheduler.step_size=VALUE"
            ],
        ),
        ("model", {"_target_": "torch.nn.Linear", "_args_": [3, 4]}, []),
        (
            "model",
            {"_target_": "torch.nn.Linear", "_args_": [3]},
            ["model.out_features: torch.nn.Linear needs this argument; type +model.out_features=VALUE"],
        ),
        ("model", {"_target_": "torch.nn.Linear", "_partial_": True}, []),
        (
            "model",
            {"_target_": "torch.nn.Linear", "in_features": 3.0, "out_features": 4},
            ["model.in_features is 3.0; torch.nn.Linear wants a whole number"],
        ),
        (
            "model",
            {"_target_": "torch.nn.ReLU", "_partal_": True, "inplace": "yes"},
            [
                "model._partal_: no such key; did you mean 'model._partial_'?",
                "model.inplace is 'yes'; torch.nn.ReLU wants true or false",
            ],
        ),
        ("model", {"_target_": 3}, ["model._target_ is 3; wanted the dotted name of a class or function"]),
    ],
)
def test_arguments_are_compared_with_the_signature(group: str, node: dict[str, Any], expected: list[str]) -> None:
    assert problems(group, **node) == expected


def test_the_runners_own_keys_are_its_own_only_at_the_group_itself() -> None:
    assert problems("optimizer", "optimizer.inner", **ADAMW, groups=[], params=[]) == [
        "optimizer.inner.groups: torch.optim.AdamW takes no argument 'groups'; there is amsgrad, betas, capturable, "
        "differentiable, eps, foreach, fused, lr, maximize, params, weight_decay"
    ]


def test_a_target_that_takes_anything_is_never_told_what_to_take(modules: Path) -> None:
    (modules / "anything.py").write_text("def make(size, **options): ...\ndef none(): ...\n")
    assert problems("model", _target_="anything.make", size=1, colour="red") == []
    assert problems("model", _target_="anything.none", x=1) == [
        "model.x: anything.none takes no argument 'x'; it takes none"
    ]


def test_nodes_are_found_in_mappings_and_lists_outer_ones_first() -> None:
    config = {"model": {"_target_": "a.B", "parts": [{"_target_": "c.D"}]}, "name": {"_target_": "not.Built"}}
    assert [node.path for node in target_nodes(config)] == ["model", "model.parts[0]"]
