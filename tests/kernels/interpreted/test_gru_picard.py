"""Fused Picard steps of a GRU in Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpgpu.kernels import implicit_gru
from lpgpu.kernels.implicit_gru import operators, tiles
from lpgpu.kernels.launch import forget_plans
from lpgpu.kernels.sweep import Sweep
from tests.kernels.fused import gru, gru_picard
from tests.kernels.fused.gru import Case
from tests.kernels.fused.strategies import sweeps
from tests.kernels.steps import opcheck

EXAMPLES = settings(max_examples=15)

cases = st.builds(
    Case,
    batch=st.sampled_from([1, 3, 17]),
    width=st.sampled_from([3, 16, 20, 32]),
    formulation=st.sampled_from(implicit_gru.FORMULATIONS),
    bias=st.booleans(),
    order=st.sampled_from(sorted(gru.ORDERS)),
    dt=st.sampled_from([0.3, 1.0]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    ended=st.booleans(),
)
spans, orders = st.integers(1, 5), st.integers(1, 3)


def launches(sweep: Sweep, order: int) -> dict[str, int]:
    if order == 1 and not sweep.reverse:
        return {gru_picard.MARCH: 1}
    return {gru_picard.ADJOINT if sweep.reverse else gru_picard.FORWARD: order * len(list(sweep.marched()))}


@EXAMPLES
@given(cases, st.integers(1, 3), spans, orders, st.booleans())
def test_steps(case: Case, count: int, span: int, order: int, adjoint: bool) -> None:
    gru_picard.check_step(case, count, span, order, adjoint=adjoint)


@EXAMPLES
@given(cases, spans, orders, sweeps(), st.booleans())
def test_sweeps(case: Case, span: int, order: int, sweep: Sweep, rhs: bool) -> None:
    """One launch in all forward for order 1, else one for each step and iteration."""
    gru_picard.check_sweep(case, span, order, sweep, rhs=rhs, launches=launches(sweep, order))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("depth", [16, 64], ids=["summed in blocks", "held"])
def test_tiles(depth: int, adjoint: bool, order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "picard_tile", lambda *_, **__: tiles.Tile("tiled", 16, 16, depth, 4, 2, 0, ""))
    forget_plans()
    gru_picard.check_step(Case(5, 40), 2, 4, order, adjoint=adjoint)
    forget_plans()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("adjoint", [False, True])
def test_half_precision(order: int, adjoint: bool) -> None:
    case, sweep = Case(17, 40, dtype=torch.float16), Sweep(3, 2 * adjoint, 3, 3, reverse=adjoint)
    gru_picard.check_step(case, 2, 5, order, adjoint=adjoint)
    gru_picard.check_sweep(case, 5, order, sweep, rhs=True, launches=launches(sweep, order))


@pytest.mark.parametrize("formulation", implicit_gru.FORMULATIONS)
def test_past_the_end_the_state_is_held(formulation: str) -> None:
    """Where x_z is +∞, exactly, by steps and marches."""
    case = Case(4, 20, formulation)
    x, _ = gru_picard.runs(case, 2, 3, 3)
    x[..., 20:40] = torch.inf
    h, out, cell = case.states(3), case.states(2), case.cell()
    implicit_gru.picard(h[:2], x, cell, 2, out)
    assert torch.equal(out, h[:2])
    implicit_gru.picard_sweep(h, x, cell, 1, Sweep(2, 0, 2, 2))
    assert torch.equal(h, h[:1].expand_as(h))


def test_operators_pass_opcheck() -> None:
    case, sweep = Case(2, 3), Sweep(3, 0, 2, 1)
    x, at = gru_picard.runs(case, 3, 2, 2)
    opcheck(operators.picard_sweep, case.states(4), x, case.cell(), 2, sweep, case.states(4))
    opcheck(operators.adjoint_picard_sweep, case.states(4), at, case.cell().w, 1, sweep, None)


def test_what_does_not_go_together_is_refused() -> None:
    case = Case(2, 3)
    (x, at), cell = gru_picard.runs(case, 2, 4, 4), case.cell()
    u, out = case.states(2), case.states(2)
    with pytest.raises(ValueError, match="order is 0; expected at least 1"):
        implicit_gru.picard(u, x, cell, 0, out)
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 2, 9\); expected \(2, 4, 2, 9\)"):
        implicit_gru.picard(u, x[1:], cell, 1, out)
    with pytest.raises(ValueError, match=r"a has shape \(1, 4, 2, 3\); expected \(2, 4, 2, 3\)"):
        implicit_gru.adjoint_picard(u, at[1:], cell.w, 1, out)
