"""The arithmetic of the full approximation scheme against its formulas."""

import pytest
import torch

from lpgpu.kernels import fas
from tests.assertions import TOLERANCE, assert_close_relative
from tests.kernels.steps import batch_innermost, contiguous, every_third

ORDERS = {"contiguous": contiguous, "batch innermost": batch_innermost, "strided": every_third}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_residual_norm_is_the_squared_distance(order) -> None:
    phi, u = (order(torch.randn(4, 5, 3, dtype=torch.float64)) for _ in range(2))
    assert_close_relative(fas.residual_norm(phi, u), ((phi - u) ** 2).sum())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_residual_norm_is_gathered_in_fp64(dtype: torch.dtype) -> None:
    """In fp16 the square of 300 overflows already; in fp32 that of 1e-24, an adjoint's of a scaled loss, vanishes."""
    for size in (300.0, 1e-5 if dtype.itemsize < 4 else 1e-24):
        norm = fas.residual_norm(torch.full((10, 10), size, dtype=dtype), torch.zeros(10, 10, dtype=dtype))
        assert norm.dtype == torch.float64
        assert norm.ndim == 0
        assert float(norm) == pytest.approx(100 * size**2, rel=5e-2)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_coarse_right_hand_side_overwrites_coarse_phi(order) -> None:
    coarse_phi, phi = (order(torch.randn(4, 5, 3, dtype=torch.float64)) for _ in range(2))
    expected, before = phi - coarse_phi, phi.clone()
    assert fas.coarse_right_hand_side_(coarse_phi, phi) is coarse_phi
    assert torch.equal(coarse_phi, expected)
    assert torch.equal(phi, before)


def test_coarse_right_hand_side_does_not_overflow_where_states_are_large() -> None:
    """φ and Φ_c near the largest half-precision number; u + r would be beyond it."""
    phi = torch.full((1, 3), 60000.0, dtype=torch.float16)
    assert torch.equal(fas.coarse_right_hand_side_(phi - 32, phi), torch.full_like(phi, 32))


def test_restriction_is_both_in_one_pass() -> None:
    """Also where φ has a point before the coarse level's first, and one after its last."""
    phi, u = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    coarse_phi = torch.randn(3, 2, 3, dtype=torch.float64)
    expected = phi[1:4] - coarse_phi
    assert_close_relative(fas.restrict_(coarse_phi, phi, u, 1), fas.residual_norm(phi[:4], u))
    assert torch.equal(coarse_phi, expected)


def test_restriction_refuses_points_that_phi_has_not() -> None:
    phi = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"u has shape \(3, 3\); expected \(2, 3\)"):
        fas.restrict_(torch.zeros(2, 3), phi, torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"coarse_phi has shape \(2, 3\); expected \(1, 3\)"):
        fas.restrict_(torch.zeros(2, 3), phi, phi, 1)
    with pytest.raises(ValueError, match="first is -1"):
        fas.restrict_(torch.zeros(2, 3), phi, phi, -1)
