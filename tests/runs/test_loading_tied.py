"""Tensors of a file that are put into a module that is there."""

from pathlib import Path

import pytest
import torch
from torch import nn

from runner.errors import MismatchError
from runner.runs.fitting import fit


class Two(nn.Module):
    def __init__(self, tie: bool = False) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        if tie:
            self.other.weight = self.one.weight


def test_tensors_that_differ_are_not_loaded_into_one(tmp_path: Path) -> None:
    model = Two(tie=True)
    before = model.one.weight.detach().clone()
    said = r"one\.weight and other\.weight are one tensor in the model, and differ in the file"
    with pytest.raises(MismatchError, match=rf"net\.pt: cannot be loaded into Two: {said}; load it into the model"):
        fit(model, Two().state_dict(), where=tmp_path / "net.pt")
    assert torch.equal(model.one.weight, before)
    with pytest.warns(UserWarning, match=said):
        fit(model, Two().state_dict(), where=tmp_path / "net.pt", strict=False)
    equal = {name: torch.full((2, 2), torch.nan) for name in ("one.weight", "other.weight")}
    fit(model, equal, where=tmp_path / "net.pt")
    assert bool(model.other.weight.isnan().all())
