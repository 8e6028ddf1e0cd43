"""The thread that writes: one thing after the other, nothing swallowed, and a process that does not leave too early."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.writer import Writer, patience


def test_tasks_are_done_in_order_by_one_other_thread() -> None:
    writer, seen = Writer(), []
    futures = [
        writer.begin(lambda n=n: seen.append((n, threading.current_thread().name)), size=0)  # type: ignore[misc]
        for n in range(20)
    ]
    assert writer.idle(60)
    assert seen == [(n, "checkpoint writer") for n in range(20)]
    assert all(future.done() for future in futures)
    writer.close()


def test_it_is_busy_until_the_last_task_is_done() -> None:
    writer, go = Writer(), threading.Event()
    assert not writer.busy and writer.idle(0)
    writer.begin(go.wait, size=0)
    assert writer.busy
    assert not writer.idle(0.01)
    go.set()
    assert writer.idle(60) and not writer.busy
    writer.close()


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_what_a_task_raises_waits_for_who_asks_and_the_thread_lives(error: BaseException) -> None:
    writer = Writer()

    def fail() -> None:
        raise error

    future = writer.begin(fail, size=0)
    assert writer.idle(60)
    assert future.exception() is error
    assert writer.begin(lambda: 7, size=0).result(60) == 7
    writer.close()


def test_it_can_begin_again_after_it_was_closed() -> None:
    writer = Writer()
    assert writer.begin(lambda: 1, size=0).result(60) == 1
    writer.close()
    assert writer.begin(lambda: 2, size=0).result(60) == 2
    writer.close()
    writer.close()


def test_a_larger_save_is_waited_for_longer_but_not_for_ever() -> None:
    assert patience(0) == 60
    assert 60 < patience(10**9) < patience(10**10) < float("inf")


def test_the_process_waits_at_its_exit_for_what_is_under_way(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from runner.checkpoint.writer import Writer\n"
        "def task():\n"
        "    time.sleep(0.5)\n"
        "    Path(sys.argv[1]).write_text('done')\n"
        "Writer().begin(task, size=0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "file")], check=True, timeout=60)
    assert (tmp_path / "file").read_text() == "done"


def test_the_process_gives_up_on_a_disk_that_does_not_answer(tmp_path: Path) -> None:
    script = (
        "import threading\n"
        "from runner.checkpoint import writer\n"
        "writer.patience = lambda size: 0.2\n"
        "writer.Writer().begin(threading.Event().wait, size=0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "still not written after 0 s and is given up; those before are whole" in done.stderr


def test_the_process_waits_for_what_was_under_way_when_it_was_closed(tmp_path: Path) -> None:
    script = (
        "import atexit, sys, threading, time\n"
        "from pathlib import Path\n"
        "from runner.checkpoint.writer import Writer\n"
        "ending = threading.Event()\n"
        "def task():\n"
        "    ending.wait()\n"
        "    time.sleep(0.2)\n"
        "    Path(sys.argv[1]).write_text('done')\n"
        "writer = Writer()\n"
        "writer.begin(task, size=0)\n"
        "writer.close()\n"
        "atexit.register(ending.set)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "file")], check=True, timeout=60)
    assert (tmp_path / "file").read_text() == "done"


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_a_failure_that_nobody_has_asked_for_is_said_at_the_exit(asked: bool, closed: bool) -> None:
    script = (
        "from runner.checkpoint.writer import Writer\n"
        "def fail():\n"
        "    raise OSError('no disk')\n"
        "writer = Writer()\n"
        f"writer.begin(fail, size=0, asked=lambda: {asked})\n"
        f"if {closed}:\n"
        "    writer.idle()\n"
        "    writer.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ("the last save has failed: no disk" in done.stderr) is not asked


def test_a_great_checkpoint_that_is_written_at_the_exit_is_read_back_too(tmp_path: Path) -> None:
    script = (
        "import atexit, sys, threading\n"
        "import torch\n"
        "from pathlib import Path\n"
        "from runner.checkpoint.policies import KeepPolicy\n"
        "from runner.checkpoint.store import CheckpointStore\n"
        "from runner.records import Progress\n"
        "keep = KeepPolicy(None, None, None, None)\n"
        "store = CheckpointStore(Path(sys.argv[1]), run='r', keep=keep, monitor=None, read_back=True)\n"
        "state = {'model': {'weight': torch.zeros(5_000_000)}}\n"
        "about = {'progress': Progress(step=1), 'reasons': (), 'metrics': {}, 'documents': {}, 'facts': {}}\n"
        "ending = threading.Event()\n"
        "store.save(state, **about, before=ending.wait)\n"
        "atexit.register(ending.set)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "checkpoints")], check=True, timeout=60)
    assert Checkpoint.open(tmp_path / "checkpoints").verify() == []
