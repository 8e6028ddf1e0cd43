import pytest
import torch

from runner.data.tensors import Tensors
from runner.errors import DataError


def test_a_batch_is_the_rows_in_the_order_of_the_indices() -> None:
    x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
    dataset = Tensors(x, y)
    for indices in ([4, 0, 4], torch.tensor([4, 0, 4])):
        batch = dataset.__getitems__(indices)
        assert torch.equal(batch[0], x[[4, 0, 4]])
        assert torch.equal(batch[1], y[[4, 0, 4]])
    assert len(dataset) == 6
    assert torch.equal(dataset[3][0], x[3])


def test_a_batch_shares_no_memory_with_the_data() -> None:
    x = torch.arange(4.0)
    (batch,) = Tensors(x).__getitems__([0, 1])
    batch.zero_()
    assert torch.equal(x, torch.arange(4.0))


@pytest.mark.parametrize("tensors", [(), (torch.zeros(2), torch.zeros(3)), (torch.tensor(1.0),)])
def test_tensors_of_different_lengths_are_refused(tensors: tuple[torch.Tensor, ...]) -> None:
    with pytest.raises(
        DataError, match=r"^Tensors: shapes \[.*\]; wanted at least one tensor, all with the same number of rows$"
    ):
        Tensors(*tensors)
