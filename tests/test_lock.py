"""The run's lock, with real processes that are really killed."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import lock
from runner.errors import LockedError, ResumeError
from runner.lock import RunLock, holder
from runner.processes import is_alive, process_start, this_process

HOLD = """
import sys
from pathlib import Path
from runner.lock import RunLock
with RunLock(Path(sys.argv[1]), interval=0.05):
    print("held", flush=True)
    sys.stdin.read()
"""

# Waits for the starting signal, tries once, and keeps what it got until its input ends.
RACE = """
import sys, time
from pathlib import Path
from runner.errors import LockedError
from runner.lock import RunLock
print("ready", flush=True)
sys.stdin.readline()
try:
    with RunLock(Path(sys.argv[1]), interval=0.05, patience=2):
        print("won", flush=True)
        sys.stdin.readline()
except LockedError as e:
    print("lost", flush=True)
    sys.stdin.readline()
"""

# Plays a holder on another host: renews the heartbeat of a file that it did not make.
BEAT = """
import json, sys, time
from pathlib import Path
path = Path(sys.argv[1])
print("beating", flush=True)
while True:
    facts = json.loads(path.read_text())
    facts["beats"] += 1
    with path.open("r+b") as file:
        file.write(json.dumps(facts).encode().ljust(1023) + b"\\n")
    time.sleep(0.02)
"""


def start(script: str, path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def edit(path: Path, **changes: Any) -> None:
    path.write_bytes(json.dumps({**json.loads(path.read_text()), **changes}).encode().ljust(1023) + b"\n")


def abandoned(path: Path) -> None:
    """Leave a lock whose holder was killed."""
    process = start(HOLD, path)
    assert line(process) == "held"
    end(process)
    assert path.exists()


def wait_until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.005)


def only_the_lock(path: Path) -> bool:
    return [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_lock_is_there_while_it_is_held_and_gone_after(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with RunLock(path) as mine:
        assert mine.held
        found = holder(path)
        assert found is not None
        assert found.pid == os.getpid()
        assert found.host == this_process().host
        assert only_the_lock(path)
    assert not mine.held
    assert holder(path) is None
    assert not any(tmp_path.iterdir())


def test_lock_is_released_when_the_body_raises_and_can_be_taken_again(tmp_path: Path) -> None:
    mine = RunLock(tmp_path / "run.lock")
    with pytest.raises(KeyError), mine:
        raise KeyError
    with mine:
        assert mine.held


def test_second_process_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    process = start(HOLD, path)
    try:
        assert line(process) == "held"
        before = path.read_bytes()
        with pytest.raises(LockedError) as refused:
            RunLock(path).acquire()
        message = str(refused.value)
        assert message.startswith(f"{tmp_path}: another process is working on this run (process {process.pid} on ")
        assert f"{this_process().host}, since 20" in message
        assert message.endswith("); wait until it has ended, or stop it there")
        assert json.loads(before)["token"] == json.loads(path.read_bytes())["token"]
        assert only_the_lock(path)
    finally:
        end(process)


def test_same_process_cannot_take_a_lock_twice(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run.lock") as mine:
        with pytest.raises(LockedError, match="this process already holds it"):
            mine.acquire()
        with pytest.raises(LockedError, match=f"process {os.getpid()} on"):
            RunLock(tmp_path / "run.lock").acquire()
        assert mine.held


def test_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    abandoned(path)
    assert holder(path) is None
    with RunLock(path) as mine:
        assert mine.held
        assert only_the_lock(path)
    assert not path.exists()


def test_lock_of_a_zombie_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    process = start(HOLD, path)
    assert line(process) == "held"
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # It has died, and nobody has taken note.
    try:
        with RunLock(path) as mine:
            assert mine.held
    finally:
        end(process)


def test_lock_whose_process_id_was_given_to_another_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    abandoned(path)
    edit(path, pid=os.getpid(), process_start="1")
    assert holder(path) is None
    with RunLock(path) as mine:
        assert mine.held


def test_lock_from_before_the_host_was_restarted_is_taken_over_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    abandoned(path)
    edit(path, boot_id="another", pid=os.getpid(), beat_time=time.time() - 3600, interval=60.0)
    assert holder(path) is None
    with RunLock(path, patience=1e6) as mine:
        assert mine.held


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"pid_namespace": "pid:[1]"}, {"boot_id": "another"}])
def test_holder_that_cannot_be_seen_from_here_is_respected_while_its_heart_beats(
    tmp_path: Path, changes: dict[str, str]
) -> None:
    path = tmp_path / "run.lock"
    abandoned(path)
    edit(path, **changes, beat_time=time.time(), interval=60.0)
    assert holder(path) is not None
    process = start(BEAT, path)
    try:
        assert line(process) == "beating"
        with pytest.raises(LockedError, match="another process is working on this run"):
            RunLock(path, interval=60.0, patience=1000.0).acquire()
    finally:
        end(process)


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"pid_namespace": "pid:[1]"}, {"boot_id": "another"}])
def test_holder_that_cannot_be_seen_from_here_is_dead_when_its_heart_has_stopped(
    tmp_path: Path, changes: dict[str, str]
) -> None:
    path = tmp_path / "run.lock"
    abandoned(path)
    edit(path, **changes, beat_time=time.time() - 60)
    assert holder(path) is None
    with RunLock(path, interval=0.05, patience=4) as mine:
        assert mine.held
        assert only_the_lock(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\0" * 1024])
def test_unreadable_lock_that_nobody_renews_is_taken_over(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.lock"
    path.write_bytes(content)
    assert holder(path) is None
    with RunLock(path, interval=0.05, patience=2) as mine:
        assert mine.held


@pytest.mark.parametrize("first", ["none", "dead", "dead taker"])
def test_of_racing_takers_exactly_one_wins(tmp_path: Path, first: str) -> None:
    for attempt in range(3):
        path = tmp_path / str(attempt) / "run.lock"
        path.parent.mkdir()
        if first != "none":
            abandoned(path)
        if first == "dead taker":
            # A taker was killed after it had claimed the dead holder's lock.
            abandoned(path.with_name(f"run.lock.{json.loads(path.read_text())['token']}"))
        racers = [start(RACE, path) for _ in range(4)]
        try:
            assert [line(racer) for racer in racers] == ["ready"] * 4
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write("go\n")
                racer.stdin.flush()
            results = [line(racer) for racer in racers]
            assert sorted(results) == ["lost", "lost", "lost", "won"]
            found = holder(path)
            assert found is not None
            assert found.pid == racers[results.index("won")].pid
            assert only_the_lock(path)
        finally:
            for racer in racers:
                end(racer)


def test_threads_that_race_in_one_process_have_one_winner(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    abandoned(path)
    locks = [RunLock(path) for _ in range(8)]
    gate = threading.Barrier(len(locks))
    results: list[str] = []

    def take(mine: RunLock) -> None:
        gate.wait()
        try:
            mine.acquire()
            results.append("won")
        except LockedError:
            results.append("lost")

    threads = [threading.Thread(target=take, args=(mine,)) for mine in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("won") == 1
    assert sum(mine.held for mine in locks) == 1
    for mine in locks:
        mine.release()
    assert not any(tmp_path.iterdir())


def test_heartbeat_is_renewed(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with RunLock(path, interval=0.01):
        first = holder(path)
        assert first is not None
        wait_until(lambda: json.loads(path.read_bytes())["beats"] >= first.beats + 2)
        assert path.stat().st_size == 1024


FORK = """
import json, os, sys, time
from pathlib import Path
from runner.lock import RunLock
path = Path(sys.argv[1])
lock = RunLock(path, interval=0.02)
lock.acquire()
child = os.fork()
if child == 0:
    assert not lock.held
    lock.release()
    os.write(1, b"child has let go\\n")
    sys.stdin.readline()  # Outlives its parent.
    beats = json.loads(path.read_text())["beats"]
    time.sleep(0.2)
    print("renewed" if json.loads(path.read_text())["beats"] != beats else "not renewed", flush=True)
    sys.stdin.readline()
    os._exit(0)
assert lock.held
assert json.loads(path.read_text())["pid"] == os.getpid()
os.write(1, b"parent holds\\n")
time.sleep(1000)
"""


def test_forked_child_neither_renews_nor_releases_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    process = start(FORK, path)
    try:
        assert sorted([line(process), line(process)]) == ["child has let go", "parent holds"]
        assert holder(path) is not None
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert line(process) == "not renewed"
        # The child lives and has the file open, but its parent held the lock.
        with RunLock(path) as mine:
            assert mine.held
        process.stdin.write("\n")
        process.stdin.flush()
    finally:
        end(process)


def test_former_holder_never_touches_the_lock_of_its_successor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.lock"
    former = RunLock(path, interval=0.01)
    former.acquire()
    path.rename(tmp_path / "taken")
    with RunLock(path):
        token = json.loads(path.read_bytes())["token"]
        assert not former.held
        wait_until(lambda: "no longer the lock of this process" in caplog.text)
        former.release()
        assert json.loads(path.read_bytes())["token"] == token


def test_lock_works_where_hard_links_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "run.lock"
    abandoned(path)
    for _ in range(2):  # The second time there is no lock to take over.
        with RunLock(path, interval=0.01) as mine:
            assert mine.held
            wait_until(lambda: json.loads(path.read_bytes())["beats"] >= 1)
            with pytest.raises(LockedError):
                RunLock(path).acquire()
            assert only_the_lock(path)
        assert not path.exists()


def test_lock_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        ResumeError, match=r"run\.lock: the lock cannot be written \(No such file or directory\); make "
    ):
        RunLock(tmp_path / "missing" / "run.lock").acquire()


def test_full_disk_leaves_no_lock_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResumeError, match="No space left on device"):
        RunLock(tmp_path / "run.lock").acquire()
    assert not any(tmp_path.iterdir())


def test_process_is_known_by_its_id_and_its_start() -> None:
    me = this_process()
    assert is_alive(me.pid, me.process_start)
    assert is_alive(me.pid, "")
    assert not is_alive(me.pid, "another")
    assert not is_alive(0, "")
    assert not is_alive(-1, "")
    assert not is_alive(2**70, "")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not is_alive(ended.pid, "")


def test_process_start_is_asked_of_ps_where_there_is_no_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.processes._PROC", tmp_path)
    me = process_start(os.getpid())
    if me is not None:  # Not every system has a `ps`.
        assert me != ""
        assert is_alive(os.getpid(), me)
        assert not is_alive(os.getpid(), "another")


def test_default_patience_is_some_heartbeats() -> None:
    assert 5 <= lock.INTERVAL * lock.PATIENCE <= 60
