"""`runs diff`."""

import json
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from runner.rundir import RunDir

pytestmark = pytest.mark.launch

Call = Callable[..., "CompletedProcess[str]"]
MakeRun = Callable[..., RunDir]

CONFIG = {"seed": 0, "optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}}
OTHER = {"seed": 0, "optimizer": {"lr": 0.2, "betas": [0.9, 0.99], "eps": 1e-8}}


def test_equal_checkpoints_are_equal_and_exit_with_0(call: Call, make_run: MakeRun) -> None:
    make_run("a", {10: 0.5}, config=CONFIG)
    make_run("b", {5: 0.7, 10: 0.5}, config=CONFIG)
    compared = call("diff", "a", "b/checkpoints/step-000000010")
    assert compared.stdout.splitlines() == [
        "A  a/checkpoints/step-000000010  step 10",
        "B  b/checkpoints/step-000000010  step 10",
        "",
        "equal, bit for bit: 2 tensors",
    ]
    assert (compared.returncode, compared.stderr) == (0, "")


def test_every_difference_is_told_and_the_exit_code_is_1(call: Call, make_run: MakeRun) -> None:
    make_run("a", {10: 0.5}, config=CONFIG)
    make_run("b", {10: 0.5, 30: 0.75}, config=OTHER)
    compared = call("diff", "a", "b@latest")
    assert compared.stdout.splitlines() == [
        "A  a/checkpoints/step-000000010  step 10",
        "B  b/checkpoints/step-000000030  step 30",
        "",
        "config         A            B",
        "optimizer.lr   0.1          0.2",
        "optimizer.eps  (not there)  1e-08",
        "",
        "progress  A   B",
        "step      10  30",
        "",
        "metrics   A    B",
        "val_loss  0.5  0.75",
        "",
        "state         A   B",
        "scheduler.at  10  30",
        "",
        "tensor        dtype and shape    differ  max abs  relative",
        "model.weight  float32 (4, 4)   16 of 16     0.25       0.5",
        "",
        "different: 2 in config, 1 in progress, 1 in metrics, 1 in state, 1 of 2 tensors",
    ]
    assert (compared.returncode, compared.stderr) == (1, "")


def test_the_same_as_json(call: Call, make_run: MakeRun) -> None:
    make_run("a", {10: 0.5, 20: float("nan")}, config=CONFIG)
    make_run("b", {20: 0.75}, config=OTHER)
    compared = call("diff", "--json", "a", "b")
    assert compared.returncode == 1
    assert json.loads(compared.stdout) == {
        "equal": False,
        "a": {"path": "a/checkpoints/step-000000020", "step": 20},
        "b": {"path": "b/checkpoints/step-000000020", "step": 20},
        "config": [{"key": "optimizer.lr", "a": 0.1, "b": 0.2}, {"key": "optimizer.eps", "b": 1e-8}],
        "progress": [],
        "metrics": [{"key": "val_loss", "a": None, "b": 0.75}],
        "state": [],
        "tensors": [
            {
                "name": "model.weight",
                "a": "float32 (4, 4)",
                "b": "float32 (4, 4)",
                "elements": 16,
                "differing": 16,
                "max_abs": None,
                "relative": None,
            }
        ],
        "compared_tensors": 2,
    }
    same = call("diff", "--json", "a", "a@step=20")
    assert (same.returncode, json.loads(same.stdout)["equal"]) == (0, True)


def test_numbers_are_shown_with_the_digits_that_tell_them_apart(call: Call, make_run: MakeRun) -> None:
    make_run("a", {10: 0.123456789}, config={"seed": 1})
    make_run("b", {10: 0.123456788}, config={"seed": "1"})
    lines = call("diff", "a", "b").stdout.splitlines()
    assert "val_loss  0.123456789  0.123456788" in lines
    assert "seed    1  '1'" in lines


def test_what_cannot_be_compared_is_told(call: Call, make_run: MakeRun) -> None:
    run = make_run("a", {10: 0.5})
    refused = call("diff", "a", "nowhere")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "runs: nowhere: not a run (nothing is there); name a directory that holds run.json\n"
    file = run.checkpoints / "step-000000010/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    refused = call("diff", "a", "a")
    assert refused.returncode == 2
    assert "model.safetensors: is damaged" in refused.stderr
