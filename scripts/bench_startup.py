"""Seconds from the start of a process: `runner --help`, `runner --cfg job`, and the end of the first training step.

The first step of the default experiment is compared with that of a plain script that imports torch, builds the same
model and an AdamW and takes one step, and with that of Lightning and Hydra together, where they are installed. Each
start is a new process; the contestants take turns. The runner's step has ended when the next batch is asked for.

    python scripts/bench_startup.py [--rounds N]
"""

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_report import environment, report, runner_command

BASE = "plain script, first step"


def tell() -> None:
    """The step has ended: tell the instant and leave at once, so that no clearing up is counted."""
    Path(os.environ["BENCH_STARTUP"]).write_text(repr(time.monotonic()))
    os._exit(0)


def network() -> Any:
    from torch import nn

    return nn.Sequential(
        *(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.2)),
        nn.Linear(128, 10),
    )


def plain() -> None:
    import torch

    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss = torch.nn.functional.cross_entropy(model(torch.rand(32, 64)), torch.randint(10, (32,)))
    loss.backward()
    optimizer.step()
    tell()


def lightning() -> None:
    import hydra
    import torch
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self, lr: float) -> None:
            super().__init__()
            self.lr, self.model = lr, network()

        def training_step(self, batch: Any, _: int) -> Any:
            return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=self.lr, fused=True)

        def on_train_batch_end(self, *_: Any) -> None:
            tell()

    @hydra.main(version_base="1.3", config_path=str(Path.cwd()), config_name="bench")
    def launch(config: Any) -> None:
        rows = torch.utils.data.TensorDataset(torch.rand(32, 64), torch.randint(10, (32,)))
        data = torch.utils.data.DataLoader(rows, batch_size=32)
        Trainer(accelerator="cpu", devices=1, max_epochs=1).fit(Module(config.lr), data)

    Path("bench.yaml").write_text("lr: 1e-3\n")
    sys.argv[1:] = []
    launch()


def digits_for_one_step(**arguments: Any) -> Any:
    """The data of the default experiment; the process tells the time and ends when the second batch is asked for."""
    from dataclasses import replace

    from runner.data.digits import digits
    from runner.data.tensors import Tensors

    class OneStep(Tensors):
        batches = 0

        def __getitems__(self, indices: Any) -> Any:
            if self.batches:
                tell()
            self.batches += 1
            return super().__getitems__(indices)

    data = digits(**arguments)
    return replace(data, train=OneStep(*data.train.tensors))


def seconds(command: list[str], *, told: bool) -> float:
    """From the start of `command` to its end, or to the instant that it tells (`told`)."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        instant = directory / "instant"
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment(directory, BENCH_STARTUP=str(instant)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        ended = time.monotonic()
        if done.returncode != 0 or (told and not instant.exists()):
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return (float(instant.read_text()) if told else ended) - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds from the start of a process, side by side.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--contestant", choices=("plain", "lightning"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        {"plain": plain, "lightning": lightning}[arguments.contestant]()
    runner, this = runner_command(), [sys.executable, __file__, "--contestant"]
    contestants: dict[str, tuple[list[str], bool]] = {
        BASE: ([*this, "plain"], True),
        "runner, first step": ([*runner, "data._target_=bench_startup.digits_for_one_step"], True),
        "runner --help": ([*runner, "--help"], False),
        "runner --cfg job": ([*runner, "--cfg", "job"], False),
    }
    if all(importlib.util.find_spec(package) for package in ("lightning", "hydra")):
        contestants["Lightning and Hydra"] = ([*this, "lightning"], True)
    else:
        print("not installed, so left out: lightning", flush=True)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    for number in range(arguments.rounds + 1):
        random.Random(number).shuffle(order)
        for name, (command, told) in order:
            taken = seconds(command, told=told)
            if number > 0:  # The first round brings the files into memory.
                times[name].append(taken)
    report(times, unit="seconds", digits=2, base=BASE, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
