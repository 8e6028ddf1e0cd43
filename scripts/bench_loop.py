"""Microseconds an optimizer step: `runner` as it is used, against a plain loop and other libraries.

All train the same model on one thread: 64-32-10 MLP, Adam, batches of 64 out of 6,400 rows in memory, shuffled.
`runner` is the real command, with its progress bar on a pseudo-terminal, its metrics file, and its save policy armed.

Each contestant is one process that trains without end, and only one of them trains at a time: the source of its batches
(an observer, in the runner) measures the time of a block of steps, tells it, and waits for its next turn; those that
wait are stopped by SIGSTOP. So blocks of all of them lie side by side, and start-up is in none.

    python scripts/bench_loop.py [--rounds N] [--steps N] [CONTESTANT ...]
"""

import argparse
import fcntl
import importlib.util
import os
import pty
import random
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench_report import environment, report, runner_command

BATCH, ROWS, LR = 64, 6_400, 1e-3
NEVER = 10**9

RUNNER = [
    "data._target_=bench_loop.measured_data",
    f"data.batch_size={BATCH}",
    "model.hidden=[32]",
    "model.dropout=0",
    "optimizer._target_=torch.optim.Adam",
    "optimizer.fused=false",
    "optimizer.weight_decay=0",
    f"optimizer.lr={LR}",
    "scheduler=constant",
    "trainer.max_epochs=null",
    f"trainer.max_steps={NEVER}",
    # Armed, and asked at every step, but never due.
    "trainer.evaluate.every_epochs=null",
    f"trainer.evaluate.every_steps={NEVER}",
    "checkpoint.save.every_epochs=null",
    f"checkpoint.save.every_steps={NEVER}",
    f"checkpoint.save.every_seconds={NEVER}",
    "runtime.device=cpu",
    "+observers.watch._target_=bench_loop.Watch",
]


class Turns:
    """Called for every batch: measures a block of steps, tells its microseconds a step, and waits for the next turn."""

    def __init__(self) -> None:
        self.turn, self.tell, self.block = map(int, os.environ["BENCH_LOOP"].split())
        self.batches, self.began = 0, time.perf_counter()

    def __call__(self) -> None:
        if self.batches % self.block == 0:
            microseconds = (time.perf_counter() - self.began) / self.block * 1e6
            os.write(self.tell, struct.pack("d", microseconds))
            if not os.read(self.turn, 1):
                os._exit(0)  # The driver is gone.
            self.began = time.perf_counter()
        self.batches += 1


def tensors() -> tuple[Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.rand(ROWS, 64, generator=generator), torch.randint(10, (ROWS,), generator=generator)


def measured_data(path: None = None, augment: bool = False) -> Any:
    """The data of the runner's run, which draws and indexes them itself. The arguments are those of the digits."""
    from runner.data.data import Data
    from runner.data.tensors import Tensors

    assert path is None and not augment

    x, y = tensors()
    return Data(train=Tensors(x, y), validation=Tensors(x[:512], y[:512]), fingerprint="random rows")


class Watch:
    """An observer of the runner's run that takes the turns: for the others, the source of their batches does."""

    def __init__(self) -> None:
        self.turns = Turns()

    def observe(self, record: Any) -> None:
        from runner.records import Step

        if isinstance(record, Step):
            self.turns()

    def close(self) -> None:
        pass


class Batches:
    """The batches of all the others, drawn as one would by hand."""

    def __init__(self) -> None:
        self.x, self.y = tensors()
        self.turns = Turns()

    def __len__(self) -> int:
        return ROWS // BATCH

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        import torch

        for indices in torch.randperm(ROWS).split(BATCH):
            self.turns()
            yield self.x[indices], self.y[indices]


def parts() -> tuple[Any, Any, Any]:
    import torch

    from runner.models.mlp import MLP

    model = MLP(in_features=64, hidden=[32], classes=10, activation="relu", dropout=0.0)
    return model, torch.nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=LR)


def plain() -> None:
    model, criterion, optimizer = parts()
    batches = Batches()
    model.train()
    while True:
        for x, y in batches:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()


def ignite() -> None:
    from ignite.engine import Engine

    model, criterion, optimizer = parts()

    def update(_: Any, batch: Any) -> float:
        model.train()
        optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    Engine(update).run(Batches(), max_epochs=NEVER)


def accelerate() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, criterion, optimizer = parts()
    model, optimizer = accelerator.prepare(model, optimizer)
    batches = Batches()
    model.train()
    while True:
        for x, y in batches:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            accelerator.backward(loss)
            optimizer.step()


def lightning(armed: bool) -> None:
    """`armed`: with progress bar, metrics file and checkpoint policy, as the runner has them; else all of them off."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.criterion, self.optimizer = parts()

        def training_step(self, batch: Any, _: int) -> Any:
            loss = self.criterion(self.model(batch[0]), batch[1])
            if armed:
                self.log("loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> Any:
            return self.optimizer

    Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        logger=CSVLogger(".") if armed else False,
        log_every_n_steps=10,
        callbacks=[ModelCheckpoint(every_n_train_steps=NEVER)] if armed else [],
        enable_checkpointing=armed,
        enable_progress_bar=armed,
        enable_model_summary=False,
    ).fit(Module(), Batches())


# Name: the package that it needs, and what it does; the runner's is a command instead.
CONTESTANTS: dict[str, tuple[str, Callable[[], None] | None]] = {
    "plain": ("torch", plain),
    "runner": ("runner", None),
    "ignite-bare": ("ignite", ignite),
    "accelerate-bare": ("accelerate", accelerate),
    "lightning-bare": ("lightning", lambda: lightning(armed=False)),
    "lightning": ("lightning", lambda: lightning(armed=True)),
}


class Contestant:
    """A process that trains a block when it is told to."""

    def __init__(self, name: str, block: int, directory: Path) -> None:
        self.name = name
        own = [*runner_command(), *RUNNER] if name == "runner" else [sys.executable, __file__, "--contestant", name]
        turn, self._turn = os.pipe()
        self._tell, tell = os.pipe()
        self._screen, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.shown = bytearray()
        self._process = subprocess.Popen(
            own,
            cwd=directory,
            env=environment(directory, BENCH_LOOP=f"{turn} {tell} {block}", OMP_NUM_THREADS="1", TERM="xterm-256color"),
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=terminal,
            pass_fds=(turn, tell),
        )
        for end in (turn, tell, terminal):
            os.close(end)
        threading.Thread(target=self._read_screen, daemon=True).start()
        self._told()

    def block(self) -> float:
        """Microseconds a step of the next block."""
        self._process.send_signal(signal.SIGCONT)
        os.write(self._turn, b"g")
        return self._told()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _told(self) -> float:
        message = os.read(self._tell, 8)
        if not message:
            self._process.wait()
            time.sleep(0.2)  # The thread reads the rest of the screen.
            sys.exit(f"{self.name} ended by itself; it showed:\n{self.shown.decode(errors='replace')[-4000:]}")
        self._process.send_signal(signal.SIGSTOP)
        return float(struct.unpack("d", message)[0])

    def _read_screen(self) -> None:
        # A terminal that nobody reads would stop the one who writes to it.
        try:
            while shown := os.read(self._screen, 65536):
                self.shown = (self.shown + shown)[-20_000:]
        except OSError:
            pass  # The process has ended.


def main() -> None:
    parser = argparse.ArgumentParser(description="Microseconds an optimizer step, side by side.")
    parser.add_argument("names", nargs="*", metavar="CONTESTANT", help=f"of {', '.join(CONTESTANTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--steps", type=int, default=1000, help="of a block")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--show", action="store_true", help="show the end of what the runner wrote to its terminal")
    arguments = parser.parse_args()
    if arguments.contestant:
        train = CONTESTANTS[arguments.contestant][1]
        assert train is not None
        train()
    names = ["plain", *(name for name in arguments.names or CONTESTANTS if name != "plain")]
    if unknown := set(names) - set(CONTESTANTS):
        parser.error(f"no contestant {', '.join(sorted(unknown))}; there are {', '.join(CONTESTANTS)}")
    absent = [name for name in names if importlib.util.find_spec(CONTESTANTS[name][0]) is None]
    print(f"not installed, so left out: {', '.join(absent)}" if absent else "none left out", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        contestants: list[Contestant] = []
        try:
            for name in names:
                if name not in absent:
                    contestants.append(Contestant(name, arguments.steps, Path(directory)))
            times: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
            order = list(contestants)
            for number in range(arguments.rounds + 1):
                random.Random(number).shuffle(order)
                for contestant in order:
                    microseconds = contestant.block()
                    if number > 0:  # The first block warms up.
                        times[contestant.name].append(microseconds)
        finally:
            for contestant in contestants:
                contestant.end()
    if arguments.show:
        print(next(c for c in contestants if c.name == "runner").shown.decode(errors="replace")[-2000:])
    report(times, unit="us a step", digits=1, base="plain", rounds=arguments.rounds)


if __name__ == "__main__":
    main()
