import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from runner.data import workers
from runner.training.signals import CAUGHT, SENT_TWICE, Signals, caught, leaves_at_once

CHILD = """
import signal, sys
from runner.training.signals import caught
signal.signal(signal.SIGINT, signal.default_int_handler)
with caught() as signals:
    print("ready", flush=True)
    while signals.received is None:
        signal.pause()
    print(signals.received.name, signals.exit_code, flush=True)
    if sys.argv[1] == "stays":
        signal.pause()
    if sys.argv[1] == "waits":
        sys.stdin.readline()
"""


def child(what: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGTERM, "SIGTERM 143"),
        (signal.SIGINT, "SIGINT 130"),
        (signal.SIGHUP, "SIGHUP 129"),
        (signal.SIGUSR1, "SIGUSR1 138"),
    ],
)
def test_the_first_signal_is_noted_and_the_process_goes_on(number: signal.Signals, said: str) -> None:
    with child("ends") as process:
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    assert output == f"{said}\n"
    assert process.returncode == 0


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_kills(second: signal.Signals) -> None:
    with child("stays") as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "SIGTERM 143\n"
        time.sleep(SENT_TWICE)
        process.send_signal(second)
        assert process.wait(timeout=30) == -second


def test_a_signal_sent_to_the_process_and_to_its_group_counts_once() -> None:
    # As `timeout` does; the child has a group of its own.
    with child("waits") as process:
        os.kill(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate("\n", timeout=30)
    assert output == "SIGTERM 143\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("asked", "before", "seconds", "at_once"),
    [
        (signal.SIGINT, signal.SIGINT, 2 * SENT_TWICE, True),
        (signal.SIGTERM, signal.SIGTERM, 2 * SENT_TWICE, True),
        (signal.SIGINT, signal.SIGINT, SENT_TWICE / 2, False),
        (signal.SIGTERM, signal.SIGTERM, SENT_TWICE / 2, False),
        (signal.SIGINT, signal.SIGTERM, 0.0, True),
        (signal.SIGTERM, signal.SIGINT, 0.0, True),
        (signal.SIGINT, signal.SIGHUP, 0.0, True),
        (signal.SIGINT, signal.SIGUSR1, 0.0, True),
        (signal.SIGTERM, signal.SIGHUP, 0.0, True),
        (signal.SIGTERM, signal.SIGUSR1, 300.0, False),
        (signal.SIGUSR1, signal.SIGTERM, 300.0, False),
        (signal.SIGUSR1, signal.SIGUSR1, 300.0, False),
        (signal.SIGHUP, signal.SIGHUP, 300.0, False),
        (signal.SIGHUP, signal.SIGTERM, 300.0, False),
    ],
)
def test_whether_a_later_signal_leaves_at_once(
    asked: signal.Signals, before: signal.Signals, seconds: float, at_once: bool
) -> None:
    assert leaves_at_once(asked, before=before, seconds=seconds) is at_once


def test_the_workers_leave_to_the_main_process_what_it_catches() -> None:
    assert set(workers._SIGNALS) == set(CAUGHT)


def test_a_closed_terminal_may_send_sighup_twice() -> None:
    with child("waits") as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        output, _ = process.communicate("\n", timeout=30)
    assert output == "SIGHUP 129\n"
    assert process.returncode == 0


def test_a_sighup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with caught() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_sigusr1_that_somebody_handles_stays_his() -> None:
    his: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: his.append(number))
    try:
        with caught() as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signals.received is None
        assert his == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_handlers_are_put_back_even_after_an_error() -> None:
    before = [signal.getsignal(number) for number in CAUGHT]
    with pytest.raises(KeyError), caught() as signals:
        assert [signal.getsignal(number) for number in CAUGHT] == [signals.note] * len(CAUGHT)
        raise KeyError("an error")
    assert [signal.getsignal(number) for number in CAUGHT] == before


def test_a_signal_is_caught_where_the_handler_before_would_have_raised() -> None:
    with caught() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
    assert signals.exit_code == 130


def test_in_another_thread_nothing_is_caught() -> None:
    before = [signal.getsignal(number) for number in CAUGHT]
    seen: list[object] = []

    def work() -> None:
        with caught() as signals:
            seen.extend([signal.getsignal(number) for number in CAUGHT])
            seen.append(signals.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [*before, None]


def test_without_a_signal_the_exit_code_is_0() -> None:
    assert Signals().exit_code == 0
