import pytest
import torch

from runner.training.precision import autocast, gradient_scaler

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_matrix_product_is_computed_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    one = torch.ones(2, 2)
    context = autocast(precision, CPU)
    for _ in range(2):  # The same context serves every step.
        with context:
            assert (one @ one).dtype == dtype
    assert (one @ one).dtype == torch.float32


def test_only_fp16_has_a_scaler() -> None:
    assert gradient_scaler("fp32", CPU) is None
    assert gradient_scaler("bf16", CPU) is None
    scaler = gradient_scaler("fp16", CPU)
    assert scaler is not None
    assert scaler.is_enabled()
