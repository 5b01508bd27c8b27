"""Fused Picard steps over dense layers in Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpgpu.kernels import dense_step
from lpgpu.kernels.dense_step import operators, tiles
from lpgpu.kernels.launch import forget_plans
from lpgpu.kernels.sweep import Sweep
from tests.kernels.fused import dense, dense_picard
from tests.kernels.fused.dense import Case
from tests.kernels.fused.inputs import ACTIVATIONS
from tests.kernels.fused.strategies import sweeps
from tests.kernels.steps import opcheck

EXAMPLES = settings(max_examples=15)

cases = st.builds(
    Case,
    batch=st.sampled_from([1, 3, 17]),
    width=st.sampled_from([3, 16, 20, 32]),
    activation=st.sampled_from(ACTIVATIONS),
    bias=st.booleans(),
    order=st.sampled_from(sorted(dense.ORDERS)),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
spans, orders = st.integers(1, 6), st.integers(1, 3)


@EXAMPLES
@given(cases, st.integers(1, 3), spans, orders, st.booleans())
def test_steps(case: Case, count: int, span: int, order: int, adjoint: bool) -> None:
    dense_picard.check_step(case, count, span, order, adjoint=adjoint)


@EXAMPLES
@given(cases, spans, orders, sweeps(), st.booleans())
def test_sweeps(case: Case, span: int, order: int, sweep: Sweep, rhs: bool) -> None:
    """One launch in all for order 1, else one for each step and iteration."""
    steps = len(list(sweep.marched()))
    launches = {dense_picard.MANY: 1} if order == 1 else {dense_picard.ONE: order * steps}
    dense_picard.check_sweep(case, span, order, sweep, rhs=rhs, launches=launches)


@EXAMPLES
@given(cases, spans, sweeps(), st.booleans())
def test_sweeps_of_wide_layers(case: Case, span: int, sweep: Sweep, rhs: bool) -> None:
    """Whose march is not resident, with blocks of units to sum over, and larger tiles of many rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "picard_march_tile", lambda *_: None)
        patch.setattr(tiles, "picard_tile", lambda *_: tiles.PicardTile(32, 16, 16, 4, 1, 4))
        forget_plans()
        launches = {dense_picard.ONE: len(list(sweep.marched()))}
        dense_picard.check_sweep(case, span, 1, sweep, rhs=rhs, launches=launches)
    forget_plans()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("adjoint", [False, True])
def test_half_precision(order: int, adjoint: bool) -> None:
    case, sweep = Case(17, 40, dtype=torch.float16), Sweep(3, 2 * adjoint, 3, 3, reverse=adjoint)
    dense_picard.check_step(case, 2, 5, order, adjoint=adjoint)
    launches = {dense_picard.MANY: 1} if order == 1 else {dense_picard.ONE: 6}
    dense_picard.check_sweep(case, 5, order, sweep, rhs=True, launches=launches)


def test_operators_pass_opcheck() -> None:
    case, sweep = Case(2, 3), Sweep(3, 0, 2, 1)
    w, b, saved = dense_picard.runs(case, 3, 2, 2)
    opcheck(operators.picard_sweep, case.states(4), w, b, dense.DT, "tanh", 2, sweep, case.states(4))
    opcheck(operators.adjoint_picard_sweep, case.states(4), saved, w, dense.DT, "tanh", 1, sweep, None)


def test_what_does_not_go_together_is_refused() -> None:
    case = Case(2, 3)
    w, b, saved = dense_picard.runs(case, 2, 4, 4)
    u, out = case.states(2), case.states(2)
    with pytest.raises(ValueError, match="order is 0; expected at least 1"):
        dense_step.picard(u, w, b, dense.DT, "tanh", 0, out)
    with pytest.raises(ValueError, match=r"saved has shape \(2, 3, 2, 3\); expected \(2, 4, 2, 3\)"):
        dense_step.adjoint_picard(u, saved[:, 1:], w, dense.DT, "tanh", 1, out)
    with pytest.raises(ValueError, match=r"w has shape \(1, 4, 3, 3\); expected \(2, 4, 3, 3\)"):
        dense_step.picard(u, w[1:], b, dense.DT, "tanh", 1, out)
