"""The layers of the package hold: imports go down only, and what must be quick to start does not import torch.

`violations` is a pure function of sources, so that it is tested on made-up ones too.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import runner

PACKAGE = Path(__file__).parents[1] / "src" / "runner"

# From the bottom up. A module imports from lower layers and from its own group of names, never from beside or above.
LAYERS: tuple[tuple[frozenset[str], ...], ...] = (
    (frozenset({"errors"}),),
    (frozenset({"records"}), frozenset({"quantities"}), frozenset({"collector"})),
    (
        frozenset({"checkpoint"}),
        frozenset({"data"}),
        frozenset({"trust", "trust_memory"}),
        frozenset({"rundir", "lock", "metrics_file", "jsonl", "processes"}),
    ),
    (frozenset({"training"}), frozenset({"models"})),
    (frozenset({"config"}),),
    (frozenset({"runs"}),),
    (frozenset({"sweep"}), frozenset({"doors", "handler"})),
    (frozenset({"cli"}),),
)
LAYER_OF = {name: layer for layer, groups in enumerate(LAYERS) for group in groups for name in group}
GROUP_OF = {name: group for groups in LAYERS for group in groups for name in group}

# A folder stands for every module in it.
WITHOUT_TORCH = (
    "cli",
    "config",
    "checkpoint.manifest",
    "checkpoint.policies",
    "rundir",
    "lock",
    "metrics_file",
    "collector",
    "trust",
    "trust_memory",
    "records",
    "quantities",
    "errors",
    "training.plan",
    "training.parts",
)
LAZY = ("__init__.py", "models/__init__.py")
"""Public surfaces: their names are imported when they are first used."""
MAX_LINES = 300
REASON = "# Over 300 lines: "


def violations(sources: Mapping[str, str]) -> list[str]:
    """Everything that breaks the rules of the house, one line each.

    `sources` maps paths below src/runner ("checkpoint/store.py") to what stands in them.
    """
    found = [f"{folder}: has no __init__.py" for folder in sorted(folders(sources) - initialised(sources))]
    for path, source in sorted(sources.items()):
        tree = ast.parse(source, filename=path)
        lines = source.splitlines()
        if len(lines) > MAX_LINES and not any(line.startswith(REASON) and line != REASON.strip() for line in lines):
            found.append(f"{path}: {len(lines)} lines; split it or say why: {REASON}<reason>")
        if path in LAZY:
            continue
        if path.endswith("/__init__.py") and not is_docstring_only(tree):
            found.append(f"{path}: holds more than a docstring")
        own = path.removesuffix(".py").split("/")[0]
        if own not in LAYER_OF:
            found.append(f"{path}: {own} has no layer; give it one in {Path(__file__).name}")
            continue
        for line, target in dict.fromkeys(imports(tree, path)):
            if target not in LAYER_OF:
                found.append(f"{path}:{line}: imports runner.{target}, which has no layer")
            elif LAYER_OF[target] > LAYER_OF[own]:
                found.append(
                    f"{path}:{line}: {own} (layer {LAYER_OF[own]}) imports {target} (layer {LAYER_OF[target]})"
                )
            elif LAYER_OF[target] == LAYER_OF[own] and target not in GROUP_OF[own]:
                found.append(f"{path}:{line}: {own} imports {target}, which stands beside it in layer {LAYER_OF[own]}")
        if own != "cli":
            found.extend(f"{path}:{line}: calls print" for line in prints(tree))
    return found


def folders(sources: Mapping[str, str]) -> set[str]:
    return {parent.as_posix() for path in sources for parent in Path(path).parents} - {"."}


def initialised(sources: Mapping[str, str]) -> set[str]:
    return {Path(path).parent.as_posix() for path in sources if path.endswith("/__init__.py")}


def is_docstring_only(tree: ast.Module) -> bool:
    return len(tree.body) == 1 and ast.get_docstring(tree) is not None


def imports(tree: ast.Module, path: str) -> Iterator[tuple[int, str]]:
    """(line, first name below `runner`) of every import of the package, wherever in the module it stands.

    Imports inside functions count: they only hide an import from the start. What is imported from `runner` itself
    comes as that name, which is a module's or, being a public name, has no layer.
    """
    package = ["runner", *path.split("/")[:-1]]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__"}:
            names = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        for name in names:
            root, _, below = name.partition(".")
            if root == "runner" and isinstance(node, ast.expr | ast.stmt):
                yield node.lineno, below.split(".")[0] or "__init__"


def prints(tree: ast.Module) -> Iterator[int]:
    return (node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) == "print")


def called(call: ast.Call) -> str | None:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name, value=ast.Name(id="importlib")):
            return name
    return None


def sources_of(package: Path) -> dict[str, str]:
    return {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in sorted(package.rglob("*.py"))}


def modules(package: Path, name: str) -> list[str]:
    """The dotted names of the modules that `name`, a module or a folder below `runner`, stands for."""
    start = package.joinpath(*name.split("."))
    paths = [start.with_suffix(".py")] if start.with_suffix(".py").exists() else sorted(start.rglob("*.py"))
    names = (".".join(("runner", *path.relative_to(package).with_suffix("").parts)) for path in paths)
    return [name.removesuffix(".__init__") for name in names]


IMPORT_EACH = """
import importlib, json, sys
culprits = []
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
    if any(part.partition(".")[0] == "torch" for part in sys.modules):
        culprits.append(name)
        break  # torch cannot be unloaded, so the others would be blamed for this one's import.
print(json.dumps(culprits))
"""


def torch_importers(names: list[str], path: Path) -> list[str]:
    """The first of these modules that imports torch when it is imported, in a new process that looks in `path`."""
    start = f"import sys; sys.path.insert(0, {str(path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", f"{start}\n{IMPORT_EACH}", json.dumps(names)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    culprits: list[str] = json.loads(done.stdout)
    return culprits


def test_the_package_keeps_to_its_layers() -> None:
    found = violations(sources_of(PACKAGE))
    assert not found, "\n".join(found)


def test_modules_that_must_start_quickly_import_no_torch() -> None:
    names = {name: modules(PACKAGE, name) for name in WITHOUT_TORCH}
    assert [name for name, found in names.items() if not found] == [], "listed here, but not in the package"
    assert torch_importers([module for found in names.values() for module in found], PACKAGE.parent) == []


def test_no_public_name_is_a_module_s_name() -> None:
    # `from runner import x` would give the module or the function, depending on what was imported before.
    top_level = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(runner.__all__) & top_level == set()


def test_importing_the_package_imports_no_torch() -> None:
    assert torch_importers(["runner"], PACKAGE.parent) == []


HOUSE = {
    "__init__.py": "from runner.runs.run import run",
    "errors.py": "",
    "records.py": "",
    "rundir.py": "",
    "lock.py": "",
    "trust.py": "",
    "checkpoint/__init__.py": '"""Checkpoints."""',
    "checkpoint/store.py": "",
    "config/__init__.py": '"""Configs."""',
    "config/build.py": "",
    "cli/__init__.py": '"""Commands."""',
    "cli/runs.py": "",
}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("checkpoint/store.py", "from runner.errors import SaveError"),
        ("checkpoint/store.py", "from runner.checkpoint.manifest import Manifest"),
        ("checkpoint/store.py", "from . import manifest"),
        ("checkpoint/store.py", "from ..errors import SaveError"),
        ("checkpoint/store.py", "import os, runner.errors"),
        ("checkpoint/store.py", "from runner import errors"),
        ("checkpoint/store.py", "import runnerlike.cli"),
        ("lock.py", "from runner.rundir import RunDir"),
        ("cli/runs.py", "print('a table')"),
        ("checkpoint/store.py", "# Over 300 lines: it is a table.\n" + "x = 1\n" * 300),
        ("checkpoint/store.py", "x = 1\n" * 300),
        ("checkpoint/store.py", "print = 1"),
    ],
)
def test_what_is_allowed_is_no_violation(path: str, source: str) -> None:
    assert violations({**HOUSE, path: source}) == []


@pytest.mark.parametrize(
    ("path", "source", "violation"),
    [
        (
            "checkpoint/store.py",
            "import os\nfrom runner.config.build import build",
            "checkpoint/store.py:2: checkpoint (layer 2) imports config (layer 4)",
        ),
        ("errors.py", "import runner.records", "errors.py:1: errors (layer 0) imports records (layer 1)"),
        (
            "errors.py",
            "from runner.cli.runs import a, b",
            "errors.py:1: errors (layer 0) imports cli (layer 7)",
        ),
        ("errors.py", "from runner import cli", "errors.py:1: errors (layer 0) imports cli (layer 7)"),
        (
            "checkpoint/store.py",
            "from ..config import build",
            "checkpoint/store.py:1: checkpoint (layer 2) imports config (layer 4)",
        ),
        (
            "checkpoint/store.py",
            "from .. import trust",
            "checkpoint/store.py:1: checkpoint imports trust, which stands beside it in layer 2",
        ),
        (
            "checkpoint/store.py",
            "def late():\n    import runner.rundir",
            "checkpoint/store.py:2: checkpoint imports rundir, which stands beside it in layer 2",
        ),
        (
            "checkpoint/store.py",
            "import importlib\nimportlib.import_module('runner.cli.runs')",
            "checkpoint/store.py:2: checkpoint (layer 2) imports cli (layer 7)",
        ),
        (
            "checkpoint/store.py",
            "from runner import load",
            "checkpoint/store.py:1: imports runner.load, which has no layer",
        ),
        ("config/build.py", "import runner", "config/build.py:1: imports runner.__init__, which has no layer"),
        ("helpers.py", "", "helpers.py: helpers has no layer; give it one in test_layers.py"),
        ("config/__init__.py", '"""Configs."""\nimport os', "config/__init__.py: holds more than a docstring"),
        ("config/__init__.py", "", "config/__init__.py: holds more than a docstring"),
        ("runs/run.py", "", "runs: has no __init__.py"),
        ("trust.py", "def f():\n    print('x')", "trust.py:2: calls print"),
        ("trust.py", "x = 1\n" * 301, "trust.py: 301 lines; split it or say why: # Over 300 lines: <reason>"),
        (
            "trust.py",
            "# Over 300 lines:\n" + "x = 1\n" * 300,
            "trust.py: 301 lines; split it or say why: # Over 300 lines: <reason>",
        ),
    ],
)
def test_a_violation_is_named_with_its_place(path: str, source: str, violation: str) -> None:
    assert violations({**HOUSE, path: source}) == [violation]


def test_the_module_that_imports_torch_is_named(tmp_path: Path) -> None:
    (tmp_path / "light.py").write_text("")
    (tmp_path / "heavy.py").write_text("import torch_like\nimport torch")
    (tmp_path / "torch_like.py").write_text("")
    (tmp_path / "torch.py").write_text("")
    assert torch_importers(["light", "torch_like"], tmp_path) == []
    assert torch_importers(["light", "heavy", "torch_like"], tmp_path) == ["heavy"]


def test_a_folder_stands_for_all_its_modules(tmp_path: Path) -> None:
    for path in ("cli/__init__.py", "cli/runs.py", "cli/deep/__init__.py", "trust.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    assert modules(tmp_path, "cli") == ["runner.cli", "runner.cli.deep", "runner.cli.runs"]
    assert modules(tmp_path, "trust") == ["runner.trust"]
    assert modules(tmp_path, "gone") == []
