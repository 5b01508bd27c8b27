"""The states that the dense step asks for."""

import pytest
import torch

from lpgpu.kernels import dense_step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_have_the_shape_and_dtype_of_the_batch(dtype: torch.dtype) -> None:
    states = dense_step.empty_states(7, torch.zeros(5, 3, dtype=dtype))
    assert (states.shape, states.dtype) == ((7, 5, 3), dtype)


def test_have_the_batch_innermost_on_a_cpu() -> None:
    assert dense_step.empty_states(7, torch.zeros(5, 3)).stride() == (15, 1, 5)
