import os
import signal
import subprocess
import sys

from runner.cli.interrupt import leaving_at_once

SCRIPT = """
import os, signal
from runner.cli.interrupt import leaving_at_once
with leaving_at_once():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print("swallowed")
"""


def test_an_interrupt_that_would_be_swallowed_ends_the_process() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_handler_is_put_back_and_somebody_elses_stays() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.default_int_handler, signal.SIG_IGN):
            signal.signal(signal.SIGINT, handler)
            with leaving_at_once():
                inside = signal.getsignal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is handler
            assert (inside is handler) == (handler is signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGINT, before)
