import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from runner.data.batches import Batches
from runner.errors import DataError


class Pids(Dataset[int]):
    """A sample is the process that fetched it."""

    def __init__(self, *, deadly: int | None = None) -> None:
        self.deadly = deadly

    def __getitem__(self, index: int) -> int:
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    def __len__(self) -> int:
        return 40


def make(dataset: Any, *, workers: int) -> Batches:
    return Batches(dataset, batch_size=2, shuffle=False, drop_last=False, seed=0, workers=workers)


def seen(batches: Batches, epoch: int) -> set[int]:
    return {int(pid) for batch in batches.epoch(epoch) for pid in batch}


def alive(pids: set[int]) -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None} & pids


def test_workers_live_over_epochs_until_closed_and_can_start_again() -> None:
    batches = make(Pids(), workers=2)
    pids = seen(batches, 0)
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert seen(batches, 1) == pids
    batches.close()
    assert not alive(pids)
    batches.close()
    again = seen(batches, 2)
    assert len(again) == 2
    assert not again & pids
    batches.close()


def test_workers_end_when_their_batches_are_gone_in_the_middle_of_an_epoch() -> None:
    batches = make(Pids(), workers=2)
    epoch = batches.epoch(0)
    pids = {int(pid) for pid in next(epoch)} | {int(pid) for pid in next(epoch)}
    assert alive(pids) == pids
    del epoch, batches
    gc.collect()
    assert not alive(pids)


def test_workers_ignore_signals_for_the_whole_process_group() -> None:
    batches = make(Pids(), workers=2)
    pids = seen(batches, 0)
    for pid in pids:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert seen(batches, 1) == pids
    batches.close()
    # The main process gets its own signals as before.
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


def test_a_worker_that_dies_is_said_and_the_next_epoch_has_new_ones() -> None:
    dataset = Pids(deadly=20)
    batches = make(dataset, workers=1)
    with pytest.raises(DataError, match=r"(?s)^a data worker died \(.*set runtime.workers to a smaller"):
        seen(batches, 0)
    dataset.deadly = None
    assert len(seen(batches, 1)) == 1
    batches.close()


EXIT = """
import torch
from runner.data.batches import Batches
if __name__ == "__main__":
    batches = Batches(range(1000), batch_size=2, shuffle=False, drop_last=False, seed=0, workers=2)
    epoch = batches.epoch(0)
    next(epoch)
    print("left")
"""


def test_a_process_that_leaves_an_epoch_half_way_ends_without_a_word(tmp_path: Any) -> None:
    script = tmp_path / "leave.py"
    script.write_text(EXIT)
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")


def test_tensors_come_from_workers_unchanged() -> None:
    batches = Batches(torch.arange(8.0).reshape(8, 1), batch_size=4, shuffle=False, drop_last=False, seed=0, workers=1)
    assert torch.equal(torch.cat(list(batches.epoch(0))), torch.arange(8.0).reshape(8, 1))
    batches.close()
