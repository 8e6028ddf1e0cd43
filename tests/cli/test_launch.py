"""The command `runner`, in processes of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.cli import launch as launcher
from runner.config.places import conf_directory

Launch = Callable[..., "subprocess.CompletedProcess[str]"]


def in_process(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = launcher.launch(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trainer.epoch=5"], "runner: trainer.epoch=5: no key 'trainer.epoch'; did you mean 'trainer.max_epochs'?\n"),
        (["+trainer.epoch=5"], "runner: trainer.epoch: no such key; did you mean 'trainer.max_epochs'?\n"),
        (["--cfg=job", "debug=fst"], "runner: debug=fst: debug has no such option; did you mean 'fast'?\n"),
        (["--cfg", "job", "modle=cnn"], "runner: modle=cnn: no group 'modle'; did you mean 'model=cnn'?\n"),
        (["seed=0,x", "-m"], "runner: seed is 'x'; wanted a whole number from 0, or null to have one drawn\n"),
        (
            ["optimizer.lr=interval(0.1,0.2)", "-m"],
            "runner: BasicSweeper does not support sweep type : INTERVAL_SWEEP; "
            "sweep in another way, or choose another hydra/sweeper\n",
        ),
        (["--foo", "-m"], "runner: --foo: no such flag; did you mean '--info'?\n"),
        (["trainer.max_epochs=0"], "runner: trainer.max_epochs is 0; wanted a number of at least 1, or null\n"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(argv, capsys) == (2, "", message)
    assert list(Path.cwd().iterdir()) == []


def test_the_whole_trace_comes_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match=r"no key 'trainer.epoch'"):
        launcher.launch(["trainer.epoch=5"])
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


def test_help_names_every_group_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    Path("conf/model").mkdir(parents=True)
    Path("conf/model/mynet.yaml").write_text("{}")
    code, text, errors = in_process(["--help"], capsys)
    assert (code, errors) == (0, "")
    for directory in conf_directory().iterdir():
        if directory.is_dir():
            assert f"\n  {directory.name} " in text
            assert all(file.stem in text for file in directory.glob("*.yaml"))
    assert "mynet" in text
    for word in ("+resume=", "+allow=", "+reset=", "+trust=", "-m ", "--cfg job", "--info defaults", "README"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 120


def test_what_only_shows_imports_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys, runner.cli.launch as launch\n"
        "code = launch.launch(sys.argv[1:])\n"
        "heavy = {'torch', 'rich', 'typer', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "COMP_LINE": "runner optimizer=",
    }
    for argv, printed in (
        (["--help"], "runner [OVERRIDE ...]"),
        (["--cfg", "job", "seed=7"], "seed: 7"),
        (["seed=7", "--info", "defaults"], "optimizer/adamw"),
        (["--shell-completion", "query=bash"], "optimizer=sgd"),
        (["--shell-completion", "install=bash"], "complete -o nospace"),
        (["--hydra-help"], "Hydra"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *argv],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert printed in done.stdout
    assert list(tmp_path.iterdir()) == []


NETS = """\
import os
import torch

class Net(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        print("built with", os.environ.get("FROM_HYDRA"))

    def forward(self, x):
        return self.layer(x.flatten(1))
"""
SHORT = ["debug=fast", "runtime.device=cpu", "runtime.progress=false"]


@pytest.mark.launch
def test_a_users_own_model_is_launched_and_gone_on_with(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "mynets.py").write_text(NETS)
    own = ["model._target_=mynets.Net", "+model.width=3"]
    first = launch([*own, *SHORT, "hydra.run.dir=run", "+hydra.job.env_set.FROM_HYDRA=yes"], tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    assert "mynets.Net is built without the option's in_features, hidden, " in first.stdout
    assert "built with yes" in first.stdout
    again = launch(["trainer.max_steps=7", "+resume=run"], tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "built with None" in again.stdout  # Hydra's own settings are not repeated.
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.startswith("step"))
    assert names[-1] == "step-000000007"
    attempts = tmp_path / "run" / ".hydra" / "attempts"
    assert "trainer.max_steps=7" in (attempts / "002" / "overrides.yaml").read_text()
    assert "trainer.max_steps=7" not in (attempts / "001" / "overrides.yaml").read_text()
    shown = launch(["--cfg", "job", "+resume=run@step=5", "--package=trainer"], tmp_path)
    assert shown.returncode == 0 and "max_steps: 5" in shown.stdout
    refused = launch(["+resume=run", "model.width=4"], tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("runner: model.width was 3 and is 4 now\n")
    assert "type +allow=[model]" in refused.stderr and len(refused.stderr.splitlines()) == 2


@pytest.mark.launch
def test_a_sweep_gives_every_job_a_directory_and_sweepers_a_value(launch: Launch, tmp_path: Path) -> None:
    secret = "geheim-4711"
    done = launch(
        ["optimizer.lr=1e-2,1e-3", "-m", *SHORT, "hydra.sweep.dir=sweep", f"+hydra.job.env_set.MY_TOKEN={secret}"],
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for job, lr in (("0", "0.01"), ("1", "0.001")):
        directory = tmp_path / "sweep" / job
        assert f"optimizer.lr={lr}" in (directory / ".hydra" / "overrides.yaml").read_text()
        assert (directory / "checkpoints").is_dir()
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


def test_completion_is_installed_for_the_command(command: Callable[[str], list[str]], launch: Launch) -> None:
    done = launch(["--shell-completion", "install=bash"], Path.cwd())
    assert done.returncode == 0
    if shutil.which(command("runner")[0]) and len(command("runner")) == 1:
        assert "hydra_bash_completion runner" in done.stdout
