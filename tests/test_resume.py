"""A run that was killed and resumed ends byte for byte where the uninterrupted run ends: real processes, real kills."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from runner.metrics_file import read_metrics

pytestmark = pytest.mark.launch

KILLER = '''
import os, signal
import torch
from runner.records import Evaluation, Saved, Step

class Killer:
    """Ends this process when a record of `kind` at `step` is seen, but only once: a file marks that it has been.

    With `fsync`, `training` and `evaluating`: at the call number `step` of that, of the loss in the last two.
    """

    def __init__(self, kind, step, number):
        self.kind, self.step, self.number = kind, step, number
        if kind == "fsync" and not os.path.exists("killed"):
            self.calls, self.fsync = 0, os.fsync
            os.fsync = self.count
        if kind in ("training", "evaluating") and not os.path.exists("killed"):
            self.calls = 0
            torch.nn.modules.module.register_module_forward_pre_hook(self.count_losses)

    def count_losses(self, module, args):
        if isinstance(module, torch.nn.CrossEntropyLoss) and torch.is_grad_enabled() == (self.kind == "training"):
            self.calls += 1
            if self.calls == self.step:
                self.kill()

    def count(self, fd):
        self.calls += 1
        if self.calls == self.step:
            self.kill()
        return self.fsync(fd)

    def observe(self, record):
        kinds = {"step": Step, "evaluation": Evaluation, "saved": Saved}
        if self.kind in kinds and isinstance(record, kinds[self.kind]) and record.progress.step == self.step:
            if not os.path.exists("killed"):
                self.kill()

    def kill(self):
        open("killed", "w").close()
        os.kill(os.getpid(), self.number)

    def close(self):
        pass
'''

# Dropout, batch norm, random augmentation, accumulation with a shorter last window, averaged weights, clipping.
EXPERIMENT = [
    "experiment=digits_cnn",
    "data.batch_size=128",
    "trainer.max_epochs=3",
    "trainer.accumulate=3",
    "trainer.ema_decay=0.9",
    "trainer.evaluate.weights=averaged",
    "trainer.clip_norm=1.0",
    "checkpoint.save.every_steps=3",
    "checkpoint.keep.last=null",
    "checkpoint.keep.best=null",
    "trainer.log_every=1",
]


def only_run(directory: Path) -> Path:
    (run,) = (path.parent for path in directory.glob("outputs/*/*/run.json"))
    return run


def tensor_files(checkpoint: Path) -> dict[str, bytes]:
    names = ("model.safetensors", "optimizer.safetensors", "extra.safetensors", "state.json")
    return {name: (checkpoint / name).read_bytes() for name in names}


def succeeded(done: CompletedProcess[str]) -> CompletedProcess[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def uninterrupted(launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted")
    succeeded(launch(EXPERIMENT, directory))
    return only_run(directory)


def killed_at(launch, directory: Path, kind: str, step: int, number: int, more: Sequence[str] = ()):
    (directory / "killer.py").write_text(KILLER)
    killer = [
        "+observers.killer._target_=killer.Killer",
        f"+observers.killer.kind={kind}",
        f"+observers.killer.step={step}",
        f"+observers.killer.number={int(number)}",
    ]
    return launch([*EXPERIMENT, *killer, *more], directory)


# An epoch has 10 batches, so 4 steps, the last of one batch only. Saved are steps 3, 4, 6, 8, 9 and 12.
@pytest.mark.parametrize(
    ("kind", "step", "workers", "asynchronous"),
    [
        ("step", 2, 0, True),  # Before anything was saved: the run begins anew, in its own directory.
        ("training", 1, 0, True),  # In the first step.
        ("training", 15, 2, True),  # In an accumulation window, between two of its batches.
        ("evaluating", 2, 0, True),  # During the second evaluation.
        ("step", 7, 0, True),  # In the middle of an epoch, and perhaps of a save in the background.
        ("step", 7, 2, False),
        ("step", 8, 0, True),  # The last batch of an epoch, before it is evaluated.
        ("evaluation", 8, 2, True),  # Evaluated, not yet saved.
        ("saved", 8, 0, False),  # Between two epochs.
        ("fsync", 8, 0, True),  # In the middle of a save.
        ("fsync", 13, 2, False),
    ],
)
def test_killed_and_resumed_run_ends_in_the_bytes_of_the_uninterrupted_one(
    launch, tmp_path: Path, uninterrupted: Path, kind: str, step: int, workers: int, asynchronous: bool
) -> None:
    more = [f"runtime.workers={workers}", f"checkpoint.asynchronous={str(asynchronous).lower()}"]
    done = killed_at(launch, tmp_path, kind, step, signal.SIGKILL, more)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    # The other number of workers, because it must not matter.
    succeeded(launch(["+resume=latest", f"runtime.workers={2 - workers}"], tmp_path))
    run = only_run(tmp_path)
    for name in ("step-000000009", "step-000000012"):
        assert tensor_files(run / "checkpoints" / name) == tensor_files(uninterrupted / "checkpoints" / name)
    assert losses(run) == losses(uninterrupted)
    assert scores(run) == scores(uninterrupted)


OPTIMIZERS = {
    "adamw": [],
    "sgd": ["optimizer=sgd", "optimizer.nesterov=true"],
    "adagrad": ["optimizer=sgd", "optimizer._target_=torch.optim.Adagrad"],
    "groups": ['optimizer.groups=[{match:"*.bias",weight_decay:0,lr:0.01}]', "optimizer.fused=false"],
}
SCHEDULERS = {
    "cosine": [],
    "plateau": ["scheduler=plateau", "scheduler.patience=0"],
    "one_cycle": ["scheduler=one_cycle"],
    "step": ["scheduler=step", "scheduler.every_epochs=1", "trainer.schedule=epoch"],
}
PAIRS = [
    # kind, step, optimizer, scheduler, workers and those of the resume, precision, asynchronous
    ("training", 14, "groups", "plateau", (0, 4), "fp16", True),
    ("evaluating", 3, "adagrad", "one_cycle", (1, 0), "bf16", False),
    ("step", 7, "sgd", "step", (4, 1), "fp32", True),
    ("saved", 8, "adamw", "plateau", (1, 4), "bf16", True),
    ("fsync", 11, "groups", "one_cycle", (4, 0), "fp32", False),
    ("training", 22, "sgd", "cosine", (1, 0), "bf16", False),
    ("evaluating", 2, "groups", "step", (0, 1), "fp32", True),
    ("step", 8, "adagrad", "plateau", (4, 4), "fp16", False),
    ("saved", 6, "sgd", "one_cycle", (0, 1), "fp16", False),
    ("fsync", 17, "adagrad", "cosine", (0, 4), "bf16", True),
    ("step", 3, "adamw", "one_cycle", (1, 1), "fp32", True),
    ("evaluation", 8, "sgd", "plateau", (4, 0), "fp32", True),
    ("training", 5, "adagrad", "step", (1, 4), "fp32", True),
    ("fsync", 9, "adamw", "step", (0, 0), "fp16", True),
]
"""A sample in which most pairs of values meet; the whole of it takes minutes."""


@pytest.mark.parametrize(
    ("kind", "step", "optimizer", "scheduler", "workers", "precision", "asynchronous"),
    [*PAIRS[:2], *(pytest.param(*row, marks=pytest.mark.long) for row in PAIRS[2:])],
)
def test_whatever_is_trained_a_killed_run_ends_in_the_bytes_of_the_uninterrupted_one(
    launch,
    tmp_path: Path,
    kind: str,
    step: int,
    optimizer: str,
    scheduler: str,
    workers: tuple[int, int],
    precision: str,
    asynchronous: bool,
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    more = [
        *OPTIMIZERS[optimizer],
        *SCHEDULERS[scheduler],
        f"trainer.precision={precision}",
        "trainer.nonfinite=skip",
        f"checkpoint.asynchronous={str(asynchronous).lower()}",
    ]
    if optimizer == "adagrad":
        more += ["~optimizer.momentum", "~optimizer.nesterov"]
    succeeded(launch([*EXPERIMENT, *more], whole))
    done = killed_at(launch, broken, kind, step, signal.SIGKILL, [*more, f"runtime.workers={workers[0]}"])
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    succeeded(launch(["+resume=latest", f"runtime.workers={workers[1]}"], broken))
    runs = only_run(whole), only_run(broken)
    last = sorted(path.name for path in (runs[0] / "checkpoints").glob("step-*"))[-1]
    ends = [tensor_files(run / "checkpoints" / last) for run in runs]
    assert ends[0] == ends[1]
    assert losses(runs[0]) == losses(runs[1])
    assert scores(runs[0]) == scores(runs[1])


LOUD = '''
from runner.models.mlp import MLP

class Loud(MLP):
    """So loud that the gradients are beyond the range of half precision until the scaler has come down."""

    def forward(self, x):
        return super().forward(x * 1000)
'''


def test_killed_after_steps_that_the_scaler_left_out_a_run_ends_in_the_bytes_of_the_uninterrupted_one(
    launch, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    loud = ["model._target_=loud.Loud", "trainer.precision=fp16", "trainer.nonfinite=skip", "trainer.log_every=1"]
    more = ["data.batch_size=128", "trainer.max_epochs=2", "checkpoint.save.every_steps=2", "checkpoint.keep.last=null"]
    for directory in (whole, broken):
        directory.mkdir()
        (directory / "loud.py").write_text(LOUD)
    succeeded(launch([*loud, *more], whole))
    (broken / "killer.py").write_text(KILLER)
    killer = [f"+observers.killer.{key}" for key in ("_target_=killer.Killer", "kind=step", "step=3", "number=9")]
    killed = launch([*loud, *more, *killer], broken)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    succeeded(launch(["+resume=latest"], broken))
    skipped = [record for record in read_metrics(only_run(whole) / "metrics.jsonl") if record.get("skipped")]
    assert skipped and skipped[0]["step"] == 0
    last = sorted(path.name for path in (only_run(whole) / "checkpoints").glob("step-*"))[-1]
    ends = [tensor_files(only_run(directory) / "checkpoints" / last) for directory in (whole, broken)]
    assert ends[0] == ends[1]
    assert losses(only_run(whole)) == losses(only_run(broken))


def losses(run: Path) -> list[tuple[int, float, float]]:
    return [(r["step"], r["loss"], r["lr"]) for r in read_metrics(run / "metrics.jsonl") if r["event"] == "step"]


def scores(run: Path) -> list[tuple[int, str, float]]:
    found = [record for record in read_metrics(run / "metrics.jsonl") if record["event"] == "evaluation"]
    return [(r["step"], r["split"], r.get("val_loss", r.get("test_loss"))) for r in found]


@pytest.mark.parametrize(("number", "kind", "step"), [(signal.SIGINT, "step", 5), (signal.SIGTERM, "evaluation", 8)])
def test_a_signal_saves_says_how_to_go_on_and_leaves_with_its_code(
    launch, tmp_path: Path, uninterrupted: Path, number: signal.Signals, kind: str, step: int
) -> None:
    done = killed_at(launch, tmp_path, kind, step, number)
    run = only_run(tmp_path)
    assert done.returncode == 128 + number, done.stdout + done.stderr
    assert f"stopped ({number.name})" in done.stdout
    command = f"runner +resume={run.relative_to(tmp_path)}"
    assert command in done.stdout
    assert "signal" in json.loads((run / "checkpoints" / f"step-{step:09d}" / "manifest.json").read_text())["reasons"]
    succeeded(launch(command.split()[1:], tmp_path))
    last = run / "checkpoints" / "step-000000012"
    assert tensor_files(last) == tensor_files(uninterrupted / "checkpoints" / "step-000000012")
    attempts = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
    ends = [(line["outcome"], line["reason"]) for line in attempts if line["event"] == "end"]
    assert ends == [("stopped", number.name), ("finished", "max_epochs")]


def test_a_damaged_checkpoint_is_named_and_the_newest_good_one_is_used(
    launch, tmp_path: Path, uninterrupted: Path
) -> None:
    done = killed_at(launch, tmp_path, "step", 7, signal.SIGKILL, ["checkpoint.asynchronous=false"])
    assert done.returncode == -signal.SIGKILL
    run = only_run(tmp_path)
    damaged = run / "checkpoints" / "step-000000006" / "model.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-100] ^= 1
    damaged.write_bytes(data)
    resumed = succeeded(launch(["+resume=latest"], tmp_path))
    assert "step-000000006" in resumed.stdout and "model.safetensors" in resumed.stdout
    assert "resumed from" in resumed.stdout and "step-000000004" in resumed.stdout
    last = run / "checkpoints" / "step-000000012"
    assert tensor_files(last) == tensor_files(uninterrupted / "checkpoints" / "step-000000012")


def test_a_finished_run_says_so_and_goes_on_only_if_given_more_to_do(launch, tmp_path: Path) -> None:
    short = ["trainer.max_epochs=1", "data.batch_size=256"]
    succeeded(launch(short, tmp_path))
    run = only_run(tmp_path)
    before = {
        path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file() and path.name != "runner.log"
    }
    again = succeeded(launch(["+resume=latest"], tmp_path))
    assert "finished (max_epochs) at step 5; nothing to do" in again.stdout
    assert {path: path.read_bytes() for path in before} == before
    more = succeeded(launch(["+resume=latest", "trainer.max_epochs=2", "optimizer.weight_decay=0.5"], tmp_path))
    assert "trainer.max_epochs" in more.stdout and "harmless" in more.stdout
    assert "optimizer.weight_decay" in more.stdout and "course" in more.stdout
    state = json.loads((run / "checkpoints" / "step-000000010" / "state.json").read_text())
    assert '"weight_decay": 0.5' in json.dumps(state)


def test_a_run_at_work_cannot_be_resumed_by_a_second_process(launch, command, tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "slow.py").write_text(
        "import sys\n"
        "class Waits:\n"
        "    def observe(self, record):\n"
        "        if type(record).__name__ == 'Epoch':\n"
        "            print('waiting', flush=True); sys.stdin.readline()\n"
        "    def close(self): pass\n"
    )
    first = subprocess.Popen(
        [*command("runner"), "trainer.max_epochs=2", "data.batch_size=256", "+observers.waits._target_=slow.Waits"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    while "waiting" not in (line := first.stdout.readline()):
        assert line, "the first process ended before its first epoch"
    second = launch(["+resume=latest"], tmp_path)
    assert second.returncode == 2
    assert f"process {first.pid}" in second.stderr
    first.communicate("\n\n", timeout=60)
    assert first.returncode == 0
