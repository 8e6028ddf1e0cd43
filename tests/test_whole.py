"""Everything together, through the command, in real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

import runner
from runner.checkpoint.handle import Checkpoint
from runner.metrics_file import read_metrics

pytestmark = pytest.mark.launch

SHORT = ("runtime.device=cpu", "data.batch_size=256", "trainer.max_epochs=2", "hydra.run.dir=here")
"""Ten steps in two epochs."""


def succeeded(done: CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def records(run: Path, event: str) -> list[dict[str, object]]:
    return [record for record in read_metrics(run / "metrics.jsonl") if record["event"] == event]


@pytest.mark.parametrize(
    ("debug", "step", "file"),
    [
        ("fast", 5, "checkpoints/step-000000005/manifest.json"),
        ("dry", 1, "checkpoints/step-000000001/manifest.json"),
        ("overfit", 200, "checkpoints/step-000000200/manifest.json"),
        ("profile", 20, "profile/001/trace.json"),
    ],
)
def test_debugging(launch, tmp_path: Path, debug: str, step: int, file: str) -> None:
    done = launch([f"debug={debug}", "model.dropout=0", "runtime.device=cpu", "hydra.run.dir=here"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"at step {step}, epoch" in done.stdout and "observer" not in done.stderr
    assert (tmp_path / "here" / file).stat().st_size > 0
    if debug == "overfit":
        losses = [record["loss"] for record in records(tmp_path / "here", "step")]
        assert losses[-1] < 0.1 < 1.0 < losses[0]


def test_a_language_model(launch, tmp_path: Path) -> None:
    small = [
        "model.width=16",
        "model.depth=1",
        "model.heads=2",
        "data.context=16",
        "trainer.limits.evaluation_batches=2",
    ]
    out = succeeded(
        launch(
            ["experiment=text_gpt", "trainer.max_steps=2", *small, "runtime.device=cpu", "hydra.run.dir=here"], tmp_path
        )
    )
    assert "finished (max_steps) at step 2" in out
    assert runner.load(tmp_path / "here")(torch.zeros(1, 16, dtype=torch.int64)).shape == (1, 16, 256)


OBSERVER = """
import json, threading
import torch

class Process:
    \"\"\"Notes what the process is like when a job begins.\"\"\"

    def __init__(self):
        state = {
            "deterministic": torch.get_deterministic_debug_mode(),
            "threads": sorted(thread.name for thread in threading.enumerate()),
            "random": torch.initial_seed(),
        }
        with open("jobs.jsonl", "a") as file:
            file.write(json.dumps(state) + "\\n")

    def observe(self, record): pass
    def close(self): pass
"""


def test_a_sweep_returns_the_best_values_and_leaves_the_process_alone(launch, tmp_path: Path) -> None:
    (tmp_path / "job_process.py").write_text(OBSERVER)
    (tmp_path / "watching.py").write_text(
        "import json\n"
        "from hydra.experimental.callback import Callback\n"
        "class Values(Callback):\n"
        "    def on_job_end(self, config, job_return, **rest):\n"
        "        with open('values.jsonl', 'a') as file:\n"
        "            file.write(json.dumps([list(job_return.overrides), job_return.return_value]) + '\\n')\n"
    )
    sweep = ["-m", "optimizer.lr=1e-2,1e-3", "seed=0,1", "hydra.sweep.dir=sweep"]
    watched = ["+observers.process._target_=job_process.Process", "+hydra.callbacks.values._target_=watching.Values"]
    options = ["runtime.device=cpu", "data.batch_size=256", "trainer.max_epochs=2"]
    succeeded(launch([*sweep, *watched, *options], tmp_path))
    values = {}
    for line in (tmp_path / "values.jsonl").read_text().splitlines():
        overrides, value = json.loads(line)
        values[tuple(sorted(one for one in overrides if one.startswith(("optimizer.lr", "seed"))))] = value
    assert len(values) == 4
    for job in range(4):
        run = tmp_path / "sweep" / str(job)
        best = min(record["val_loss"] for record in records(run, "evaluation") if record["split"] == "validation")
        config = Checkpoint.open(run).config
        assert values[f"optimizer.lr={config['optimizer']['lr']}", f"seed={config['seed']}"] == best
    jobs = [json.loads(line) for line in (tmp_path / "jobs.jsonl").read_text().splitlines()]
    assert [job["random"] for job in jobs] == [0, 1, 0, 1]
    assert all(job["threads"] == jobs[0]["threads"] for job in jobs)


NETS = """
import os, signal
import torch

class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 10))

    def forward(self, x):
        return self.layers(x.flatten(1))

class Killer:
    def observe(self, record):
        if type(record).__name__ == "Saved" and record.progress.step == 5 and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    def close(self): pass
"""


def test_ones_own_model_killed_resumed_and_loaded_from_elsewhere(
    launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "mynets.py").write_text(NETS)
    own = ["model._target_=mynets.Net", "+model.width=8", "+observers.killer._target_=mynets.Killer"]
    assert launch([*own, *SHORT], project).returncode == -signal.SIGKILL
    out = succeeded(launch(["+resume=here"], project))
    assert "resumed from here/checkpoints/step-000000005" in out and "finished (max_epochs) at step 10" in out
    assert (project / "here" / "code" / "002" / "source" / "mynets.py").read_text() == NETS
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    load = (
        f"import sys; sys.path.append({str(project)!r}); import runner; print(runner.load({str(project / 'here')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", load], cwd=elsewhere, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Net(")


FULL = """
import os, resource

class Fills:
    \"\"\"Leaves so many bytes on the disk once a checkpoint of step 5 is there: by a large file, or by a limit.\"\"\"

    def __init__(self, ballast, leave):
        self.ballast, self.leave = ballast, leave

    def observe(self, record):
        if type(record).__name__ != "Saved" or record.progress.step != 5:
            return
        if self.ballast is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.leave, self.leave))
            return
        with open(self.ballast, "wb") as file:
            space = os.statvfs(self.ballast)
            os.posix_fallocate(file.fileno(), 0, max(1, space.f_bavail * space.f_frsize - self.leave))

    def close(self): pass
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory that can be filled, and where to put what fills it: `null` where no small disk may be mounted."""
    directory = tmp_path / "disk"
    directory.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(directory)]
    mounted = (
        shutil.which("mount") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )
    yield directory, str(directory / "ballast") if mounted else "null"
    if mounted:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.parametrize("leave", [65536, 0])
def test_a_full_disk_costs_nothing_that_was_saved_and_the_run_goes_on_afterwards(
    launch, tmp_path: Path, disk: tuple[Path, str], leave: int
) -> None:
    (tmp_path / "full.py").write_text(FULL)
    directory, ballast = disk
    run = directory / "run"
    fills = [
        "+observers.fills._target_=full.Fills",
        f"+observers.fills.ballast={ballast}",
        f"+observers.fills.leave={leave}",
    ]
    options = ["runtime.device=cpu", "data.batch_size=256", "trainer.max_epochs=2", f"hydra.run.dir={run}"]
    failed = launch([*options, *fills, "trainer.log_every=1"], tmp_path)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "Traceback" not in failed.stderr and "Traceback" not in failed.stdout
    assert "No space left on device" in failed.stderr or "File too large" in failed.stderr
    assert "failed at step" in failed.stdout and "runner +resume=disk/run\n" in failed.stdout
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000000005"]
    assert Checkpoint.open(run).verify() == []
    (directory / "ballast").unlink(missing_ok=True)
    out = launch([f"+resume={run}", "~observers.fills"], tmp_path)
    assert out.returncode == 0, out.stdout + out.stderr
    assert "finished (max_epochs) at step 10" in out.stdout
    assert Checkpoint.open(run).verify() == []
    assert [record["step"] for record in records(run, "step")] == list(range(1, 11))


def test_outputs_that_cannot_be_written_are_named(launch, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file in the way")
    done = launch(["runtime.device=cpu"], tmp_path)
    assert done.returncode == 2
    assert "the run directory cannot be made (Not a directory); type hydra.run.dir=DIRECTORY" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_data_file_that_cannot_be_read_is_named(launch, tmp_path: Path) -> None:
    (tmp_path / "torn.npz").write_bytes(b"PK torn")
    done = launch(["data.path=torn.npz", *SHORT], tmp_path)
    assert done.returncode in (1, 2)
    assert "torn.npz" in done.stderr and "Traceback" not in done.stderr
    absent = launch(["experiment=text_gpt", "data.path=absent.txt", "runtime.device=cpu"], tmp_path)
    assert absent.returncode in (1, 2)
    assert "absent.txt" in absent.stderr and "Traceback" not in absent.stderr


def without(package: str, directory: Path) -> dict[str, str]:
    """The environment of a Python in which `package` is not installed."""
    blocked = directory / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    return {"PYTHONPATH": os.pathsep.join([str(blocked), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


STREAM = """
import torch
from runner import Data

class Numbers(torch.utils.data.IterableDataset):
    def __iter__(self):
        for number in range(64):
            yield torch.full((64,), float(number)), number % 10

def numbers():
    return Data(Numbers())

def labelled():
    x = torch.arange(64 * 64).reshape(64, 64).float() / 4096
    return Data(torch.utils.data.TensorDataset(x, torch.arange(64) % 10))
"""


@pytest.mark.parametrize(("package", "extra"), [("tensorboard", "tensorboard"), ("torchdata", "iterable")])
def test_an_extra_that_is_not_installed_is_named_with_what_to_type(
    launch, tmp_path: Path, package: str, extra: str
) -> None:
    (tmp_path / "streams.py").write_text(STREAM)
    wants = {
        "tensorboard": ["observers=tensorboard"],
        "torchdata": ["data._target_=streams.numbers", "trainer.evaluate.every_epochs=null", "monitor=null",
                      "checkpoint.keep.best=null", "checkpoint.save.on_improvement=false", "scheduler=constant",
                      "data.shuffle=false"],
    }  # fmt: skip
    done = launch([*SHORT, *wants[package]], tmp_path, env=without(package, tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"pip install 'runner[{extra}]'" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "here").exists()


def test_data_without_a_validation_split_say_what_to_type_and_then_train(launch, tmp_path: Path) -> None:
    (tmp_path / "streams.py").write_text(STREAM)
    own = ["data._target_=streams.labelled", *SHORT]
    refused = launch(own, tmp_path)
    assert refused.returncode == 2 and not (tmp_path / "here").exists()
    typed = [line.partition("; set ")[2].partition(",")[0] for line in refused.stderr.splitlines() if "; set " in line]
    assert typed == ["trainer.evaluate.every_epochs=null", "monitor=null"]
    more = ["checkpoint.keep.best=null", "checkpoint.save.on_improvement=false"]
    done = launch([*own, *typed], tmp_path)
    if done.returncode == 2:
        assert all(word.partition("=")[0] in done.stderr for word in more)
        done = launch([*own, *typed, *more], tmp_path)
    assert "finished (max_epochs)" in succeeded(done)


OPTIONS = {
    "compiled": ["runtime.compile=true", "trainer.limits.train_batches=2"],
    "closure": [
        "optimizer._target_=torch.optim.LBFGS",
        "+optimizer.max_iter=3",
        "optimizer.lr=1.0",
        "trainer.limits.train_batches=2",
    ],
    "fp16": ["trainer.precision=fp16"],
    "bf16": ["trainer.precision=bf16", "trainer.ema_decay=0.9", "trainer.evaluate.weights=averaged"],
}


@pytest.mark.parametrize(
    "what",
    ["closure", "fp16", "bf16", *([pytest.param("compiled", marks=pytest.mark.long)] if shutil.which("c++") else [])],
)
def test_a_training_of_another_kind_ends_and_is_gone_on_with(launch, tmp_path: Path, what: str) -> None:
    done = launch([*OPTIONS[what], *SHORT, "trainer.max_epochs=1"], tmp_path, timeout=300)
    assert "finished (max_epochs)" in succeeded(done)
    assert "finished (max_epochs)" in succeeded(launch(["+resume=here", "trainer.max_epochs=2"], tmp_path, timeout=300))
    losses = [record["loss"] for record in records(tmp_path / "here", "epoch")]
    assert len(losses) == 2 and losses[1] < losses[0]
    names = set(runner.load(tmp_path / "here").state_dict())
    assert names == set(Checkpoint.open(tmp_path / "here").tensors())


def test_several_processes_are_refused_by_the_command(launch, tmp_path: Path) -> None:
    for words in ([], ["-m", "seed=0,1"]):
        done = launch(words, tmp_path, env={"WORLD_SIZE": "2", "RANK": "1"})
        assert done.returncode == 2
        assert done.stderr.startswith("runner: WORLD_SIZE is '2'") and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


FAILING = """
import torch

class Net(torch.nn.Linear):
    def forward(self, x):
        width = self.chosen  # There is no such attribute.
        return super().forward(x)
"""


def test_an_error_in_ones_own_model_is_shown_once_with_its_line(launch, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    own = ["model._target_=failing.Net", "model.in_features=64", "+model.out_features=10"]
    done = launch([*own, *SHORT], tmp_path)
    assert done.returncode == 1
    message = "AttributeError: 'Net' object has no attribute 'chosen'"
    for text in (done.stderr, (tmp_path / "here" / "runner.log").read_text()):
        assert text.count("Traceback (most recent call last)") == text.count(message) == 1
        assert text.count("width = self.chosen  # There is no such attribute.") == 1
    assert "failed at step 0; the log is here/runner.log" in done.stdout


def test_an_interrupt_before_the_training_leaves_without_a_trace(command, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\nopen('importing', 'w').close()\ntime.sleep(60)\n")
    words = [*command("runner"), "model._target_=slow.Net", "runtime.device=cpu"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "importing").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in errors + out
    assert not (tmp_path / "outputs").exists()
