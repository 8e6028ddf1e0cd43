"""What a run sets for the whole process, and puts back when it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from runner.config.schema import Runtime
from runner.training import generators


@contextmanager
def process_settings(runtime: Runtime, *, deterministic: bool) -> Iterator[None]:
    """Threads and deterministic algorithms inside; afterwards these and the generators are as they were before."""
    # Its attributes are properties of the module that type checkers do not see.
    memory: Any = torch.utils.deterministic
    threads = torch.get_num_threads()
    algorithms = torch.get_deterministic_debug_mode()
    fill = memory.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    states = generators.capture()
    try:
        if runtime.threads is not None:
            torch.set_num_threads(runtime.threads)
        if deterministic:
            # cuBLAS is deterministic only with a workspace of fixed size, read when CUDA starts.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            # The same switch as use_deterministic_algorithms, which sets up torch's compiler too, and imports it.
            torch.set_deterministic_debug_mode("error")
            if runtime.compile:
                torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
            # Filling every new tensor finds reads of memory nobody wrote; it is not what makes results equal.
            memory.fill_uninitialized_memory = False
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(algorithms)
        if runtime.compile:
            torch.use_deterministic_algorithms(algorithms > 0, warn_only=algorithms == 1)
        memory.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        else:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace
        generators.restore(states)
