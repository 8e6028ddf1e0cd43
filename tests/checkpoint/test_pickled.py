import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runner.checkpoint.pickled import read_pickled


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
