import os
import signal
import subprocess
import sys
import threading

import pytest

from runner.training.signals import CAUGHT, Signals, caught

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
"""


def child(what: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", CHILD, what], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGTERM, "SIGTERM 143"), (signal.SIGINT, "SIGINT 130"), (signal.SIGHUP, "SIGHUP 129")]
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
        process.send_signal(second)
        assert process.wait(timeout=30) == -second


def test_a_closed_terminal_may_send_sighup_twice() -> None:
    with child("ends") as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        output, _ = process.communicate(timeout=30)
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


def test_handlers_are_put_back_even_after_an_error() -> None:
    before = [signal.getsignal(number) for number in CAUGHT]
    with pytest.raises(KeyError), caught() as signals:
        assert [signal.getsignal(number) for number in CAUGHT] == [signals.note] * 3
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
