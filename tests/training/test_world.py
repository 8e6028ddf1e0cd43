"""Two real processes train what one process trains on the same global batches."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

PROGRAM = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of a single process, and of the two ranks of another training."""
    directory = tmp_path_factory.mktemp("world")
    ranks = [(0, 1), (0, 2), (1, 2)]
    outs = [directory / f"{rank}-of-{size}.pt" for rank, size in ranks]
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(size), str(directory / f"store-{size}"), str(out)]
        )
        for (rank, size), out in zip(ranks, outs, strict=True)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    return [torch.load(out, weights_only=True) for out in outs]


def test_gradients_and_losses_are_those_of_one_process(results: list[dict[str, Any]]) -> None:
    alone, *ranks = results
    for rank in ranks:
        for mine, theirs in zip(rank["steps"], alone["steps"], strict=True):
            # Sums over the samples in another order: float32 rounds to 6e-8, over a few hundred numbers.
            assert mine == pytest.approx(theirs, rel=1e-5)
        for mine, theirs in zip(rank["gradients"], alone["gradients"], strict=True):
            assert mine.keys() == theirs.keys()
            for name, gradient in theirs.items():
                if gradient is None:
                    assert mine[name] is None, name
                else:
                    # The same, and five steps of AdamW, which divides by the root of small numbers, lie behind them.
                    torch.testing.assert_close(mine[name], gradient, rtol=1e-3, atol=1e-5)


def test_a_parameter_that_no_rank_has_used_has_no_gradient(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert all(gradients["never.weight"] is None for gradients in result["gradients"])
        assert any(gradients["sometimes.weight"] is not None for gradients in result["gradients"])


def test_both_ranks_have_the_same_parameters_and_metrics(results: list[dict[str, Any]]) -> None:
    alone, first, second = results
    for name, value in first["parameters"].items():
        assert torch.equal(value, second["parameters"][name]), name
    assert first["steps"] == second["steps"]
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["val_accuracy"] == alone["metrics"]["val_accuracy"]
    # Parameters differ by the rounding of their gradients.
    assert first["metrics"]["val_loss"] == pytest.approx(alone["metrics"]["val_loss"], rel=1e-4)


def test_an_evaluation_that_one_rank_breaks_off_is_none_on_all(results: list[dict[str, Any]]) -> None:
    assert all(result["broken_off"] for result in results)
