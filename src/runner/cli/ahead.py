"""Loading torch's library while the config is composed.

A fifth of `import torch` is the system's loader at work on one large library. ctypes lets go of the interpreter
meanwhile, so a thread can have that done beside Hydra; `import torch` then finds the library in the process.
"""

import ctypes
import importlib.util
import sys
import threading
from pathlib import Path

# In torch's own order: what has to be visible to everybody, then the large one.
_LIBRARIES = (("libtorch_global_deps.so", ctypes.RTLD_GLOBAL), ("libtorch_cpu.so", ctypes.RTLD_LOCAL))


def load_torch_ahead() -> None:
    """Begin to load torch's library. Does nothing where it is loaded already, or lies elsewhere than on Linux."""
    if "torch" in sys.modules:
        return
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return
    libraries = Path(spec.origin).parent / "lib"
    if all((libraries / name).is_file() for name, _ in _LIBRARIES):
        threading.Thread(target=_load, args=(libraries,), name="torch-ahead", daemon=True).start()


def _load(libraries: Path) -> None:
    try:
        for name, mode in _LIBRARIES:
            ctypes.CDLL(str(libraries / name), mode=mode)
    except OSError:
        # `import torch` meets the same error and says it better.
        return
