"""The fused affine scan in Triton's interpreter."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.fused.affine_scan import Case, check

cases = st.builds(
    Case,
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.sampled_from([1, 3, 16, 70])),
    orders=st.tuples(
        st.sampled_from(["contiguous", "batch innermost"]),
        st.sampled_from(["contiguous", "batch innermost", "one anchor"]),
    ),
    with_decay=st.booleans(),
    reverse=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16]),
)


@settings(max_examples=30)
@given(cases)
def test_against_the_formula(case: Case) -> None:
    check(case)
