import os
import random

import numpy as np
import pytest
import torch

from runner.config.schema import Runtime
from runner.runs.environment import process_settings


def runtime(**changes: object) -> Runtime:
    return Runtime(**{"device": "cpu", "workers": 0, "threads": None, "compile": False, "progress": False} | changes)


def switches() -> tuple[object, ...]:
    return (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("workspace", [None, ":16:8"])
@pytest.mark.parametrize("before", ["default", "warn"])
def test_everything_is_as_it_was_before(
    monkeypatch: pytest.MonkeyPatch, compiled: bool, workspace: str | None, before: str
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    torch.set_deterministic_debug_mode(before)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    try:
        found = switches()
        with (
            pytest.raises(KeyError, match="inside"),
            process_settings(runtime(threads=3, compile=compiled), deterministic=True),
        ):
            assert switches() == (3, 2, False, False, workspace or ":4096:8")
            raise KeyError("inside")
        assert switches() == found
    finally:
        torch.set_deterministic_debug_mode("default")


def test_the_generators_go_on_as_if_nothing_had_been_drawn() -> None:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    expected = draws()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    with process_settings(runtime(), deterministic=False):
        draws()
    assert draws() == expected


def test_nothing_is_touched_where_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    found = switches()
    with process_settings(runtime(), deterministic=False):
        assert switches() == found
