"""The fused GRU kernels in Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpgpu.kernels import implicit_gru
from lpgpu.kernels.dispatch import KernelFallbackError
from lpgpu.kernels.implicit_gru import operators, reference, tiles
from lpgpu.kernels.sweep import Sweep, Terms
from tests.kernels.fused import gru
from tests.kernels.fused.gru import Case
from tests.kernels.fused.strategies import sweeps
from tests.kernels.steps import opcheck

EXAMPLES = settings(max_examples=20)
SMALL = tiles.Tile("tiled", 16, 16, 16, 4, 2, 0, "")

cases = st.builds(
    Case,
    batch=st.sampled_from([1, 3, 7, 17]),
    width=st.sampled_from([3, 16, 20, 32]),
    formulation=st.sampled_from(implicit_gru.FORMULATIONS),
    bias=st.booleans(),
    order=st.sampled_from(sorted(gru.ORDERS)),
    dt=st.sampled_from([0.3, 1.0, 4.0]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    ended=st.booleans(),
)
options = st.fixed_dictionaries({name: st.booleans() for name in ("rhs", "delta", "products")})


@EXAMPLES
@given(cases, sweeps(), options, st.sampled_from(gru.WAYS))
def test_resident_sweep(case: Case, sweep: Sweep, options: dict[str, bool], way: str) -> None:
    gru.check_sweep(case, sweep, **options, way=way, launches=1)


@EXAMPLES
@given(cases, sweeps(), options, st.sampled_from(["forward", "adjoint"]))
def test_sweep_step_by_step(case: Case, sweep: Sweep, options: dict[str, bool], way: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "tile", lambda *_, **__: SMALL)
        gru.check_sweep(case, sweep, **options, way=way, launches=len(list(sweep.marched())))


@pytest.mark.parametrize("way", gru.WAYS)
@pytest.mark.parametrize("formulation", implicit_gru.FORMULATIONS)
def test_short_last_interval(formulation: str, way: str) -> None:
    """With every term: what lies beyond the window is not touched, and the products end where the interval does."""
    case, terms = Case(batch=3, width=20, formulation=formulation), {"rhs": True, "delta": True, "products": True}
    gru.check_sweep(case, Sweep(8, 1, 4, 3), **terms, way=way, launches=1)
    gru.check_sweep(case, Sweep(7, 0, 3, 2), **terms, way=way, launches=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "tile", lambda *_, **__: SMALL)
        if way != "recomputed":
            gru.check_sweep(case, Sweep(8, 1, 4, 3), **terms, way=way, launches=3)


@pytest.mark.parametrize("way", gru.WAYS)
@pytest.mark.parametrize("formulation", implicit_gru.FORMULATIONS)
def test_reverse_with_every_term(formulation: str, way: str) -> None:
    case, terms = Case(batch=3, width=20, formulation=formulation), {"rhs": True, "delta": True, "products": True}
    gru.check_sweep(case, Sweep(8, 3, 4, 3, reverse=True), **terms, way=way, launches=1)


@settings(max_examples=10)
@given(cases, st.integers(1, 2))
def test_steps(case: Case, layers: int) -> None:
    gru.check_steps(case, layers)


@pytest.mark.parametrize("formulation", implicit_gru.FORMULATIONS)
def test_half_precision(formulation: str) -> None:
    case = Case(batch=5, width=20, formulation=formulation, dtype=torch.float16)
    gru.check_steps(case, 2)
    for way in gru.WAYS:
        gru.check_sweep(case, Sweep(5, 0, 3, 2), way=way, rhs=True, delta=True, products=True, launches=1)


def test_products_with_lambda_do_not_leave_the_range_of_half_precision() -> None:
    gru.check_half_range(20, "cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("formulation", implicit_gru.FORMULATIONS)
def test_past_the_end_the_state_is_held_and_so_is_the_adjoint(formulation: str, dtype: torch.dtype) -> None:
    gru.check_ended(Case(batch=4, width=20, formulation=formulation, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [1e-1, 1e-3, 1e-6])
def test_small_candidates_keep_their_digits(scale: float, dtype: torch.dtype) -> None:
    """n = tanh of a small number is as accurate, relative to itself, as that number."""
    case = Case(batch=4, width=16, bias=False, dtype=dtype)
    x, cell = scale * case.inputs(2), case.cell()
    h = torch.zeros(2, 4, 16, dtype=dtype)
    out, expected = torch.empty_like(h), torch.empty_like(h, dtype=torch.float64)
    implicit_gru.advance(h, x, cell, out)
    reference.advance(h.double(), x.double(), gru.doubled_cell(cell), expected)
    relative = ((out.double() - expected) / expected).abs().max()
    assert relative < (1e-14 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("way", gru.WAYS)
def test_launches_do_not_depend_on_intervals_or_batch(way: str) -> None:
    for intervals, batch in ((1, 1), (3, 40)):
        sweep = Sweep(3 * intervals, 1, 3, 2, reverse=way != "forward")
        case = Case(batch=batch, width=5)
        gru.check_sweep(case, sweep, way=way, rhs=True, delta=False, products=False, launches=1)


@pytest.mark.parametrize("formulation", implicit_gru.FORMULATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_function_is_differentiable(formulation: str, bias: bool) -> None:
    case = Case(batch=2, width=3, formulation=formulation, bias=bias)
    rest = (*(() if bias else (None,)), *case.options)
    assert torch.autograd.gradcheck(lambda *t: implicit_gru.gru_step(*t, *rest), gru.leaves(case, 2), fast_mode=True)


def test_a_second_derivative_is_refused() -> None:
    case = Case(batch=2, width=3)
    leaves = gru.leaves(case, 1)
    (first,) = torch.autograd.grad(
        implicit_gru.gru_step(*leaves, *case.options).sum(), leaves[1], create_graph=True
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="once"):
        first.sum().backward()


def test_operators_pass_opcheck() -> None:
    """Under the interpreter too, by the fused kernels."""
    case, sweep = Case(batch=2, width=3), Sweep(3, 0, 2, 1)
    torch.library.opcheck(operators.gru_step, (*gru.leaves(case, 2), *case.options))
    x, at, cell = case.inputs(3), case.coefficients(3), case.cell()
    terms = Terms(case.states(4), products=case.states(2))
    opcheck(operators.sweep, case.states(4), x, cell, sweep, terms)
    opcheck(operators.adjoint_sweep, case.states(4), at, cell.w, sweep, terms)
    opcheck(operators.adjoint_sweep_recomputed, case.states(4), case.states(3), x, cell, sweep, terms)


def test_recomputing_is_refused_where_w_does_not_fit_twice() -> None:
    case, sweep = Case(batch=1, width=40), Sweep(2, 1, 2, 2, reverse=True)
    assert tiles.tile(40, case.dtype, 90, kind="recomputed").kind == "tiled"
    tensors = case.states(3), case.states(2), case.inputs(2)
    with pytest.raises(KernelFallbackError, match="linearise"):
        implicit_gru.adjoint_sweep_recomputed(*tensors, case.cell(), sweep)


def test_units_that_do_not_lie_side_by_side_are_refused() -> None:
    case = Case(batch=2, width=4)
    h = case.states(1).transpose(1, 2).contiguous().transpose(1, 2)
    with pytest.raises(KernelFallbackError, match="stride"):
        implicit_gru.advance(h, case.inputs(1), case.cell(), torch.empty_like(h))


@settings(max_examples=10)
@given(cases, st.integers(1, 3))
def test_at_zero(case: Case, layers: int) -> None:
    gru.check_at_zero(case, layers)
