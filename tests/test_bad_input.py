"""Whatever is wrong with what is resumed: the command says where, what is there, what was wanted and what to do.

A refused launch exits with 2 and leaves every byte of every file as it was. What can be gone on with all the same is
gone on with, which is said. Nothing ever begins anew in silence.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.checkpoint.files import CHUNK_BYTES, record_of
from runner.checkpoint.manifest import MANIFEST_NAME, read_manifest, to_bytes
from runner.cli.launch import launch as command
from runner.processes import this_process

SHORT = (
    "runtime.device=cpu",
    "data.batch_size=256",  # An epoch has 5 steps.
    "checkpoint.keep.last=null",
    "checkpoint.keep.best=null",
)
NOBODY = 65534

Refused = Callable[..., str]
WentOn = Callable[..., str]


@pytest.fixture(scope="module")
def trained() -> Iterator[Path]:
    """A run with checkpoints of steps 5 and 10, where everybody may look."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        runner.run([*SHORT, "trainer.max_epochs=2", f"hydra.run.dir={directory}/run"])
        yield Path(directory) / "run"


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, open to everybody, with a copy of the run in it."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(trained, Path(directory) / "run")
        Path(directory).chmod(0o777)
        monkeypatch.chdir(directory)
        monkeypatch.syspath_prepend(directory)
        yield Path(directory)


@pytest.fixture
def run(here: Path) -> Path:
    return here / "run"


def content(directory: Path) -> dict[str, bytes | None]:
    """Every byte below a directory."""
    paths = sorted(path for path in directory.rglob("*") if "__pycache__" not in path.parts)
    return {str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """`refused("+resume=run")` is what a launch says that is refused and changes nothing."""

    def refused(*argv: str) -> str:
        before = content(here)
        capsys.readouterr()
        code = command(argv)
        said = capsys.readouterr().err
        assert code == 2, said
        assert content(here) == before
        lines = [line for line in said.splitlines() if line.startswith("runner: ")]
        return "\n".join(line.removeprefix("runner: ") for line in lines).replace(f"{here}/", "")

    return refused


@pytest.fixture
def went_on(here: Path, capsys: pytest.CaptureFixture[str]) -> WentOn:
    """`went_on("+resume=run")` is what a launch says that goes on to its end, as one text."""

    def went_on(*argv: str) -> str:
        capsys.readouterr()
        code = command(argv)
        said = capsys.readouterr()
        assert code == 0, said.err
        return " ".join(f"{said.out}\n{said.err}".replace(f"{here}/", "").split())

    return went_on


def checkpoints(run: Path) -> list[Path]:
    """The newest first."""
    return sorted((run / "checkpoints").glob("step-*"), reverse=True)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def sealed(checkpoint: Path, **changes: Any) -> None:
    """Change the manifest, with the right checksum."""
    (checkpoint / MANIFEST_NAME).write_bytes(to_bytes(replace(read_manifest(checkpoint), **changes)))


def change_state(checkpoint: Path, how: Callable[[dict[str, Any]], None]) -> None:
    """Change state.json, with the right checksums."""
    values = json.loads((checkpoint / "state.json").read_text())
    how(values)
    data = json.dumps(values).encode()
    (checkpoint / "state.json").write_bytes(data)
    pieces = [data[begin : begin + CHUNK_BYTES] for begin in range(0, len(data), CHUNK_BYTES)]
    files = read_manifest(checkpoint).files
    sealed(checkpoint, files={**files, "state.json": record_of(pieces)})


# Not a run.

NOT_A_RUN = {
    "nowhere": r"nowhere: not a run \(nothing is there\); name a directory that holds run.json",
    "notes.txt": r"notes.txt: is a file, and no packed checkpoint \(it begins with b'hell'\); give a run's directory, ",
    "empty": r"empty: not a run \(an empty directory\); name a directory that holds run.json",
    ".": r"no run itself, but there are runs in it \(run\); name one of them",
    "run/.hydra": r"run/.hydra: not a run \(a directory with attempts, config.json, .*\); name a directory",
    "run/metrics.jsonl": r"run/metrics.jsonl: is a file, and no packed checkpoint",
    "run/checkpoints/step-000000005/manifest.json": r"manifest.json: is a file, and no packed checkpoint",
    "run/checkpoints/step-000000005/model.safetensors": r"model.safetensors: is a file, and no packed checkpoint",
    "run/checkpoints/step-000000005@best": r"step-000000005: is one checkpoint already; name the run to choose 'best'",
    "run@step=7": r"run: has no checkpoint of step 7; the newest are of steps 5, 10",
    "run@paper": r"run: no checkpoint is called 'paper'; wanted 'latest', 'best', a step number or a tag",
    "run@5": r"\+resume=run@5: not there; a step is chosen by run@step=5",
    "n" * 300: r"\+resume=n+: cannot be looked at \(File name too long\); name a run that you may read",
    "~nobody-of-that-name/run": r"~nobody-of-that-name/run: not a run \(nothing is there\)",
    "latest": r"outputs: no run that has begun training; type \+resume=RUN_DIRECTORY",
}


@pytest.mark.parametrize("text", NOT_A_RUN)
def test_what_is_no_run_is_refused_with_what_is_there(text: str, here: Path, refused: Refused) -> None:
    (here / "notes.txt").write_text("hello")
    (here / "empty").mkdir()
    assert re.search(NOT_A_RUN[text], refused(f"+resume={text}"))


# No checkpoint, or none that can be had.


def test_a_run_without_a_checkpoint_begins_at_step_0_and_says_so(run: Path, went_on: WentOn) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    assert "run: stopped before it had saved a checkpoint; it begins anew, at step 0" in went_on("+resume=run")
    assert [path.name for path in checkpoints(run)] == ["step-000000010", "step-000000005"]


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(run: Path, refused: Refused) -> None:
    shutil.rmtree(run / "checkpoints")
    assert refused("+resume=run") == (
        "run/checkpoints: nothing is there, and 2 checkpoints were saved, the last of them step-000000010; put them "
        "back (is a disk not mounted?), or launch a new run: this one is not begun anew by itself"
    )


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_run_that_was_killed_before_it_had_written_its_config_can_only_be_launched_anew(
    harm: str, run: Path, refused: Refused
) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    if harm == "gone":
        shutil.rmtree(run / ".hydra")
    else:
        (run / ".hydra/config.json").write_text("{")
    said = refused("+resume=run")
    assert said.startswith("run/.hydra: its saved config cannot be read (")
    assert said.endswith("); put it back, or launch a new run: this one has saved nothing yet")


def test_where_every_checkpoint_is_damaged_each_is_named(run: Path, refused: Refused) -> None:
    newest, older = checkpoints(run)
    flip(newest / "optimizer.safetensors")
    (older / "state.json").unlink()
    first, second, last = refused("+resume=run").splitlines()
    assert first.startswith("run/checkpoints/step-000000010/optimizer.safetensors: is damaged: bytes ")
    assert second == (
        "run/checkpoints/step-000000005/state.json: is missing; use another checkpoint, or put the file back"
    )
    assert last == (
        "run: no checkpoint in it is whole, and it is not begun anew by itself; put one back from a copy, or launch a "
        "new run"
    )


def test_a_damaged_newest_checkpoint_is_passed_over_said_and_set_aside(run: Path, went_on: WentOn) -> None:
    flip(checkpoints(run)[0] / "model.safetensors")
    before = content(checkpoints(run)[0])
    said = went_on("+resume=run")
    assert "passed over: run/checkpoints/step-000000010/model.safetensors: is damaged" in said
    assert "step-000000010: newer than what is resumed, and set aside in run/checkpoints/aside/2" in said
    assert content(run / "checkpoints/aside/2/step-000000010") == before


# Permissions.


@contextmanager
def as_a_stranger(directory: Path) -> Iterator[None]:
    """As a user who owns nothing here, where the tests are root's: for root no permission is in the way."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


CLOSED: Mapping[str, tuple[int, str]] = {
    "": (0o000, r"\+resume=run: cannot be looked at \(Permission denied\); name a run that you may read"),
    "run.json": (0o000, r"run/run.json: cannot be read \(Permission denied\); make it readable"),
    "run.lock": (
        0o555,
        r"run.lock: the lock cannot be written \(Permission denied\); make run writable, free",
    ),
    "attempts.jsonl": (0o000, r"run/attempts.jsonl: cannot be read \(Permission denied\); make it readable"),
    "metrics.jsonl": (0o444, r"run/metrics.jsonl: may not be written by you; change the permissions, or copy the run"),
    "runner.log": (0o444, r"run/runner.log: may not be written by you"),
    "code": (0o555, r"run/code: may not be written by you"),
    ".hydra/attempts": (0o555, r"run/.hydra/attempts: may not be written by you"),
    "checkpoints": (0o555, r"run/checkpoints: may not be written by you"),
    "checkpoints/": (
        0o000,
        r"run/checkpoints: cannot be listed \(Permission denied\); wanted a directory of checkpoints",
    ),
    "checkpoints/step-000000010": (
        0o000,
        r"(?s)manifest.json: cannot be opened \(Permission denied\).*what cannot be read is not passed over, .*"
        r"name the older one: \+resume=run@step=5",
    ),
    "checkpoints/step-000000010/optimizer.safetensors": (
        0o000,
        r"(?s)optimizer.safetensors: cannot be opened \(Permission denied\).*run: what cannot be read is not passed",
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_what_this_user_may_not_read_or_write_is_named_before_anything_is_changed(
    name: str, here: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mode, wanted = CLOSED[name]
    closed = run if name == "run.lock" else run / name
    if os.geteuid() == 0:
        for path in (run, *run.rglob("*")):
            os.chown(path, NOBODY, -1)
    (here / "state").mkdir()
    (here / "state").chmod(0o777)
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "state"))
    mode_before, before = closed.stat().st_mode, content(run)
    closed.chmod(mode)
    try:
        with as_a_stranger(here):
            code = command(["+resume=run", "trainer.max_epochs=3"])
    finally:
        closed.chmod(mode_before)
    said = capsys.readouterr().err.replace(f"{here}/", "")
    assert code == 2, said
    assert re.search(wanted, said), said
    assert content(run) == before


# At work on it.

HOLD = """
import sys
from pathlib import Path
from runner.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

# Plays a holder on another host, whose clock is wrong by an hour: only that the heart beats can be relied on.
BEAT = """
import json, sys, time
from pathlib import Path
path = Path(sys.argv[1])
facts = json.loads(path.read_text())
facts |= {"host": "elsewhere", "beat_time": time.time() - 3600}
print("held", flush=True)
while True:
    facts["beats"] += 1
    with path.open("r+b") as file:
        file.write(json.dumps(facts).encode().ljust(1023) + b"\\n")
    time.sleep(0.02)
"""


@contextmanager
def started(script: str, lock: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize("text", ["run", "run@step=5", "run/checkpoints/step-000000005"])
def test_a_run_that_a_process_is_working_on_is_refused(text: str, run: Path, refused: Refused) -> None:
    with started(HOLD, run / "run.lock") as process:
        said = refused(f"+resume={text}")
        holder = f"process {process.pid} on {this_process().host}"
        assert said.startswith(f"run: another process is working on this run ({holder}, since 20")
        assert said.endswith("); wait until it has ended, or stop it there")


def test_a_run_that_another_host_is_working_on_is_known_by_its_heartbeat(
    run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with started(HOLD, run / "run.lock"):
        pass
    before = content(run)
    with started(BEAT, run / "run.lock"):
        assert command(["+resume=run"]) == 2
    assert "run.lock: watching its heartbeat for up to 20 s (process " in caplog.text
    said = capsys.readouterr().err
    assert "another process is working on this run (process " in said and " on elsewhere, since " in said
    after = content(run)
    assert after.pop("run.lock") != before.pop("run.lock")
    assert after == before


def test_the_lock_of_a_process_that_was_killed_here_is_no_hindrance(run: Path, went_on: WentOn) -> None:
    with started(HOLD, run / "run.lock"):
        pass
    assert (run / "run.lock").exists()
    assert "resumed from run/checkpoints/step-000000010" in went_on("+resume=run", "trainer.max_epochs=3")
    assert not (run / "run.lock").exists()


# Newer formats.


def test_checkpoints_of_a_newer_format_are_neither_damaged_nor_passed_over(run: Path, refused: Refused) -> None:
    newest, older = checkpoints(run)
    newer = "format 99, which needs a reader of format 99; this runner reads formats up to 2; update runner to load it"
    sealed(newest, format=99, reader=99)
    unread = "run: what cannot be read is not passed over, for it may be whole and newer than the rest; mend that"
    assert refused("+resume=run").splitlines() == [
        f"run/checkpoints/step-000000010/manifest.json: {newer}",
        f"{unread}, or name the older one: +resume=run@step=5",
    ]
    sealed(older, format=99, reader=99)
    assert refused("+resume=run").splitlines() == [
        f"run/checkpoints/step-000000010/manifest.json: {newer}",
        f"run/checkpoints/step-000000005/manifest.json: {newer}",
        unread,
    ]
    assert refused("+resume=run/checkpoints/step-000000005").endswith(f"step-000000005/manifest.json: {newer}")


def test_a_state_or_a_run_of_a_newer_format_is_refused(run: Path, refused: Refused) -> None:
    change_state(checkpoints(run)[0], lambda values: values.update(format=2))
    assert refused("+resume=run", "trainer.max_epochs=3") == (
        "run/checkpoints/step-000000010/state.json: a state of format 2; this runner reads formats up to 1; "
        "update runner to load it"
    )
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "format": 2}))
    assert refused("+resume=run") == "run/run.json: format 2; this runner reads 1; update runner"


# Overrides.

OVERRIDES = {
    "optimizer.lrr=1": r"no key 'optimizer.lrr'; did you mean 'optimizer.lr'\?",
    "+optimizer.lrr=1": r"torch.optim.AdamW takes no argument 'lrr'; did you mean 'optimizer.lr'\?",
    "++trainer.epoch=5": r"trainer.epoch: no such key; did you mean 'trainer.max_epochs'\?",
    "~optimizer.foo": r"~optimizer.foo: nothing to leave out; did you mean '~optimizer'\?",
    "optimizer=adamx": r"optimizer=adamx: optimizer has no such option; did you mean 'adamw'\?",
    "optimzer=sgd": r"optimzer=sgd: no group 'optimzer'; did you mean 'optimizer=sgd'\?",
    "experiment=nope": r"experiment=nope: experiment has no such option; there is digits_cnn, digits_mlp, lorenz_esn",
    "data.batch_size=many": r"data.batch_size is 'many'; wanted a whole number",
    "trainer.max_epochs=0": r"trainer.max_epochs is 0; wanted a number of at least 1, or null",
    # Found only when everything is built.
    "monitor.metric=val_acc": r"monitor.metric is 'val_acc', and an evaluation gives val_loss, val_accuracy; did you",
    "optimizer.groups=[{match: nothing}]": r"optimizer.groups\[0\].match is 'nothing', which fits no trained parameter",
    "+reset=[optimiser]": r"\+reset=\[optimiser\]: wanted one of ",
    "+allow=[data]": r"\+allow=\[data\]: wanted one of model",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_that_cannot_be_leaves_the_run_as_it_was(override: str, refused: Refused) -> None:
    said = refused("+resume=run@step=5", override)
    assert re.search(OVERRIDES[override], said), said


# Other models, other data, other checkpoints.


def test_another_model_is_refused_and_where_it_is_allowed_what_does_not_fit_is_listed(refused: Refused) -> None:
    assert refused("+resume=run@step=5", "model.hidden=[128]") == (
        "model.hidden was [128, 128] and is [128] now\n"
        "the saved state may not fit another model; type +allow=[model] to go on all the same"
    )
    said = refused("+resume=run@step=5", "model.hidden=[128]", "+allow=[model]")
    assert "the checkpoint's weights do not fit MLP: " in said
    assert "unknown: layers.7.weight" in said
    assert "layers.4.weight: saved (128, 128), wanted (10, 128)" in said


DATA = """
import torch, runner
from pathlib import Path
from torch.utils.data import TensorDataset

def numbers():
    size, fingerprint = Path("numbers.txt").read_text().split()
    x = torch.arange(int(size) * 64.0).reshape(-1, 64) / 64e3
    data = TensorDataset(x, torch.arange(int(size)) % 10)
    return runner.Data(data, data, fingerprint=fingerprint)
"""
NUMBERS = ("data._target_=bad_input_numbers.numbers", "model.in_features=64", "data.batch_size=100")


@pytest.fixture
def on_numbers(here: Path) -> Callable[[str], None]:
    """Trains 3 steps of 10 an epoch in `other` on data that the file numbers.txt describes, then changes that file."""

    def train(then: str) -> None:
        (here / "bad_input_numbers.py").write_text(DATA)
        (here / "numbers.txt").write_text("1000 first")
        runner.run([*SHORT[:1], *SHORT[2:], *NUMBERS, "trainer.max_steps=3", "hydra.run.dir=other"])
        (here / "numbers.txt").write_text(then)

    return train


def test_data_that_have_changed_are_said(on_numbers: Callable[[str], None], went_on: WentOn) -> None:
    on_numbers("1000 second")
    said = went_on("+resume=other", "trainer.max_steps=4")
    assert "the data's fingerprint: first then, second now" in said
    assert "samples of train" not in said


def test_data_that_are_shorter_than_the_position_are_said(
    here: Path, on_numbers: Callable[[str], None], went_on: WentOn
) -> None:
    on_numbers("200 second")
    said = went_on("+resume=other", "trainer.max_steps=4")
    assert "the data's fingerprint: first then, second now" in said
    assert "samples of train: 1000 then, 200 now" in said
    assert "the unfinished epoch: it has 2 batches now, and they are done; the next one begins" in said
    assert runner.Checkpoint.open(here / "other").epoch == 1


def test_data_that_are_gone_or_empty_are_refused(
    on_numbers: Callable[[str], None], here: Path, refused: Refused
) -> None:
    on_numbers("0 second")
    assert "is empty; a data set needs at least one sample" in refused("+resume=other", "trainer.max_steps=4")
    (here / "numbers.txt").unlink()
    said = refused("+resume=other", "trainer.max_steps=4")
    assert re.search(
        r"data._target_=bad_input_numbers.numbers: could not be built: FileNotFoundError: .*numbers.txt", said
    )


def test_a_checkpoint_of_another_run_is_not_taken_for_the_newest(
    here: Path, run: Path, refused: Refused, went_on: WentOn
) -> None:
    runner.run([*SHORT, "trainer.max_epochs=3", "model.hidden=[8]", "hydra.run.dir=other"])
    shutil.copytree(here / "other/checkpoints/step-000000015", run / "checkpoints/step-000000015")
    assert refused("+resume=run", "trainer.max_epochs=3") == (
        "run/checkpoints/step-000000015: was written by another run, and step-000000010 is the newest that this one "
        "wrote; name the one that is meant, run@step=15 or run@step=10, or move the other run's out of the way"
    )
    went_on("+resume=run@step=10", "trainer.max_epochs=3")
    assert (run / "checkpoints/aside/2/step-000000015/manifest.json").exists()


def test_a_state_that_its_own_config_contradicts_is_said(run: Path, went_on: WentOn) -> None:
    def other(values: dict[str, Any]) -> None:
        values["state"]["optimizer"]["class"] = "torch.optim.sgd.SGD"
        values["state"]["best"]["metric"] = "val_accuracy"

    change_state(checkpoints(run)[0], other)
    said = went_on("+resume=run", "trainer.max_epochs=3")
    assert "torch.optim.sgd.SGD was saved, torch.optim.adamw.AdamW starts anew" in said
    assert "the best val_accuracy so far: another metric is monitored now" in said


PARTS = (
    *("model", "optimizer", "scheduler", "scaler", "averaged", "transient", "progress", "epoch_loss", "best"),
    *("early_stopping", "own", "generators"),
)


@pytest.mark.parametrize(("part", "how"), [*((part, "lost") for part in PARTS), ("optimizer", "no mapping")])
def test_a_state_that_no_training_can_go_on_from_is_refused(part: str, how: str, run: Path, refused: Refused) -> None:
    def harm(values: dict[str, Any]) -> None:
        if how == "lost":
            del values["state"][part]
        else:
            values["state"][part] = "text"

    change_state(checkpoints(run)[0], harm)
    assert refused("+resume=run", "trainer.max_epochs=3") == (
        f"run/checkpoints/step-000000010: no training can go on from it, because its state lacks {part}; use another "
        "checkpoint, or begin a new run with its weights: init_from=run/checkpoints/step-000000010"
    )


def test_every_part_of_a_state_is_looked_for(run: Path) -> None:
    assert runner.Checkpoint.open(run).state().keys() == set(PARTS)


# The run's own files.


@pytest.mark.parametrize(
    "text", ["", '{"id": "x"', "[]", "\0\0\0", '{"id": "x", "name": "y", "created": "2026-01-01"}']
)
def test_a_damaged_run_file_is_refused(text: str, run: Path, refused: Refused) -> None:
    (run / "run.json").write_text(text)
    assert re.fullmatch(
        r"run/run.json: damaged \(.*\); put it back from a copy; the checkpoints in run/checkpoints can still be "
        "loaded, and begun with by init_from",
        refused("+resume=run"),
    )
    assert refused("+resume=run/checkpoints/step-000000005").startswith("run/run.json: damaged (")


def test_without_its_run_file_only_a_checkpoint_can_be_named_and_a_new_run_begins(
    here: Path, run: Path, refused: Refused, went_on: WentOn
) -> None:
    (run / "run.json").unlink()
    assert refused("+resume=run") == (
        "run: not a run (its run.json is gone, so put it back from a copy, or resume one of its checkpoints by its own "
        "path); name a directory that holds run.json"
    )
    before = content(run)
    said = went_on("+resume=run/checkpoints/step-000000005", "hydra.run.dir=new")
    assert "run/checkpoints/step-000000005: a checkpoint outside of its run; a new run begins from it" in said
    assert content(run) == before
    assert runner.Checkpoint.open(here / "new").step == 10


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b'{"attempt": 2, "event": "sta', None),
        (b"\xff\xfe\0 garbage\n[1]\n", "run/attempts.jsonl, line 3: damaged, left out"),
        (b"\0" * 5000, None),
    ],
)
def test_damaged_attempts_hinder_nothing(damage: bytes, said: str | None, run: Path, went_on: WentOn) -> None:
    whole = (run / "attempts.jsonl").read_bytes()
    (run / "attempts.jsonl").write_bytes(whole + damage)
    told = went_on("+resume=run", "trainer.max_epochs=3")
    assert (said is None or said in told) and "at step 10" in told
    assert (run / "attempts.jsonl").read_bytes().startswith(whole)
    assert (run / ".hydra/attempts/002").is_dir()


@pytest.mark.parametrize("damage", [b'{"event": "step", "step": 10, "lo', b"\0" * 5000, b"\xff garbage\n"])
def test_damaged_metrics_hinder_nothing(damage: bytes, run: Path, went_on: WentOn) -> None:
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(whole + damage)
    went_on("+resume=run", "trainer.max_epochs=3")
    after = (run / "metrics.jsonl").read_bytes()
    assert after.startswith(whole) and b"\0" not in after
    assert b'"step": 15' in after


@pytest.mark.parametrize("name", ["attempts.jsonl", "metrics.jsonl", "runner.log", ".hydra", "code", "run.lock"])
def test_what_stands_in_the_place_of_a_file_is_named_and_nothing_is_set_aside(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = run / name
    if place.is_dir():
        shutil.rmtree(place)
        place.write_text("")
    else:
        place.unlink(missing_ok=True)
        place.mkdir()
    before = content(run / "checkpoints")
    assert command(["+resume=run@step=5"]) in (1, 2)
    assert re.search(rf"runner: \S*/run/{name}\S*: .*(written|read) \(.*\); ", capsys.readouterr().err)
    assert content(run / "checkpoints") == before


# A full disk.


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What is written beyond fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# From a disk that takes not even the lock to one that takes everything but the tensors.
@pytest.mark.parametrize("size", [0, 1024, 2048, 4096, 16384, 65536])
def test_a_full_disk_costs_nothing_and_the_next_resume_goes_on(
    size: int, run: Path, capsys: pytest.CaptureFixture[str], went_on: WentOn
) -> None:
    before = content(run / "checkpoints")
    with no_file_larger_than(size):
        code = command(["+resume=run", "trainer.max_epochs=3"])
    said = capsys.readouterr().err
    assert code in (1, 2)
    assert re.search(r"runner: .*: .*\(File too large\); .*(free some space|make room|raise the limit)", said), said
    assert content(run / "checkpoints") == before
    assert "at step 10" in went_on("+resume=run", "trainer.max_epochs=3")
    assert runner.Checkpoint.open(run).step == 15


# Before it trains, or while it does.

TORN = """
import torch, runner

class Torn(torch.utils.data.Dataset):
    def __init__(self, at):
        self.at = at
        if at == 0:
            raise runner.DataError("the images are torn")

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if index == self.at:
            raise runner.DataError(f"image {index} is torn")
        return torch.zeros(64), index % 10

def images(at):
    return runner.Data(Torn(at), Torn(-1))
"""
IMAGES = ("data._target_=bad_input_images.images", "model.in_features=64", "data.batch_size=8", "hydra.run.dir=torn")


def test_the_same_error_is_a_refusal_before_it_trains_and_a_failure_while_it_does(
    here: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bad_input_images.py").write_text(TORN)
    assert refused(*IMAGES, "+data.at=0") == "the images are torn"
    assert command([*IMAGES, "+data.at=25"]) == 1
    assert "runner: image 25 is torn" in capsys.readouterr().err
    end = json.loads((here / "torn/attempts.jsonl").read_text().splitlines()[-1])
    assert (end["outcome"], end["reason"]) == ("failed", "DataError: image 25 is torn")


# As it looks to who types it.


@pytest.mark.launch
def test_a_refusal_is_a_line_or_two_and_exit_code_2(launch: Callable[..., Any], here: Path, run: Path) -> None:
    for checkpoint in checkpoints(run):
        flip(checkpoint / "model.safetensors")
    done = launch(["+resume=run"], cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    first, second, last = done.stderr.replace(f"{here}/", "").splitlines()
    assert first.startswith("runner: run/checkpoints/step-000000010/model.safetensors: is damaged: ")
    assert second.startswith("runner: run/checkpoints/step-000000005/model.safetensors: is damaged: ")
    assert last.startswith("runner: run: no checkpoint in it is whole, and it is not begun anew by itself; ")


@pytest.mark.launch
def test_that_a_heartbeat_is_watched_is_said_at_once(launch: Callable[..., Any], here: Path, run: Path) -> None:
    with started(HOLD, run / "run.lock"):
        pass
    with started(BEAT, run / "run.lock"):
        done = launch(["+resume=run"], cwd=here)
    assert done.returncode == 2
    watching, refused = done.stderr.replace(f"{here}/", "").splitlines()
    assert watching.startswith("run/run.lock: watching its heartbeat for up to 20 s (process ")
    assert refused.startswith("runner: run: another process is working on this run (process ")
