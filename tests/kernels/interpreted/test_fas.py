"""The fused FAS arithmetic in Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpgpu.kernels import fas
from lpgpu.kernels.launch import forget_plans
from tests.kernels.fused.fas import ORDERS, Case, check

orders = st.sampled_from(sorted(ORDERS))
cases = st.builds(
    Case,
    shape=st.tuples(st.integers(1, 5), st.integers(1, 7), st.sampled_from([1, 3, 16]), st.integers(1, 40)),
    orders=st.tuples(orders, orders, orders),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16]),
)


@settings(max_examples=40)
@given(cases, st.data())
def test_against_the_reference(case: Case, data: st.DataObject) -> None:
    check(case, data.draw(st.integers(1, case.shape[0])))


def test_more_blocks_than_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    from lpgpu.kernels.fas import fused

    monkeypatch.setattr(fused, "PROGRAMS", 4)
    forget_plans()
    check(Case((5, 3, 1000)), 4)
    forget_plans()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_norm_is_gathered_in_fp64(dtype: torch.dtype) -> None:
    """In fp16 the square of 300 overflows already; in fp32 that of 1e-24 vanishes."""
    for size in (300.0, 1e-5 if dtype.itemsize < 4 else 1e-24):
        norm = fas.residual_norm(torch.full((10, 10), size, dtype=dtype), torch.zeros(10, 10, dtype=dtype))
        assert float(norm) == pytest.approx(100 * size**2, rel=5e-2)


def test_no_points() -> None:
    assert fas.residual_norm(torch.empty(0, 3), torch.empty(0, 3)).item() == 0


def test_nan_is_not_lost() -> None:
    u = torch.zeros(2, 3)
    u[1, 2] = torch.nan
    assert fas.residual_norm(torch.zeros(2, 3), u).isnan()
