"""The gate for configs out of files: what hostile ones try, what friendly ones need, and what is remembered."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runner.errors import ConfigError, TrustError
from runner.trust import NODES, TrustMemory, check_targets

CANARY = """
import os
from pathlib import Path
Path(os.environ["CANARY"]).write_text("imported")
class Net: pass
"""

MYNETS = """
import os
import subprocess
import torch
from collections import OrderedDict
from os import system
from torch.hub import load

class Net(torch.nn.Linear):
    @classmethod
    def small(cls):
        return cls(1, 1)

class NotANet: pass

class Sched:
    def factor(self, step): return 1.0

def make_net(): return Net(1, 1)

net = Net(1, 1)
"""


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that appears when one of the modules `canary*` is imported."""
    home = tmp_path / "canaries"
    (home / "canary_package").mkdir(parents=True)
    for name in ("canary.py", "canary_package/__init__.py", "canary_package/inner.py"):
        (home / name).write_text(CANARY)
    sung = tmp_path / "sung"
    monkeypatch.setenv("CANARY", str(sung))
    monkeypatch.syspath_prepend(str(home))
    before = set(sys.modules)
    yield sung
    for name in set(sys.modules) - before:
        if name.startswith("canary"):
            del sys.modules[name]


@pytest.fixture
def mynets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's own module and package, not yet imported."""
    home = tmp_path / "project"
    (home / "mypkg").mkdir(parents=True)
    (home / "mynets.py").write_text(MYNETS)
    (home / "mypkg" / "__init__.py").write_text("from mypkg.nets import Net\n")
    (home / "mypkg" / "nets.py").write_text(MYNETS)
    (home / "mypkg" / "broken.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(str(home))
    yield home
    for name in [name for name in sys.modules if name.split(".")[0] in ("mynets", "mypkg")]:
        del sys.modules[name]


def check(config: dict[str, Any], *trusted: str, memory: TrustMemory | None = None) -> None:
    check_targets(config, trusted=trusted, memory=memory, where="config.json")


def refusal(config: dict[str, Any], *trusted: str, memory: TrustMemory | None = None) -> str:
    with pytest.raises(TrustError) as refused:
        check(config, *trusted, memory=memory)
    return str(refused.value)


def model(target: Any, **more: Any) -> dict[str, Any]:
    return {"model": {"_target_": target, **more}}


def nested(target: Any, **more: Any) -> dict[str, Any]:
    return {"model": {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": target, **more}]}}


NOT_TRUSTED = "is not trusted; if you know what it does, add +trust=["
PLAIN = "wanted a plain dotted name in ASCII, as in 'torch.nn.Linear'"

# (config, what the refusal says). None of them may import anything that is not there already.
HOSTILE_BY_NAME: list[tuple[dict[str, Any], str]] = [
    (model("os.system", command="x"), "config.json: model: _target_ 'os.system' " + NOT_TRUSTED + "os.system]"),
    (model("canary.Net"), "'canary.Net' " + NOT_TRUSTED + 'canary] (in Python: trust=["canary"])'),
    (model("canary_package.inner.Net"), NOT_TRUSTED + "canary_package]"),
    (nested("canary.Net"), "config.json: model._args_[0]: _target_ 'canary.Net' is not trusted"),
    (model("subprocess.Popen", args=["x"]), NOT_TRUSTED + "subprocess.Popen]"),
    (model("builtins.eval", _args_=["1"]), NOT_TRUSTED + "builtins.eval]"),
    (model("torch.load", f="x"), NOT_TRUSTED + "torch]"),
    (model("torch.hub.load", repo_or_dir="x"), NOT_TRUSTED + "torch.hub]"),
    (model("torch.utils.collect_env.run", command="x"), NOT_TRUSTED + "torch.utils.collect_env]"),
    (model("jinja2.Template"), NOT_TRUSTED + "jinja2]"),
    (model("sympy.sympify"), NOT_TRUSTED + "sympy]"),
    (model("webbrowser.open", url="x"), NOT_TRUSTED + "webbrowser.open]"),
    (model("asyncio.run"), NOT_TRUSTED + "asyncio.run]"),
    (model("multiprocessing.Process"), NOT_TRUSTED + "multiprocessing.Process]"),
    (model("functools.partial"), NOT_TRUSTED + "functools.partial]"),
    (model("hydra.utils.instantiate"), NOT_TRUSTED + "hydra.utils]"),
    (model("omegaconf.OmegaConf.create"), NOT_TRUSTED + "omegaconf.OmegaConf]"),
    (model("runner.run", overrides=["model._target_=os.system"]), NOT_TRUSTED + "runner]"),
    (model("runner.load"), NOT_TRUSTED + "runner]"),
    (model("runner.cli.runs.main"), NOT_TRUSTED + "runner.cli.runs]"),
    (model("runner.rundir.RunDir.create"), NOT_TRUSTED),
    (model("runner.checkpoint.store.CheckpointStore"), NOT_TRUSTED),
    (model("torch.nnx.Linear"), NOT_TRUSTED),
    (model("torch.nn_evil.Linear"), NOT_TRUSTED),
    (model("torch.optimal.Adam"), NOT_TRUSTED),
    (model("runner_models.Net"), NOT_TRUSTED),
    (model("torch"), PLAIN),
    (model(""), PLAIN),
    (model("torch.nn."), PLAIN),
    (model(".torch.nn.Linear"), PLAIN),
    (model("torch..nn.Linear"), PLAIN),
    (model("torch.nn.Linear "), PLAIN),
    (model("torch.nn.Linear\n"), PLAIN),
    (model("torch.nn.Linear()"), PLAIN),
    (model("torch.nn:Linear"), PLAIN),
    (model("torch/nn/Linear"), PLAIN),
    (model("torch.nn.Line\u0430r"), "'torch.nn.Line\\u0430r'; " + PLAIN),  # A Cyrillic letter.
    (model("\uff54orch.nn.Linear"), PLAIN),  # Python reads a full-width letter as the plain one.
    (model("torch.nn.L\u0131near"), PLAIN),
    (model("torch.nn\u2024Linear"), PLAIN),
    (model("torch.nn.\u202eraeniL"), PLAIN),
    (model("torch.nn.Linear" + ".x" * 200), PLAIN),
    (model("${evil}"), "'${evil}', an interpolation; a file must write its targets out"),
    (model("${oc.env:TARGET}"), "an interpolation; a file must write its targets out"),
    (model("torch.nn.${x}"), "an interpolation; a file must write its targets out"),
    (model(["os.system"]), "_target_ is ['os.system']; wanted the dotted name of a class, as text"),
    (model({"_target_": "os.system"}), "wanted the dotted name of a class, as text"),
    (model(None), "_target_ is None; wanted the dotted name of a class, as text"),
    (model(7), "_target_ is 7; wanted"),
    (model(os.system), "wanted the dotted name of a class, as text"),
    (model("torch.nn.Linear.__init__.__globals__"), "names that begin with two underscores are not followed"),
    (model("torch.nn.__loader__.load_module"), "names that begin with two underscores are not followed"),
    (model("__main__.__builtins__.eval"), "names that begin with two underscores are not followed"),
    (model("__main__"), PLAIN),
    (
        model("torch.nn.modules._functions.CrossMapLRN2d"),
        "is private; name a public one, or add +trust=[torch.nn.modules",
    ),
    (
        model("torch.nn.Linear", _method_="x"),
        "'_method_' stands beside _target_; of such keys a file may hold _args_, ",
    ),
    (model("torch.nn.Linear", _mode_="x"), "'_mode_' stands beside _target_"),
    (nested("torch.nn.ReLU", __class__="x"), "model._args_[0]: '__class__' stands beside _target_"),
    (
        model("torch.nn.Linear", bias="${oc.create:{_target_: os.system}}"),
        "model.bias: '${oc.create:{_target_: os.system}}' holds an interpolation that could make a node",
    ),
    (model("torch.nn.Linear", bias="${oc.decode:'{_target_: canary.Net}'}"), "could make a node"),
    (model("torch.nn.Linear", bias="${eval:1+1}"), "could make a node"),
    (model("torch.nn.Linear", bias="${oc.decode:${oc.env:X,'{_target_: canary.Net}'}}"), "could make a node"),
    (model("torch.nn.Linear", bias="${oc.decode:${text}}"), "could make a node"),
    (model("torch.nn.Linear", bias="${oc.env:X,${oc.create:{a: 1}}}"), "could make a node"),
    (model("torch.nn.Linear", bias="${${name}}"), "could make a node"),
    (
        {**model("torch.nn.Sequential", _args_=["${evil}"]), "evil": {"_target_": "canary.Net"}},
        "config.json: evil: _target_ 'canary.Net' is not trusted",
    ),
    (
        {**model("torch.nn.Sequential", _args_=["${name}"]), "name": "${oc.create:{_target_: canary.Net}}"},
        "config.json: name: ",
    ),
    ({"optimizer": {"_target_": "canary.Net"}}, "config.json: optimizer: "),
    ({"scheduler": {"_target_": "canary.Net"}}, "config.json: scheduler: "),
    ({"data": {"_target_": "canary.Net"}}, "config.json: data: "),
    ({"objective": {"metrics": {"a": {"_target_": "canary.Net"}}}}, "config.json: objective.metrics.a: "),
    ({"observers": {"x": {"_target_": "canary.Net"}}}, "config.json: observers.x: "),
    ({"data": {"train": [[{"deep": ({"_target_": "canary.Net"},)}]]}}, "config.json: data.train[0][0].deep[0]: "),
    ({"model": [{"_target_": "canary.Net"}]}, "config.json: model[0]: "),
]

# Their names pass; what they stand for does not.
HOSTILE_BY_KIND: list[tuple[dict[str, Any], str]] = [
    (
        model("torch.nn.init.torch.hub.load"),
        "reaches the module 'torch' through another one; if that is meant, name it",
    ),
    (model("torch.nn.functional.importlib.import_module"), "reaches the module 'importlib' through another one"),
    (model("torch.nn.init.math.exp"), "reaches the module 'math' through another one"),
    (model("torch.optim.lr_scheduler.types.FunctionType"), "reaches the module 'types' through another one"),
    (model("torch.optim.optimizer.functools.partial"), "reaches the module 'functools' through another one"),
    (nested("torch.nn.modules.module.torch.load"), "model._args_[0]: "),
    (
        nested("torch.nn.modules.module.OrderedDict"),
        "is really 'collections.OrderedDict', which is not trusted; if that ",
    ),
    (nested("torch.optim.lr_scheduler.partial"), "is really 'functools.partial', which is not trusted"),
    (nested("torch.nn.modules.module.Tensor"), "is really 'torch.Tensor', which is not trusted"),
    (nested("torch.nn.modules.module.namedtuple"), "is really 'collections.namedtuple'"),
    (nested("torch.nn.functional.handle_torch_function"), "is not trusted"),
    (nested("torch.nn.modules.module.register_module_forward_hook", hook=1), "is a function; wanted a class, or add"),
    (nested("torch.nn.Linear.forward"), "is part of a class; name the class, or add +trust=[torch.nn.Linear]"),
    (nested("torch.nn.Module.apply"), "is part of a class"),
    (model("torch.nn.functional.relu"), "is a function; wanted a torch.nn.Module"),
    (model("torch.nn.functional.gelu"), "is a function; wanted a torch.nn.Module"),
    (model("torch.nn.init.zeros_"), "is a function; wanted a torch.nn.Module"),
    (model("torch.optim.SGD"), "is a class of another kind; wanted a torch.nn.Module; name another one"),
    (model("torch.nn.Parameter"), "is a class of another kind; wanted a torch.nn.Module"),
    (model("torch.nn.functional"), "is no class or function but a module; name another"),
    (nested("torch.nn.functional.Optional"), "'torch.nn.functional.Optional'"),
    (
        model("torch.nn.Linaer"),
        "'torch.nn.Linaer' cannot be imported (ModuleNotFoundError: No module named 'torch.nn.Linaer'",
    ),
    (model("torch.nn.Linear.nothing"), "'torch.nn.Linear.nothing' cannot be imported (AttributeError: "),
    (
        {"optimizer": {"_target_": "torch.nn.Linear"}},
        "optimizer: _target_ 'torch.nn.Linear' is a class of another kind; w",
    ),
    ({"optimizer": {"_target_": "torch.optim.lr_scheduler.StepLR"}}, "wanted a torch.optim.Optimizer"),
    ({"optimizer": {"_target_": "torch.optim.swa_utils.get_ema_avg_fn"}}, "wanted a class, or add"),
    (
        {"scheduler": {"_target_": "torch.optim.SGD"}},
        "wanted a torch.optim.lr_scheduler.LRScheduler or torch.optim.lr_s",
    ),
    ({"scheduler": {"_target_": "runner.models.mlp.MLP"}}, "is a class of another kind; wanted a torch.optim.lr_sched"),
    ({"data": {"_target_": "runner.data.digits.torch.load"}}, "reaches the module 'torch' through another one"),
    ({"data": {"_target_": "runner.data.digits.Path"}}, "is really 'pathlib"),
]

FRIENDLY: list[dict[str, Any]] = [
    model("torch.nn.Linear", in_features=2, out_features=2),
    model("torch.nn.modules.linear.Linear"),
    model("runner.models.mlp.MLP"),
    model(
        "torch.nn.Sequential", _args_=[{"_target_": "torch.nn.ReLU"}, {"_target_": "torch.nn.Linear", "_args_": [1, 2]}]
    ),
    model("torch.nn.Linear", _partial_=True, _convert_="all", _recursive_=False, _args_=[1, 2]),
    nested("torch.nn.functional.relu", _partial_=True),
    nested("torch.nn.functional.gelu", _partial_=True),
    nested("torch.nn.functional.conv2d", _partial_=True),
    nested("torch.nn.init.xavier_uniform_", _partial_=True),
    nested("torch.nn.utils.parametrizations.weight_norm", module={"_target_": "torch.nn.Linear"}),
    {"optimizer": {"_target_": "torch.optim.AdamW", "lr": 1e-3, "betas": [0.9, 0.999], "groups": []}},
    {"optimizer": {"_target_": "torch.optim.sgd.SGD"}},
    {"scheduler": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR"}},
    {"scheduler": {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"}},
    {"scheduler": {"_target_": "runner.training.schedule.Cosine", "warmup": 0.1}},
    {"data": {"_target_": "runner.data.digits.digits"}},
    {
        "objective": {
            "_target_": "runner.training.objective.Supervised",
            "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
        }
    },
    model("torch.nn.Linear", in_features="${data.size}", bias="${oc.env:HOME}") | {"data": {"size": 3}},
    model("torch.nn.Linear", bias="${oc.env:X,some plain default}"),
    model("torch.nn.Linear", in_features="${oc.decode:${oc.env:N, 3}}", path="${oc.env:HOME}/nets"),
    model("torch.nn.Linear", labels={"_background_": 0}),
    {},
    {"model": None, "observers": {}, "data": "text"},
    # What is not built is not looked at.
    {"notes": {"_target_": "canary.Net"}, "trainer": {"x": "${eval:1}"}, **model("torch.nn.Linear")},
]


@pytest.mark.parametrize(("config", "said"), HOSTILE_BY_NAME)
def test_hostile_name_is_refused_and_nothing_is_imported_for_it(
    config: dict[str, Any], said: str, canary: Path, tmp_path: Path
) -> None:
    before = set(sys.modules)
    message = refusal(config, memory=TrustMemory(tmp_path / "trusted.json"))
    assert said in message
    assert message.startswith("config.json: ")
    assert set(sys.modules) == before
    assert not canary.exists()


@pytest.mark.parametrize(("config", "said"), HOSTILE_BY_KIND)
def test_name_that_stands_for_something_else_is_refused(
    config: dict[str, Any], said: str, canary: Path, tmp_path: Path
) -> None:
    assert said in refusal(config, memory=TrustMemory(tmp_path / "trusted.json"))
    assert not canary.exists()


@pytest.mark.parametrize("config", FRIENDLY)
def test_friendly_config_passes(config: dict[str, Any], canary: Path) -> None:
    check(config)
    check(config, memory=TrustMemory())
    assert not canary.exists()


def test_hostile_tables_are_as_long_as_they_should_be() -> None:
    assert len(HOSTILE_BY_NAME) + len(HOSTILE_BY_KIND) >= 30


def test_canary_does_sing_when_its_module_is_trusted(canary: Path) -> None:
    check({"data": {"_target_": "canary.Net"}}, "canary")
    assert canary.exists()


def test_refused_config_imports_not_even_what_is_allowed(canary: Path) -> None:
    message = refusal({"data": {"_target_": "canary.Net"}, **model("os.system")}, "canary")
    assert "os.system" in message
    assert "canary" not in message
    assert not canary.exists()


def test_hostile_names_are_refused_without_importing_torch() -> None:
    script = textwrap.dedent("""
        import sys
        from runner.errors import TrustError
        from runner.trust import check_targets
        config = {"model": {"_target_": "torch.nn.Linear"}, "data": {"_target_": "os.system"}}
        try:
            check_targets(config, trusted=[], memory=None, where="x")
        except TrustError:
            sys.exit("torch" in sys.modules)
        sys.exit("not refused")
    """)
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_all_refusals_are_said_at_once() -> None:
    config = {"model": {"_target_": "os.system", "x": [{"_target_": "a.b"}]}, "data": {"_target_": "${x}"}}
    assert [line.split(": ")[1] for line in refusal(config).splitlines()] == ["model", "model.x[0]", "data"]


def test_config_of_any_depth_is_looked_through() -> None:
    config: dict[str, Any] = {"_target_": "os.system"}
    for _ in range(5_000):
        config = {"x": config}
    assert "'os.system' is not trusted" in refusal({"model": config})


@pytest.mark.parametrize("trusted", ["mypkg", "mypkg.nets", "mypkg.nets.Net"])
def test_trusted_package_passes(mynets: Path, trusted: str) -> None:
    check(model("mypkg.nets.Net"), trusted, *(["mypkg"] if trusted.endswith("Net") else []))


def test_trusted_package_may_name_what_its_own_package_gives_on(mynets: Path) -> None:
    check(model("mypkg.Net"), "mypkg")


@pytest.mark.parametrize("target", ["mynets.make_net", "mynets.Net.small"])
def test_factory_is_a_model_only_from_a_root_that_was_trusted_explicitly(mynets: Path, target: str) -> None:
    assert "is not trusted" in refusal(model(target))
    check(model(target), "mynets")


def test_own_scheduler_class_with_a_factor_passes(mynets: Path) -> None:
    check({"scheduler": {"_target_": "mynets.Sched"}}, "mynets")
    assert "of another kind" in refusal({"scheduler": {"_target_": "mynets.NotANet"}}, "mynets")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mynets.torch.hub.load", "reaches the module 'torch' through another one"),
        (
            "mynets.subprocess.Popen",
            "reaches the module 'subprocess' through another one; if that is meant, name it di",
        ),
        ("mynets.load", "is really 'torch.hub.load', which is not trusted; if that is meant, add +trust=[torch.hub]"),
        ("mynets.system", "is really 'posix.system', which is not trusted"),
        ("mynets.OrderedDict", "is really 'collections.OrderedDict'"),
        ("mynets.net", "is no class or function but a Net"),
        ("mynets.NotANet", "is a class of another kind; wanted a torch.nn.Module"),
        ("mynets.Nte", "'mynets.Nte' cannot be imported (ModuleNotFoundError: "),
        (
            "mypkg.broken.Net",
            "'mypkg.broken' cannot be imported (ModuleNotFoundError: No module named 'no_such_module_at",
        ),
        ("mypkgs.Net", "is not trusted"),
        ("missing.Net", "'missing' cannot be imported (ModuleNotFoundError: No module named 'missing')"),
    ],
)
def test_trust_in_a_package_does_not_reach_beyond_it(mynets: Path, target: str, said: str) -> None:
    assert said in refusal(model(target), "mynets", "mypkg", "missing")


def test_trust_in_both_lets_one_reach_through_the_other(mynets: Path) -> None:
    check({"data": {"_target_": "mynets.OrderedDict"}}, "mynets", "collections")
    check({"data": {"_target_": "mynets.subprocess.Popen"}}, "mynets", "subprocess")


def test_of_the_standard_library_one_name_alone_can_be_trusted(mynets: Path) -> None:
    check({"data": {"_target_": "builtins.sorted"}}, "builtins.sorted")
    check({"data": {"_target_": "mynets.OrderedDict"}}, "mynets", "collections.OrderedDict")
    said = refusal({"data": {"_target_": "mynets.system"}}, "mynets")
    assert "is really 'posix.system'" in said and said.endswith(
        '+trust=[posix.system] (in Python: trust=["posix.system"])'
    )
    check({"data": {"_target_": "mynets.system"}}, "mynets", "posix.system")
    assert "'builtins.eval' is not trusted" in refusal({"data": {"_target_": "builtins.eval"}}, "builtins.sorted")


@pytest.mark.parametrize("name", ["", "*", "my-pkg", "mypkg.", "mypkg/nets", "mypkg,other"])
def test_trust_in_what_is_no_module_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check({}, name)
    assert str(refused.value) == f"trust: {name!r} is not the name of a module; write it as in +trust=[mypackage.nets]"


def test_running_script_is_trusted_and_what_it_imported_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType("__main__")
    exec(
        "import os\nfrom os import system\nimport torch\nclass Net(torch.nn.Module): pass\ndef make(): pass", vars(main)
    )
    monkeypatch.setitem(sys.modules, "__main__", main)
    check(model("__main__.Net"))
    check(model("__main__.make"))
    assert "reaches the module 'os'" in refusal(model("__main__.os.system"))
    assert "is really 'posix.system'" in refusal(model("__main__.system"))


def test_every_node_that_is_built_is_known() -> None:
    assert set(NODES) == {"model", "data", "objective", "optimizer", "scheduler", "observers"}


# What is remembered.


def test_remembered_module_passes_without_a_word_and_nothing_is_imported_to_remember_it(
    mynets: Path, tmp_path: Path
) -> None:
    memory = TrustMemory(tmp_path / "state" / "trusted.json")
    assert "is not trusted" in refusal(model("mynets.Net"), memory=memory)
    memory.remember(["mynets.Net", "mypkg.nets.Net"])
    assert "mynets" not in sys.modules
    assert "mypkg" not in sys.modules
    again = TrustMemory(memory.path)
    for target in ("mynets.Net", "mynets.make_net", "mypkg.nets.Net", "mypkg.Net"):
        check(model(target), memory=again)
    assert again.remembered("mynets") == {mynets / "mynets.py"}
    assert json.loads(memory.path.read_text()) == {
        "format": 1,
        "modules": {
            "mynets": [str(mynets / "mynets.py")],
            "mypkg": [str(mynets / "mypkg" / "__init__.py")],
            "mypkg.nets": [str(mynets / "mypkg" / "nets.py")],
        },
    }


def test_remembered_module_does_not_reach_beyond_itself(mynets: Path, tmp_path: Path) -> None:
    memory = TrustMemory(tmp_path / "trusted.json")
    memory.remember(["mynets.Net", "mypkg.Net"])
    assert "reaches the module 'torch'" in refusal(model("mynets.torch.hub.load"), memory=memory)
    assert "is really 'torch.hub.load'" in refusal(model("mynets.load"), memory=memory)
    assert "is not trusted" in refusal(model("mypkg.broken.Net"), memory=memory)


def test_object_given_on_by_another_package_is_remembered_with_its_home(mynets: Path, tmp_path: Path) -> None:
    import mypkg  # type: ignore[import-not-found]  # noqa: F401

    memory = TrustMemory(tmp_path / "trusted.json")
    memory.remember(["mypkg.Net"])
    assert memory.remembered("mypkg.nets") == {mynets / "mypkg" / "nets.py"}
    check(model("mypkg.Net"), memory=memory)


def test_module_of_the_same_name_elsewhere_is_not_the_remembered_one(
    mynets: Path, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = TrustMemory(tmp_path / "trusted.json")
    memory.remember(["mynets.Net"])
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "mynets.py").write_text(CANARY)
    monkeypatch.syspath_prepend(str(evil))
    said = refusal(model("mynets.Net"), memory=memory)
    assert f"(you used 'mynets' from {mynets / 'mynets.py'}, here it would be {evil / 'mynets.py'})" in said
    assert "add +trust=[mynets]" in said
    assert not canary.exists()
    # Used in both projects, it is trusted in both.
    memory.remember(["mynets.Net"])
    assert memory.remembered("mynets") == {mynets / "mynets.py", evil / "mynets.py"}


def test_package_is_remembered_only_with_the_packages_around_it(
    mynets: Path, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = TrustMemory(tmp_path / "trusted.json")
    memory.remember(["mypkg.nets.Net"])
    (mynets / "mypkg" / "nets.py").rename(mynets / "nets.py")
    evil = tmp_path / "evil" / "mypkg"
    evil.mkdir(parents=True)
    (evil / "__init__.py").write_text(CANARY)
    (evil / "nets.py").symlink_to(mynets / "nets.py")
    monkeypatch.syspath_prepend(str(evil.parent))
    assert "is not trusted" in refusal(model("mypkg.nets.Net"), memory=memory)
    assert not canary.exists()


def test_package_without_a_file_of_its_own_is_remembered_by_the_files_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "space" / "inner").mkdir(parents=True)
    (tmp_path / "space" / "inner" / "mynets.py").write_text("class Net: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    memory = TrustMemory(tmp_path / "trusted.json")
    memory.remember(["space.inner.mynets.Net"])
    check({"data": {"_target_": "space.inner.mynets.Net"}}, memory=memory)
    assert "is not trusted" in refusal({"data": {"_target_": "space.inner.other.Net"}}, memory=memory)
    for name in [name for name in sys.modules if name.split(".")[0] == "space"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "functools.partial",
        "torch.hub.load",
        "torch.load",
        "hydra.utils.call",
        "runner.run",
        "__main__.Net",
    ],
)
def test_what_runs_anything_is_never_remembered(tmp_path: Path, target: str) -> None:
    memory = TrustMemory(tmp_path / "trusted.json")
    memory.remember([target, "no_such_module.Net", "", "..", "\u0430.b"])
    assert not memory.path.exists()


def test_memory_is_where_a_user_s_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert TrustMemory().path == tmp_path / "runner" / "trusted.json"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for relative in ("", "state"):
        monkeypatch.setenv("XDG_STATE_HOME", relative)
        assert TrustMemory().path == tmp_path / "home" / ".local" / "state" / "runner" / "trusted.json"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "modules": [1]}', "\udcff"])
def test_memory_that_cannot_be_read_is_said_and_counts_as_empty(
    tmp_path: Path, mynets: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    path = tmp_path / "trusted.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    memory = TrustMemory(path)
    assert "is not trusted" in refusal(model("mynets.Net"), memory=memory)
    assert f"{path}: cannot be read (" in caplog.text
    assert "so nothing is remembered as trusted" in caplog.text
    memory.remember(["mynets.Net"])
    assert TrustMemory(path).remembered("mynets")


def test_memory_of_a_newer_format_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "trusted.json"
    path.write_text('{"format": 2, "modules": {}}')
    assert TrustMemory(path).remembered("x") == frozenset()
    assert "format 2; this runner reads 1" in caplog.text


def test_memory_that_cannot_be_written_is_said_and_nothing_stops(
    tmp_path: Path, mynets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    memory = TrustMemory(tmp_path / "file" / "trusted.json")
    memory.remember(["mynets.Net"])
    assert "cannot be written (File exists), so mynets will not be remembered as trusted" in caplog.text


def test_what_two_processes_remember_at_once_is_all_kept(tmp_path: Path) -> None:
    names = [f"module_{writer}_{number}" for writer in range(3) for number in range(10)]
    for name in names:
        (tmp_path / f"{name}.py").write_text("")
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from runner.trust_memory import TrustMemory
        sys.path.append(sys.argv[1])
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(10):
            TrustMemory(Path(sys.argv[1], "trusted.json")).remember([f"module_{sys.argv[2]}_{number}.Net"])
    """)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for writer in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("\n")
        assert writer.returncode == 0
    memory = TrustMemory(tmp_path / "trusted.json")
    assert all(memory.remembered(name) for name in names)
    assert not list(tmp_path.glob("*.tmp-*"))


def test_a_remembered_module_is_found_from_any_directory(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from runner.trust import TrustMemory, check_targets

memory = TrustMemory(Path(sys.argv[1]))
config = {"model": {"_target_": "farnets.deep.Net"}}
if sys.argv[2] == "use":
    sys.path.insert(0, sys.argv[3])
    memory.remember(["farnets.deep.Net"])
else:
    check_targets(config, trusted=(), memory=memory, where=sys.argv[3])
    import farnets.deep
    print(farnets.deep.__file__)
"""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(tmp_path / "trusted.json"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")

    homes = [tmp_path / "one", tmp_path / "two"]
    for home in homes:
        (home / "farnets").mkdir(parents=True)
        (home / "farnets" / "__init__.py").touch()
        (home / "farnets" / "deep.py").write_text("import torch\nclass Net(torch.nn.Module): ...\n")
    assert run("use", homes[0]).returncode == 0
    # One place is remembered: wherever the checkpoint lies, it is meant.
    assert run("load", "/elsewhere").stdout.strip() == str(homes[0] / "farnets" / "deep.py")
    assert run("use", homes[1]).returncode == 0
    for home in homes:
        assert run("load", home / "outputs" / "step-1").stdout.strip() == str(home / "farnets" / "deep.py")
    undecided = run("load", "/elsewhere")
    assert "'farnets.deep.Net' is not trusted" in undecided.stderr
    homes_said = ", ".join(str(home / "farnets" / "__init__.py") for home in homes)
    assert f"(you used 'farnets' from {homes_said}; from here it cannot be found)" in undecided.stderr
    # The other project's module of the same name would be other code.
    shutil.rmtree(homes[0] / "farnets")
    assert "'farnets.deep.Net' is not trusted" in run("load", homes[0] / "outputs" / "step-1").stderr
    assert run("load", "/elsewhere").stdout.strip() == str(homes[1] / "farnets" / "deep.py")
