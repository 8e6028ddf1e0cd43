"""A handler under torchrun: two real processes train what one trains, one of them saves, and all hear of an error."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent))

import handler_ranks

PROGRAM = Path(__file__).with_name("handler_ranks.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of a single process, and of the two ranks of another training."""
    alone, both = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("both")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    for folder in (alone, both):
        # One that every rank has but rank 0.
        (folder / "only1.pth").write_bytes(b"PK")
    processes = [
        subprocess.Popen([sys.executable, str(PROGRAM), str(folder)], env={**os.environ, **environment})
        for folder, environment in [(both, rank) for rank in ranks]
    ]
    handler_ranks.main(alone)
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [
        torch.load(path, weights_only=True)
        for path in (alone / "results0.pt", both / "results0.pt", both / "results1.pt")
    ]


def test_two_processes_train_what_one_trains(results: list[dict[str, Any]]) -> None:
    alone, first, second = results
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name])
        # Sums over the samples in another order, and 16 steps of AdamW, which divides by the root of small numbers.
        torch.testing.assert_close(value, alone["weights"][name], rtol=1e-3, atol=1e-4)
    assert first["history"] == second["history"]
    assert len(first["history"]) == 4
    for mine, theirs in zip(first["history"], alone["history"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_all_processes_go_on_exactly_from_the_file(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["loaded_history"] == result["history"]
        for name, value in result["weights"].items():
            assert torch.equal(value, result["loaded"][name])
    for name, value in results[1]["averaged"].items():
        assert torch.equal(value, results[2]["averaged"][name])


def test_rank_0_alone_saves(results: list[dict[str, Any]]) -> None:
    alone, first, second = results
    assert alone["saved"] == first["saved"] == ["2.pth", "4.pth"]
    assert second["saved"] == []


def test_an_error_on_one_rank_is_raised_on_all(results: list[dict[str, Any]]) -> None:
    alone, first, second = results
    for one in (alone, first, second):
        assert len(one["failed"]) == 3
    saving, loading, training = zip(first["failed"], second["failed"], strict=True)
    assert saving[0].startswith("SaveError: ")
    assert saving[1] == saving[0].replace("SaveError: ", "SaveError: on rank 0: ")
    assert "only0.pth: is not there" in loading[0]
    assert loading[0].startswith("MissingError: ")
    # What one process stumbles over alone breaks off what the other waits for.
    assert training == ("RuntimeError", "IndexError")
    assert alone["failed"][2] == "IndexError"
