"""The commands on files with a model in them that are of no run: of a door, an echo state network, another program."""

import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import runner
from runner.checkpoint.single import save_file
from runner.cli.model_file import show_source
from runner.cli.runs import app
from runner.config.calls import METADATA
from runner.errors import CheckpointError, RunnerError
from runner.models import classic_esn
from runner.runs.handed import documents_for, facts_here
from runner.trust_memory import TrustMemory

NETS = """import torch
from torch import nn
from runner import save_load


@save_load(version="1.2")
class Net(nn.Module):
    \tdef __init__(self, width, sizes=(8, 8), activation=nn.ReLU, *, scale=None, schedule=None, password=None):
    \t\tsuper().__init__()
    \t\tself.body = nn.Sequential(nn.Linear(width, sizes[0]), activation(), nn.Linear(*sizes))
    \t\tself.scale = scale

    \tdef forward(self, x):
    \t\treturn self.body(x)
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    """What was printed, or what was said where it was refused."""


@pytest.fixture
def runs() -> Callable[..., Done]:
    """`runs("show", "net.pt")` in this process."""

    def runs(*words: str | Path) -> Done:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if isinstance(result.exception, RunnerError):
            return Done(2, str(result.exception))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.output)

    return runs


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The user's own module, in the directory in which he works."""
    import importlib

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("filenets.py").write_text(NETS.replace("    \t", "    ").replace("\t", "    "))
    yield importlib.import_module("filenets")
    sys.modules.pop("filenets", None)


def lines_of(text: str, begin: str, end: str = "") -> list[str]:
    """The lines from the one that is `begin` to the next that is `end`."""
    lines = text.splitlines()
    at = lines.index(begin)
    return lines[at : lines.index(end, at)]


def plain_file(path: Path, config: dict[str, Any], **more: bytes) -> Path:
    documents = {**documents_for({"door": "here", **config}), **more}
    save_file(path, {"model": torch.nn.Linear(2, 1).state_dict()}, documents=documents, facts=facts_here())
    return path


# ---- show ----


def test_show_says_who_saved_a_file_and_how_its_model_is_made(nets: Any, runs: Callable[..., Done]) -> None:
    nets.Net(4, scale=torch.ones(2), schedule=lambda step: step, password="hunter2").save("net.pt")
    shown = runs("show", "net.pt")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[:3] == ["net.pt", "what     saved by save_load", "version  1.2"]
    assert lines_of(shown.out, "model", ")")[:6] == [
        "model",
        "filenets.Net(",
        "  width=4,",
        "  sizes=(8, 8),",
        "  activation=torch.nn.ReLU,",
        lines[lines.index("model") + 5],
    ]
    assert lines_of(shown.out, "model", ")")[6:] == [
        "  schedule=...,  # is a lambda, which has no name that it can be imported by",
        "  password=...,  # was left out when it was saved, because it looks like a secret",
    ]
    assert lines[lines.index("model") + 5].startswith("  scale=<tensor of float32, (2,), #")
    table = [line.split(maxsplit=1) for line in lines if line.startswith("body.")]
    assert table[0] == ["body.0.weight", "float32  (8, 4)  128 B"]
    assert "4 tensors, 448 B" in lines
    assert 'load    runner.load("net.pt", arguments={"schedule": ..., "password": ...})' in lines
    assert "source  runs show net.pt --source" in lines
    assert any(line.startswith("source.filenets.py") for line in lines)
    assert "hunter2" not in shown.out


def test_what_show_says_to_type_loads_the_model(nets: Any, runs: Callable[..., Done]) -> None:
    nets.Net(4).save("net.pt")
    line = json.loads(runs("show", "net.pt", "--json").out)["load"]
    assert line == 'runner.load("net.pt")'
    assert type(eval(line, {"runner": runner})) is nets.Net


def test_show_says_what_somebody_else_has_to_trust(
    nets: Any, runs: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nets.Net(4).save("net.pt")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    assert 'runner.load("net.pt", trust=["filenets"])' in runs("show", "net.pt").out
    assert not TrustMemory().remembered("filenets")


@pytest.mark.parametrize("target", ["__main__.Net", "nets.make.<locals>.Net"])
def test_show_says_where_a_class_has_to_be_given(target: str, runs: Callable[..., Done]) -> None:
    plain_file(Path("net.zip"), {"model": {"_target_": target}})
    shown = runs("show", "net.zip").out
    assert f'runner.load("net.zip", moved={{"{target}": ...}}' in shown
    assert f"\nmodel\n{target}()\n" in shown


def test_show_prints_the_other_calls_settings_and_metadata(runs: Callable[..., Done]) -> None:
    plain_file(
        Path("net.zip"),
        {
            "model": {"_target_": "torch.nn.modules.linear.Linear", "_args_": [2, {"$": "tuple", "items": [1]}]},
            "optimizer": {"_target_": "torch.optim.adamw.AdamW", "betas": {"$": "tuple", "items": [0.9, 0.99]}},
            "every": {"$": "float", "value": "inf"},
        },
        **{METADATA: b'{"loss": 0.5, "tags": ["a"], "size": {"$": "size", "lengths": [2]}}'},
    )
    shown = runs("show", "net.zip").out
    assert lines_of(shown, "model")[1:] == ["torch.nn.Linear(", "  2,", "  (1,),", ")"]
    assert lines_of(shown, "optimizer")[1:] == ["torch.optim.AdamW(", "  betas=(0.9, 0.99),", ")"]
    assert lines_of(shown, "settings")[1:] == ["every: inf"]
    assert lines_of(shown, "metadata")[1:] == ["loss: 0.5", "tags: ['a']", "size: torch.Size([2])"]
    assert 'load  runner.load("net.zip")' in shown


def test_show_of_a_hostile_file_prints_what_it_says_and_nothing_else(runs: Callable[..., Done]) -> None:
    plain_file(
        Path("net.zip"),
        {
            "model": {
                "_target_": "os.system",
                "a\x1b[31m": "b\x1b[2J",
                "deep": {"$": "nonsense"},
                "call": {"$": "call", "of": "os.system", "arguments": {"_args_": ["touch EXECUTED"]}},
            }
        },
    )
    shown = runs("show", "net.zip").out
    assert lines_of(shown, "model")[1:] == [
        "os.system(",
        "  a\\x1b[31m='b\\x1b[2J',",
        "  deep=<{'$': 'nonsense'}>,",
        "  call=os.system('touch EXECUTED'),",
        ")",
    ]
    assert (
        "careful  it names os.system, which is no model and may do anything: know what for before you trust it" in shown
    )
    assert not Path("EXECUTED").exists()


@pytest.mark.parametrize("depth", [300, 900, 100_000])
@pytest.mark.parametrize("place", ["model", "version", "metadata"])
def test_a_file_that_is_nested_too_deep_is_refused_by_every_command(
    place: str, depth: int, runs: Callable[..., Done]
) -> None:
    deep = "[" * depth + "]" * depth
    model = '{"_target_": "torch.nn.Linear", "_args_": [2, 1]}' if place != "model" else f'{{"_target_": {deep}}}'
    config = f'{{"door": "here", "model": {model}, "version": {deep if place == "version" else 1}}}'
    documents = {
        "config.json": f'{{"config": {config}, "overrides": []}}'.encode(),
        METADATA: f'{{"a": {deep if place == "metadata" else 1}}}'.encode(),
    }
    save_file(Path("net.zip"), {"model": torch.nn.Linear(2, 1).state_dict()}, documents=documents, facts={})
    refused = f"net.zip/{METADATA if place == 'metadata' else 'config.json'}: is "
    for words in (("show", "net.zip"), ("show", "net.zip", "--json"), ("diff", "net.zip", "net.zip")):
        if place != "metadata" or words[0] == "show":
            assert runs(*words).out.startswith(refused), words
    with pytest.raises(CheckpointError, match=refused):
        runner.load("net.zip")
    assert runs("verify", "net.zip").code == 0


def test_show_of_an_echo_state_network(runs: Callable[..., Done]) -> None:
    network = classic_esn(20, 1, 1, leak_rate=0.5)
    network(torch.zeros(3, 4, 1))
    network.save("esn.pt", include_states=True)
    content = torch.load("esn.pt", weights_only=False)
    content["metadata"] |= {"version": "1.1", "best_loss": 0.25}
    torch.save(content, "esn.pt")
    shown = runs("show", "esn.pt").out
    assert "what  an echo state network: 'state_dict' in a file of torch.save" in shown.splitlines()
    assert "  leak_rate=0.5," in lines_of(shown, "runner.models.esn.ESNModel(", ")")
    assert lines_of(shown, "metadata")[2:] == ["version: 1.1", "best_loss: 0.25"]
    assert "  reservoir: tensor of torch.float32, (3, 20)" in lines_of(shown, "beside the weights")
    assert 'load  runner.load("esn.pt")' in shown
    told = json.loads(runs("show", "esn.pt", "--json").out)
    assert (told["kind"], told["model"], told["door"]) == ("file", "runner.models.esn.ESNModel", None)
    assert told["arguments"]["leak_rate"] == "0.5"
    assert told["metadata"]["best_loss"] == 0.25
    assert {"name": "_modules_dict.output.bias", "dtype": "float32", "shape": [1], "bytes": 4} in told["tensors"]


def test_show_of_a_file_that_anybody_has_changed(runs: Callable[..., Done]) -> None:
    classic_esn(20, 1, 1).save("esn.pt")
    content = torch.load("esn.pt", weights_only=False)
    content["config"][3] = torch.ones(2)
    content["metadata"] = {"curve": [torch.ones(2), (1, 2)], 4: {"a": b"x"}}
    torch.save(content, "esn.pt")
    shown = runs("show", "esn.pt").out
    assert "  3='tensor of torch.float32, (2,)'," in shown.splitlines()
    assert lines_of(shown, "metadata")[1:] == [
        "curve: ['tensor of torch.float32, (2,)', '<tuple>']",
        "4:",
        "  a: <bytes>",
    ]
    assert json.loads(runs("show", "esn.pt", "--json").out)["metadata"]["4"] == {"a": "<bytes>"}
    content["config"]["again"] = content["config"]
    torch.save(content, "esn.pt")
    assert runs("show", "esn.pt") == Done(
        2, "esn.pt: tells of its model something nested deeper than 200 levels; do not use it"
    )


def test_show_of_weights_alone_says_what_to_do_with_them(runs: Callable[..., Done]) -> None:
    content = {"epoch": 3, "model_state_dict": {"a": torch.ones(2)}, "loss": 0.5, "optimizer": {"state": [0] * 30}}
    torch.save(content, "tutorial.pt")
    shown = runs("show", "tutorial.pt").out
    assert "what  weights alone: 'model_state_dict' in a file of torch.save" in shown.splitlines()
    assert lines_of(shown, "beside the weights")[1:] == ["epoch: 3", "loss: 0.5", "optimizer: 30 values"]
    assert "load  make the model yourself; a run begins with these weights by init_from=tutorial.pt" in shown
    assert json.loads(runs("show", "tutorial.pt", "--json").out)["load"] is None


def test_json_of_a_door_s_file_is_that_of_a_checkpoint_and_more(nets: Any, runs: Callable[..., Done]) -> None:
    nets.Net(4, schedule=lambda step: step).save("net.pt")
    told = json.loads(runs("show", "net.pt", "--json").out)
    assert (told["kind"], told["door"], told["version"], told["model"]) == (
        *("checkpoint", "save_load"),
        *("1.2", "filenets.Net"),
    )
    assert told["arguments"]["sizes"] == "(8, 8)"
    assert told["missing"] == {"schedule": "is a lambda, which has no name that it can be imported by"}
    assert told["config"]["model"]["sizes"] == {"$": "tuple", "items": [8, 8]}
    assert told["sources"] == ["source.filenets.py"]
    assert [one["name"] for one in told["tensors"]][:2] == ["body.0.weight", "body.0.bias"]
    assert told["run"] and told["files"]


def test_show_prints_the_stored_source(nets: Any, runs: Callable[..., Done]) -> None:
    nets.Net(4).save("net.pt")
    assert runs("show", "net.pt", "--source").out == Path("filenets.py").read_text()
    Path("filenets.py").unlink()
    assert "class Net(nn.Module):" in runs("show", "net.pt", "--source").out


def test_several_sources_are_told_apart_and_cannot_steer_a_terminal(
    runs: Callable[..., Done], capsys: pytest.CaptureFixture[str]
) -> None:
    text = b"b = '\x1b[2J\xff'\n\tpass\n"
    plain_file(Path("net.zip"), {}, **{"source.a.py": b"a = 1\n", "source.b.c.py": text})
    piped = runs("show", "net.zip", "--source").out
    assert piped == f"# ---- a.py ----\na = 1\n# ---- b.c.py ----\n{text.decode(errors='replace')}"
    show_source(runner.Checkpoint.open("net.zip"), terminal=True)
    shown = "# ---- a.py ----\na = 1\n# ---- b.c.py ----\nb = '\\x1b[2J\ufffd'\n        pass\n"
    assert capsys.readouterr().out == shown


def test_a_file_without_a_source_says_so(runs: Callable[..., Done]) -> None:
    plain_file(Path("net.zip"), {})
    assert runs("show", "net.zip", "--source") == Done(
        2, "net.zip: keeps no source of its model; a class of torch's or of this program's has none of one's own"
    )


def test_a_file_without_the_source_of_a_class_of_one_s_own_says_which(runs: Callable[..., Done]) -> None:
    plain_file(Path("net.zip"), {"model": {"_target_": "__main__.Net"}})
    assert runs("show", "net.zip", "--source") == Done(
        2,
        "net.zip: keeps no source of its model; that of __main__.Net was left out when it was saved, or stands in no "
        "file of its own",
    )


def test_the_source_of_a_run_s_model_is_where_the_run_keeps_it(runs: Callable[..., Done]) -> None:
    Path("shownnets.py").write_text("from runner.models.mlp import MLP\nclass Net(MLP): ...\n")
    short = ["runtime.device=cpu", "data.batch_size=512", "trainer.max_epochs=1", "hydra.run.dir=here"]
    runner.run([*short, "model._target_=shownnets.Net"])
    done = runs("show", "here", "--source")
    kept = Path("here/code/001/source").absolute()
    assert done == Done(
        2, f"here/checkpoints/step-000000003: keeps no source of its model; that of its run is in {kept}"
    )
    assert (kept / "shownnets.py").exists()


def test_show_imports_no_torch_for_a_door_s_file(nets: Any) -> None:
    nets.Net(4).save("net.pt")
    code = (
        "import sys\n"
        "from runner.cli.runs import app\n"
        "app(['show', 'net.pt'], standalone_mode=False)\n"
        "app(['show', 'net.pt', '--source'], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules or 'filenets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


def test_show_of_a_part_of_a_save_says_that_the_weights_are_elsewhere(runs: Callable[..., Done]) -> None:
    documents = documents_for({"door": "here", "model": {"_target_": "torch.nn.ReLU"}})
    save_file(Path("a.optimizer.pth"), {"optimizer": {"lr": 0.1}}, documents=documents, facts={})
    shown = runs("show", "a.optimizer.pth").out.splitlines()
    assert "what     saved by here, without the model's weights" in shown
    assert "load  the file that holds the weights; this one belongs to it" in shown
    assert json.loads(runs("show", "a.optimizer.pth", "--json").out)["load"] is None


# ---- verify ----


def test_verify_checks_every_byte_of_an_echo_state_network(runs: Callable[..., Done]) -> None:
    classic_esn(20, 1, 1).save("esn.pt")
    assert runs("verify", "esn.pt") == Done(0, "whole    esn.pt\n1 file, none damaged\n")
    with zipfile.ZipFile("esn.pt") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    raw = bytearray(Path("esn.pt").read_bytes())
    raw[largest.header_offset + 30 + len(largest.filename) + 900] ^= 1
    Path("esn.pt").write_bytes(raw)
    damaged = runs("verify", "esn.pt")
    assert damaged.code == 1
    assert damaged.out.startswith("DAMAGED  esn.pt\n         is damaged or cut short (Bad CRC-32 for file ")
    assert damaged.out.endswith("\n1 file, 1 damaged\n")


def test_verify_of_a_door_s_file(nets: Any, runs: Callable[..., Done]) -> None:
    nets.Net(4).save("net.pt")
    assert runs("verify", "net.pt") == Done(0, "whole    net.pt\n1 checkpoint, none damaged\n")
    raw = bytearray(Path("net.pt").read_bytes())
    raw[raw.index(b"class Net")] ^= 1
    Path("net.pt").write_bytes(raw)
    damaged = runs("verify", "net.pt")
    assert damaged.code == 1
    assert "net.pt/source.filenets.py: is damaged" in damaged.out


def test_verify_says_where_nothing_can_be_checked(runs: Callable[..., Done]) -> None:
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.ones(2)}, "a.safetensors")
    torch.save({"a": torch.ones(2)}, "old.pt", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "old.pt"):
        assert runs("verify", name) == Done(
            0,
            f"readable  {name}\n         its format has no checksums: 1 tensors were read, and may be others\n"
            "1 file, none damaged\n",
        )


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps({"a": [1, 2]}), b"PK\x03\x04" + b"\0" * 99])
def test_verify_of_what_is_no_model_says_so(content: bytes, runs: Callable[..., Done]) -> None:
    Path("x.pt").write_bytes(content)
    done = runs("verify", "x.pt")
    assert done.code == 1
    verdict, last = ("DAMAGED", "damaged") if content.startswith(b"PK") else ("UNKNOWN", "of no known format")
    assert done.out.startswith(f"{verdict}  x.pt\n         ") and "x.pt: " not in done.out
    assert done.out.endswith(f", 1 {last}\n")


# ---- use ----


def test_predict_by_a_door_s_file(nets: Any, runs: Callable[..., Done]) -> None:
    net = nets.Net(4)
    net.save("net.pt")
    x = np.random.default_rng(0).random((10, 4), dtype=np.float32)
    np.save("x.npy", x)
    words = ("predict", "net.pt", "-i", "x.npy", "-o", "y.npy", "runtime.device=cpu", "runtime.threads=1")
    assert runs(*words) == Done(0, "predicted y.npy  float32 (10, 8)  raw weights of net.pt\n")
    with torch.inference_mode():
        assert np.allclose(np.load("y.npy"), net(torch.from_numpy(x)).numpy(), atol=1e-6)
    assert runs(*words[:5], "z.npy", "model.width=3") == Done(
        2,
        "net.pt: is of no run, so that model.width=3 has no place in it; only trainer.* and runtime.* can be set",
    )
    assert runs(*words[:5], "z.npy", "runtime.devise=cpu").out.endswith("did you mean 'runtime.device'?")
    assert not Path("z.npy").exists()


def test_predict_by_an_echo_state_network_takes_each_row_by_itself(runs: Callable[..., Done]) -> None:
    network = classic_esn(20, 1, 1)
    network.save("esn.pt")
    x = np.random.default_rng(0).random((5, 30, 1), dtype=np.float32)
    np.save("x.npy", x)
    words = ("predict", "esn.pt", "-i", "x.npy", "-o", "y.npy", "--batch-size", "2", "runtime.device=cpu")
    assert runs(*words).out == "predicted y.npy  float32 (5, 30, 1)  raw weights of esn.pt\n"
    for row, out in zip(x, np.load("y.npy"), strict=True):
        network.reset_reservoirs()
        with torch.inference_mode():
            # Rounded otherwise in another batch size.
            assert np.allclose(network(torch.from_numpy(row[None])).numpy(), out[None], atol=1e-5)


def test_predict_says_what_is_missing(nets: Any, runs: Callable[..., Done]) -> None:
    np.save("x.npy", np.ones((2, 4), np.float32))
    nets.Net(4, schedule=lambda step: step).save("net.pt")
    torch.save(nets.Net(4).state_dict(), "weights.pt")
    first = runs("predict", "net.pt", "-i", "x.npy", "-o", "y.npy").out.splitlines()[0]
    assert first.startswith("net.pt: Net(schedule=...) is a lambda, ")
    assert runs("predict", "weights.pt", "-i", "x.npy", "-o", "y.npy") == Done(
        2, "weights.pt: does not tell how its model is made; make the model yourself, and load the weights into it"
    )


def test_evaluate_says_what_such_a_file_lacks(nets: Any, runs: Callable[..., Done]) -> None:
    nets.Net(4).save("net.pt")
    classic_esn(20, 1, 1).save("esn.pt")
    assert runs("evaluate", "net.pt") == Done(
        2,
        "net.pt: was saved by save_load, which keeps no data and no objective to measure it by; runs predict gives its "
        "outputs, and runner.load the model",
    )
    assert runs("evaluate", "esn.pt") == Done(
        2,
        "esn.pt: holds weights, and no data and no objective to measure them by; runs predict gives the outputs of a "
        "model that its file tells of, and runner.load the model",
    )


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_export_writes_the_weights_of_such_files(name: str, nets: Any, runs: Callable[..., Done]) -> None:
    from runner.checkpoint.interop import read_weights

    net, network = nets.Net(4), classic_esn(20, 1, 1)
    net.save("net.pt")
    network.save("esn.pt")
    for source, model in (("net.pt", net), ("esn.pt", network)):
        assert runs("export", source, name).code == 0
        tensors = read_weights(Path(name)).tensors
        assert tensors.keys() == model.state_dict().keys()
        assert all(torch.equal(value, tensors[key]) for key, value in model.state_dict().items())
        Path(name).unlink()


def test_diff_reads_arguments_as_they_are_typed(nets: Any, runs: Callable[..., Done]) -> None:
    torch.manual_seed(0)
    nets.Net(4, scale=torch.ones(1)).save("a.pt")
    torch.manual_seed(0)
    nets.Net(4, scale=torch.zeros(1), schedule=lambda step: step).save("b.pt")
    assert runs("diff", "a.pt", "a.pt") == Done(0, "A  a.pt\nB  a.pt\n\nequal, bit for bit: 4 tensors\n")
    done = runs("diff", "a.pt", "b.pt")
    assert done.code == 1
    rows = {line.split()[0]: line for line in done.out.splitlines() if line.startswith("model.")}
    assert rows.keys() == {"model.scale", "model.schedule"}
    assert rows["model.scale"].count("<tensor of float32, (1,), #") == 2
    assert rows["model.schedule"].split(maxsplit=2)[1:] == [
        "None",
        "(is a lambda, which has no name that it can be imported by)",
    ]


def test_diff_of_a_file_and_a_run_compares_the_values_themselves(runs: Callable[..., Done]) -> None:
    model = ["model.hidden=[32]", "model.activation=relu"]
    runner.run([*model, "data.batch_size=512", "trainer.max_epochs=1", "hydra.run.dir=here"])
    node = runner.Checkpoint.open("here").config["model"]
    plain_file(Path("net.zip"), {"model": node})
    assert [row for row in runs("diff", "net.zip", "here").out.splitlines() if row.startswith("model.h")] == []
    plain_file(Path("net.zip"), {"model": {**node, "hidden": {"$": "tuple", "items": [32]}}})
    (row,) = (row for row in runs("diff", "net.zip", "here").out.splitlines() if row.startswith("model.hidden"))
    assert row.split() == ["model.hidden", "(32,)", "[32]"]


def test_diff_has_one_line_for_a_history(runs: Callable[..., Done]) -> None:
    rows = [{"epoch": float(epoch), "loss": 1.0 / (1 + epoch)} for epoch in range(4)]
    for name, history in (("a.zip", rows[:2]), ("b.zip", [{**rows[0], "loss": 7.0}, *rows[1:]])):
        documents = documents_for({"door": "here", "model": {"_target_": "torch.nn.ReLU"}})
        save_file(Path(name), {"model": {}, "handler": {"history": history}}, documents=documents, facts={})
    out = runs("diff", "a.zip", "b.zip").out.splitlines()
    assert [line.split(maxsplit=1) for line in out if line.startswith("handler")] == [
        ["handler.history", "1 other value  5 other values"]
    ]
    assert out[-1] == "different: 1 in state"
    assert len(json.loads(runs("diff", "--json", "a.zip", "b.zip").out)["state"]) == 5


def test_diff_compares_files_of_any_kind(nets: Any, runs: Callable[..., Done]) -> None:
    net = nets.Net(4)
    net.save("net.pt")
    torch.save(net.state_dict(), "weights.pt")
    torch.save({**net.state_dict(), "body.0.bias": torch.zeros(8)}, "other.pt")
    assert runs("diff", "weights.pt", "weights.pt").out.endswith("\nequal, bit for bit: 4 tensors\n")
    assert runs("diff", "weights.pt", "other.pt").out.endswith("\ndifferent: 1 of 4 tensors\n")
    assert runs("diff", "net.pt", "weights.pt").out.endswith("\ndifferent: 3 in config\n")


def test_ls_of_a_file_says_how_to_look_at_it(nets: Any, runs: Callable[..., Done]) -> None:
    nets.Net(4).save("net.pt")
    assert runs("ls", "net.pt") == Done(
        2, "net.pt: is a file, and no directory of runs; runs show net.pt shows what it is"
    )
