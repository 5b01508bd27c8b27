"""The fused dense step in Triton's interpreter."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lpgpu.kernels import dense_step
from lpgpu.kernels.dense_step import operators, tiles
from lpgpu.kernels.dispatch import KernelFallbackError
from lpgpu.kernels.launch import forget_plans
from lpgpu.kernels.sweep import Sweep, Terms
from tests.kernels.fused import dense
from tests.kernels.fused.dense import Case
from tests.kernels.fused.inputs import ACTIVATIONS
from tests.kernels.fused.strategies import sweeps
from tests.kernels.steps import opcheck

DTYPES = [torch.float64, torch.float32]
EXAMPLES = settings(max_examples=20)

cases = st.builds(
    Case,
    batch=st.sampled_from([1, 3, 17, 33]),
    width=st.sampled_from([3, 16, 20, 32]),
    activation=st.sampled_from(ACTIVATIONS),
    bias=st.booleans(),
    order=st.sampled_from(sorted(dense.ORDERS)),
    dtype=st.sampled_from(DTYPES),
)
options = st.fixed_dictionaries({name: st.booleans() for name in ("adjoint", "rhs", "delta", "products")})

RAGGED = example(
    Case(3, 5), Sweep(5, 0, 4, 3), {"adjoint": False, "rhs": True, "delta": True, "products": True}
)  # whose last interval ends after one step


@RAGGED
@EXAMPLES
@given(cases, sweeps(), options)
def test_resident_sweep(case: Case, sweep: Sweep, options: dict[str, bool]) -> None:
    dense.check_sweep(case, sweep, **options, launches=1)


@RAGGED
@EXAMPLES
@given(cases, sweeps(), options)
def test_sweep_step_by_step(case: Case, sweep: Sweep, options: dict[str, bool]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "resident_tile", lambda *_: None)
        patch.setattr(tiles, "step_tile", lambda *_: tiles.Tile(16, 16, 16, 4, 1))
        forget_plans()
        dense.check_sweep(case, sweep, **options, launches=len(list(sweep.marched())))
    forget_plans()


@EXAMPLES
@given(cases, st.integers(1, 3))
def test_step(case: Case, layers: int) -> None:
    dense.check_step(case, layers)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_half_precision(activation: str) -> None:
    case = Case(batch=17, width=20, activation=activation, dtype=torch.float16)
    dense.check_step(case, 2)
    dense.check_sweep(case, Sweep(5, 0, 3, 2), adjoint=False, rhs=True, delta=True, products=True)


@pytest.mark.parametrize("adjoint", [False, True])
def test_launches_do_not_depend_on_intervals_or_batch(adjoint: bool) -> None:
    options = {"rhs": True, "delta": False, "products": False, "launches": 1}
    for intervals, batch in ((1, 1), (3, 40)):
        sweep = Sweep(3 * intervals, 1 if adjoint else 0, 3, 2, reverse=adjoint)
        dense.check_sweep(Case(batch=batch, width=5), sweep, adjoint=adjoint, **options)


@pytest.mark.parametrize("activation, bias", [("tanh", False), ("silu", True)])
def test_function_is_differentiable(activation: str, bias: bool) -> None:
    case = Case(batch=2, width=3, activation=activation, bias=bias)
    u, w, b = dense.leaves(case, 2)
    wanted = [t for t in (u, w, b) if t is not None]
    assert torch.autograd.gradcheck(
        lambda *t: dense_step.dense_ode_step(*t, *([] if bias else [None]), dense.DT, activation),
        wanted,
        fast_mode=True,
    )


def test_operators_pass_opcheck() -> None:
    """Under the interpreter too, by the fused kernels."""
    case, sweep = Case(batch=2, width=3), Sweep(3, 0, 2, 1)
    torch.library.opcheck(operators.dense_ode_step, (*dense.leaves(case, 2), dense.DT, "tanh"))
    (w, b), terms = case.weights(3), Terms(case.states(4), products=case.states(2))
    opcheck(operators.sweep, case.states(4), w, b, dense.DT, "tanh", sweep, terms)
    opcheck(operators.adjoint_sweep, case.states(4), case.saved(3), w, dense.DT, "tanh", sweep, terms)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-1, 1e-3, 1e-6])
def test_tanh_of_small_numbers_keeps_its_digits(scale: float, dtype: torch.dtype) -> None:
    """As accurate, relative to itself, as the number."""
    u, w = scale * (1 + torch.rand(1, 4, 16, dtype=dtype)), torch.eye(16, dtype=dtype)[None]
    relative = (dense_step.linearise(u, w, None, "tanh").double() / torch.tanh(u.double()) - 1).abs().max()
    assert relative < (1e-14 if dtype == torch.float64 else 1e-6)


def test_bfloat16_is_refused_here() -> None:
    u = torch.zeros(1, 2, 3, dtype=torch.bfloat16)
    with pytest.raises(KernelFallbackError, match="bfloat16"):
        dense_step.advance(u, torch.zeros(1, 3, 3, dtype=u.dtype), None, 0.1, "tanh", torch.empty_like(u))


def test_tensors_that_do_not_go_together_are_refused() -> None:
    u, w = torch.zeros(2, 4, 3), torch.zeros(2, 3, 3)
    with pytest.raises(ValueError, match=r"w has shape \(2, 3, 3\); expected \(2, 4, 4\)"):
        dense_step.advance(torch.zeros(2, 3, 4), w, None, 0.1, "tanh", u)
    with pytest.raises(ValueError, match=r"out has shape \(1, 4, 3\); expected \(2, 4, 3\)"):
        dense_step.advance(u, w, None, 0.1, "tanh", u[:1])
    with pytest.raises(ValueError, match=r"b is torch.float64 on cpu; expected torch.float32 on cpu"):
        dense_step.linearise(u, w, torch.zeros(2, 3, dtype=torch.float64), "tanh")
