import datetime
import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runner.checkpoint.pickled import read_pickled
from runner.errors import FormatError


@pytest.mark.parametrize(
    "beside",
    [
        {"loss": np.float64(0.5), "lowest": np.float32(0.25), "good": np.bool_(True)},
        {"losses": np.arange(3), "names": np.array(["a", None], dtype=object), "none": np.zeros((0, 2))},
        {"where": Path("x"), "when": datetime.datetime(2024, 1, 1), "loss": np.float64(0.5)},
    ],
    ids=["numbers", "arrays", "more"],
)
def test_numbers_of_numpy_beside_weights_do_not_keep_from_reading_them(tmp_path: Path, beside: dict[str, Any]) -> None:
    path = tmp_path / "a.pt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3, **beside}, path)
    value, not_built = read_pickled(path)
    assert torch.equal(value["state_dict"]["w"], torch.ones(2)) and value["epoch"] == 3
    assert value.keys() == {"state_dict", "epoch", *beside}
    assert any(name.startswith("numpy.") for name in not_built)


class _Acting:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("EXECUTED"),)


def _of_before_zip_files(path: Path) -> None:
    torch.save({"a": _Acting(), "w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


def _zip(path: Path) -> None:
    torch.save({"a": os.system}, path)


def _plain(path: Path, protocol: int) -> None:
    path.write_bytes(pickle.dumps([{"a": _Acting()}, _Acting()], protocol=protocol))


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (_of_before_zip_files, "__builtin__.getattr, pathlib.Path"),
        (_zip, "posix.system"),
        (lambda path: _plain(path, 2), "__builtin__.getattr, pathlib.Path"),
        (lambda path: _plain(path, 4), "pathlib.Path"),
        (lambda path: path.write_bytes(pickle.dumps({"a": [1, 2]}, 2)), "a pickle that torch.save did not write"),
        (lambda path: path.write_bytes(pickle.dumps({"a": [1, 2]}, 5)), "a pickle that torch.save did not write"),
    ],
    ids=["old format", "zip", "protocol 2", "protocol 4", "numbers", "numbers, protocol 5"],
)
def test_a_pickle_says_what_it_names_and_never_how_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Any], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.pt")
    with pytest.raises(
        FormatError, match=rf"holds something else than weights \(.*({named}).*nothing was run"
    ) as caught:
        read_pickled(tmp_path / "a.pt")
    assert "weights_only" not in "".join(traceback.format_exception(caught.value))
    assert not (tmp_path / "EXECUTED").exists()
