import subprocess
import sys


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_torch_works_when_its_library_was_loaded_ahead() -> None:
    run("""
import sys, threading
from runner.cli.ahead import load_torch_ahead
load_torch_ahead()
assert "torch" not in sys.modules
(thread,) = [thread for thread in threading.enumerate() if thread.name == "torch-ahead"]
thread.join()
maps = open("/proc/self/maps").read() if sys.platform == "linux" else "libtorch_cpu"
assert "libtorch_cpu" in maps
import torch
model = torch.nn.Linear(8, 8)
model(torch.ones(2, 8)).sum().backward()
assert torch.linalg.inv(torch.eye(3)).sum() == 3
""")


def test_nothing_is_done_where_torch_is_imported_or_absent() -> None:
    run("""
import sys, threading, torch
from runner.cli.ahead import load_torch_ahead
before = threading.active_count()
load_torch_ahead()
assert threading.active_count() == before
""")
    run("""
import sys, threading
sys.path[:] = [path for path in sys.path if "packages" not in path]
from runner.cli.ahead import load_torch_ahead
load_torch_ahead()
assert threading.active_count() == 1
""")
