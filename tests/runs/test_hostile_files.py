"""Checkpoints that mean harm, sealed with the right checksums: loading and resuming them runs nothing of theirs."""

import base64
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.checkpoint.files import CHUNK_BYTES, record_of
from runner.checkpoint.manifest import MANIFEST_NAME, read_manifest, to_bytes
from runner.errors import RunnerError, TrustError

MARK = "EXECUTED"
"""The name of the file that appears in the current directory when something hostile is executed."""
TOUCH = f"open({MARK!r}, 'w').close()"
CANARY = f"{TOUCH}\nclass Net: pass\n"


class Evil:
    def __reduce__(self) -> Any:
        return exec, (TOUCH,)


EVIL_PICKLE = base64.b64encode(pickle.dumps(Evil())).decode()


def node(target: Any, *args: Any, **more: Any) -> dict[str, Any]:
    return {"_target_": target, **({"_args_": list(args)} if args else {}), **more}


def inside(target: Any, *args: Any, **more: Any) -> dict[str, Any]:
    return node("torch.nn.Sequential", node("torch.nn.ReLU"), node(target, *args, **more))


# Each of them makes the file MARK if it is carried out; the control below shows that such nodes are carried out.
HOSTILE: dict[str, Any] = {
    "a shell": node("os.system", f"touch {MARK}"),
    "a shell by its real name": node("posix.system", f"touch {MARK}"),
    "a program": node("subprocess.run", ["touch", MARK]),
    "a program in the background": node("subprocess.Popen", ["touch", MARK]),
    "a program's output": node("subprocess.check_output", ["touch", MARK]),
    "a new process": node("os.spawnlp", os.P_WAIT, "touch", "touch", MARK),
    "exec": node("builtins.exec", TOUCH),
    "eval": node("builtins.eval", TOUCH),
    "open": node("builtins.open", MARK, "w"),
    "a directory": node("os.mkdir", MARK),
    "a copy": node("shutil.copy", "canary.py", MARK),
    "a path's method": node("pathlib.Path.touch", node("pathlib.Path", MARK)),
    "a script": node("runpy.run_path", "canary.py"),
    "an import": node("importlib.import_module", "canary"),
    "another import": node("builtins.__import__", "canary"),
    "a class of a module that acts when imported": node("canary.Net"),
    "a class of a package that acts when imported": node("canaries.inner.Net"),
    "a pickle": node("pickle.loads", node("base64.b64decode", EVIL_PICKLE)),
    "a pickle of torch": node("torch.load", "evil.pt", weights_only=False),
    "a pickle of numpy": node("numpy.load", "evil.npy", allow_pickle=True),
    "a hub": node("torch.hub.load", ".", "net", source="local"),
    "a hub through a module of torch.nn": node("torch.nn.init.torch.hub.load", ".", "net", source="local"),
    "an import through a module of torch.nn": node("torch.nn.functional.importlib.import_module", "canary"),
    "a helper of torch that runs programs": node("torch.utils.collect_env.run", f"touch {MARK}"),
    "a partial": node("functools.partial", node("os.system", f"touch {MARK}")),
    "Hydra itself": node("hydra.utils.instantiate", node("os.system", f"touch {MARK}")),
    "Hydra's call": node("hydra.utils.call", node("os.system", f"touch {MARK}")),
    "a thread": node("threading.Timer", 0, node("os.system", f"touch {MARK}")),
    "a run of this package": node(
        "runner.run", ["+observers.x._target_=os.system", f"+observers.x.command=touch {MARK}"]
    ),
    "this package's command": node("runner.cli.launch.main"),
    "inside a module": inside("os.system", f"touch {MARK}"),
    "inside an argument": node("torch.nn.Linear", 1, 1, bias={"deep": [node("os.system", f"touch {MARK}")]}),
    "inside a partial module": {**inside("os.system", f"touch {MARK}"), "_partial_": True},
    "a name through two underscores": node("torch.nn.Linear.__init__.__globals__", TOUCH),
    "an interpolated name": node("${oc.env:TARGET}", f"touch {MARK}"),
    "a node out of a text": node("torch.nn.Linear", 1, 1, bias="${oc.create:{_target_: os.system}}"),
    "a node out of the environment": node("torch.nn.Linear", 1, 1, bias="${oc.decode:${oc.env:NODE}}"),
    "a method to call": node("torch.nn.Linear", 1, 1, _method_="share_memory"),
    "a name that is no text": node(["os.system"], f"touch {MARK}"),
    "a full-width name": node("\uff4fs.system", f"touch {MARK}"),
    "a node in the disguise of its items": node(
        "torch.nn.Sequential", {"_items_": [["_target_", "os.mkdir"], ["path", MARK]]}
    ),
    "a model in the disguise of its items": {"_items_": [["_target_", "os.mkdir"], ["path", MARK]]},
    # Nothing harmful, but no model either.
    "no target": {"in_features": 1},
    "nothing": None,
    "a function": node("torch.nn.functional.relu"),
    "an alias of another module's class": node("torch.nn.modules.module.OrderedDict"),
    "an optimizer in place of a model": node("torch.optim.SGD"),
    "a dataset in place of a model": node("runner.data.digits.digits"),
    "a list of nodes": [node("os.system", f"touch {MARK}")],
    "no node at all": "os.system",
}


def forge(checkpoint: Path, name: str, data: bytes) -> None:
    """Put `data` in the place of a file and seal the manifest for it with the right checksums."""
    manifest = read_manifest(checkpoint)
    (checkpoint / name).write_bytes(data)
    pieces = [data[begin : begin + CHUNK_BYTES] for begin in range(0, len(data), CHUNK_BYTES)]
    forged = replace(manifest, files={**manifest.files, name: record_of(pieces)})
    (checkpoint / MANIFEST_NAME).write_bytes(to_bytes(forged))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    short = ["runtime.device=cpu", "data.batch_size=256", "trainer.max_epochs=1", f"hydra.run.dir={directory}"]
    runner.run(short)
    return directory


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, in a directory where everything is ready to be executed."""
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "canary.py").write_text(CANARY)
    (tmp_path / "hubconf.py").write_text(f"{CANARY}\ndef net(): pass\n")
    (tmp_path / "canaries").mkdir()
    (tmp_path / "canaries" / "__init__.py").write_text(CANARY)
    (tmp_path / "canaries" / "inner.py").write_text(CANARY)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "evil.npy").write_bytes(pickle.dumps(Evil()))
    monkeypatch.setenv("TARGET", "os.system")
    monkeypatch.setenv("NODE", f"{{_target_: os.system, command: touch {MARK}}}")
    before = set(sys.modules)
    yield tmp_path / "run"
    for name in set(sys.modules) - before:
        if name.startswith("canar"):
            del sys.modules[name]


@pytest.fixture
def forged(run: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Changes config.json and config.yaml of every checkpoint of the run, as an attacker would; the run."""

    def change(how: Callable[[dict[str, Any]], None]) -> Path:
        for path in (run / "checkpoints").glob("step-*"):
            values = json.loads((path / "config.json").read_text())
            how(values)
            data = json.dumps(values).encode()
            forge(path, "config.json", data)
            forge(path, "config.yaml", json.dumps(values.get("config")).encode())
        return run

    return change


def put(**nodes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda values: values["config"].update(nodes)


def test_these_are_enough_and_such_nodes_are_carried_out_where_they_are_trusted(
    forged: Callable[..., Path], tmp_path: Path
) -> None:
    assert len(HOSTILE) >= 30
    run = forged(put(model=node("os.mkdir", MARK)))
    with pytest.raises(RunnerError, match=r"wanted a torch\.nn\.Module"):
        runner.load(run, trust=["os", "posix"])
    assert (tmp_path / MARK).exists()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_model_is_refused_when_loaded_and_nothing_of_it_is_executed(
    kind: str, forged: Callable[..., Path], tmp_path: Path
) -> None:
    run = forged(put(model=HOSTILE[kind]))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunnerError) as caught:
        runner.load(run)
    said = str(caught.value)
    assert f"{run}/checkpoints/step-" in said and "model" in said
    assert sorted(tmp_path.iterdir()) == before
    assert not [name for name in sys.modules if name.startswith("canar")]


@pytest.mark.parametrize(
    "kind",
    [
        "a shell",
        "a class of a module that acts when imported",
        "a hub through a module of torch.nn",
        "a run of this package",
        "inside a module",
        "an interpolated name",
        "a node out of a text",
        "a node out of the environment",
        "a node in the disguise of its items",
        "a model in the disguise of its items",
        "no target",
    ],
)
def test_a_hostile_model_is_refused_with_overrides_on_top_too(
    kind: str, forged: Callable[..., Path], tmp_path: Path
) -> None:
    run = forged(put(model=HOSTILE[kind]))
    before = sorted(tmp_path.iterdir())
    for override in ("trainer.log_every=7", "+model.more=1"):
        with pytest.raises(RunnerError):
            runner.load(run, overrides=[override])
    assert sorted(tmp_path.iterdir()) == before
    assert not [name for name in sys.modules if name.startswith("canar")]


@pytest.mark.parametrize("place", ["data", "objective", "model"])
def test_a_hostile_node_is_refused_when_evaluated(place: str, forged: Callable[..., Path], tmp_path: Path) -> None:
    from runner.runs.evaluating import evaluate_checkpoint

    for kind in ("a class of a module that acts when imported", "a shell"):
        run = forged(put(**{place: HOSTILE[kind]}))
        before = sorted(tmp_path.iterdir())
        for overrides in ([], ["trainer.log_every=7"]):
            with pytest.raises(TrustError, match=place):
                evaluate_checkpoint(runner.Checkpoint.open(run), overrides)
        assert sorted(tmp_path.iterdir()) == before


def test_a_config_that_means_hydra_is_refused_when_a_model_is_loaded_with_overrides(
    forged: Callable[..., Path], tmp_path: Path
) -> None:
    for kind in ("a callback in the config", "a launcher in the config", "a defaults list in the config"):
        run = forged(SMUGGLED[kind])
        before = sorted(tmp_path.iterdir())
        with pytest.raises(runner.FormatError, match="which is Hydra's own; use another checkpoint"):
            runner.load(run, overrides=["model.dropout=0"])
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("model", "a class of a module that acts when imported"),
        ("optimizer", "a shell"),
        ("scheduler", "a class of a package that acts when imported"),
        ("data", "a shell"),
        ("data", "inside a module"),
        ("objective", "inside an argument"),
        ("observers", "a program"),
    ],
)
def test_a_hostile_node_is_refused_when_resumed_and_nothing_of_it_is_executed(
    place: str, kind: str, forged: Callable[..., Path], tmp_path: Path
) -> None:
    hostile = {"x": HOSTILE[kind]} if place == "observers" else HOSTILE[kind]
    run = forged(put(**{place: hostile}))
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    with pytest.raises(TrustError, match=place):
        runner.run([f"+resume={run}", "trainer.max_epochs=2"])
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def add_override(text: str, values: dict[str, Any]) -> None:
    values["overrides"].append(text)


OVERRIDES = (
    f"++hydra={{callbacks:{{x:{{_target_:os.system,command:touch {MARK}}}}}}}",
    f"+hydra.callbacks.x={{_target_:os.system,command:touch {MARK}}}",
    "hydra.run.dir=elsewhere",
    "hydra/launcher=../elsewhere",
    "+canary@hydra.callbacks.x=y",
    "hydra.mode=MULTIRUN",
    "+trust=[os]",
    "+resume=elsewhere",
    "+allow=[model]",
    "--config-dir=elsewhere",
    "--multirun",
    "-m",
    "model=../../elsewhere",
    "seed=1,2,3",
    "x=${oc.env:HOME}",
    "",
    "=",
    "\x00",
)
SMUGGLED: dict[str, Callable[[dict[str, Any]], None]] = {
    "a callback in the config": put(hydra={"callbacks": {"x": node("os.system", f"touch {MARK}")}}),
    "a launcher in the config": put(hydra={"launcher": node("os.system", f"touch {MARK}")}),
    "a directory in the config": put(hydra={"run": {"dir": "elsewhere"}}),
    "a job's chdir in the config": put(hydra={"job": {"chdir": True}, "output_subdir": "elsewhere"}),
    "a defaults list in the config": put(defaults=[{"override hydra/launcher": "../../elsewhere"}]),
    **{f"the override {text!r}": partial(add_override, text) for text in OVERRIDES},
    "overrides that are no texts": lambda values: values.update(overrides=[["hydra.run.dir=elsewhere"]]),
    "a choice that leads away": lambda values: values["choices"].update({"model": "../../elsewhere/model"}),
    "a choice for Hydra": lambda values: values["choices"].update({"hydra/launcher": "elsewhere"}),
    "choices that are no mapping": lambda values: values.update(choices=["hydra"]),
    "no config": lambda values: values.update(config=None),
}


@pytest.mark.parametrize("kind", SMUGGLED)
def test_what_is_smuggled_into_a_checkpoint_reaches_nothing_but_the_config(
    kind: str, forged: Callable[..., Path], tmp_path: Path
) -> None:
    run = forged(SMUGGLED[kind])
    before = sorted(tmp_path.iterdir())
    try:
        result = runner.run([f"+resume={run}", "trainer.max_epochs=2"])
    except RunnerError as error:
        assert str(error)
    else:
        # Left out: it went on where it was, as what it was.
        assert result.directory == run
        assert result.checkpoint().step == 10
        assert "hydra" not in result.checkpoint().config
    assert sorted(path for path in tmp_path.iterdir() if path.name != "outputs") == before
    assert not list(tmp_path.rglob("elsewhere*"))
    assert not (run / MARK).exists()


# Nine texts, and eight times what stands in each line in the next: more than a hundred million texts.
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("config.yaml", BOMB.encode(), "aliases are not read"),
        ("config.yaml", b"a: &a [*a]\nseed: 1\n", "aliases are not read"),
        ("config.yaml", b"a: !!python/object/apply:os.system ['touch EXECUTED']\n", "not readable YAML"),
        ("config.yaml", b"a: !!python/name:os.system\n", "not readable YAML"),
        ("config.yaml", b"- os.system\n", "wanted a mapping"),
        ("config.yaml", b"a: " + b"[" * 100_000, "not readable YAML"),
        ("config.yaml", b"\xff\xfe\x00", "config.yaml"),
        ("config.json", b"[" * 100_000, "config.json"),
        ("config.json", b'{"config": {}, "overrides": [], "choices": []}', "config.json"),
        ("config.json", b"\xff", "config.json"),
    ],
)
def test_documents_that_are_bombs_or_nonsense_are_refused(
    name: str, data: bytes, said: str, run: Path, tmp_path: Path
) -> None:
    for path in (run / "checkpoints").glob("step-*"):
        forge(path, name, data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunnerError, match=said):
        runner.run([f"+resume={run}", "trainer.max_epochs=2"])
    assert sorted(tmp_path.rglob("*")) == before
