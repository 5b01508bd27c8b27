"""The fused convolutional step in Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lpgpu.kernels import conv_step
from lpgpu.kernels.conv_step import Filter, operators, tiles
from lpgpu.kernels.launch import forget_plans
from lpgpu.kernels.sweep import Sweep, Terms
from tests.kernels.fused import conv
from tests.kernels.fused.conv import Case
from tests.kernels.fused.inputs import ACTIVATIONS
from tests.kernels.fused.strategies import sweeps
from tests.kernels.steps import opcheck

cases = st.builds(
    Case,
    shape=st.tuples(st.integers(1, 2), st.sampled_from([1, 3, 8, 16, 20]), st.integers(1, 5), st.integers(1, 5)),
    convolutions=st.sampled_from([1, 2]),
    activation=st.sampled_from(ACTIVATIONS),
    bias=st.booleans(),
    order=st.sampled_from(sorted(conv.ORDERS)),
    packed=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)


@settings(max_examples=12)
@given(cases, sweeps(), st.fixed_dictionaries({name: st.booleans() for name in ("adjoint", "rhs", "delta")}))
def test_sweep(case: Case, sweep: Sweep, options: dict[str, bool]) -> None:
    conv.check_sweep(case, sweep, **options)


@settings(max_examples=8)
@given(cases, st.integers(1, 2))
def test_step(case: Case, layers: int) -> None:
    conv.check_step(case, layers)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_half_precision(activation: str) -> None:
    conv.check_step(Case((2, 8, 5, 6), 2, activation, dtype=torch.float16), 2)


def test_more_convolutions_than_two() -> None:
    case = Case((1, 3, 4, 4), 4)
    conv.check_step(case, 2)
    for adjoint in (False, True):
        conv.check_sweep(case, Sweep(4, 1 if adjoint else 0, 2, 1, adjoint), adjoint=adjoint, rhs=True, delta=False)


def test_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """More channels than a tile has columns, more pixels than a tile has rows, more blocks than splits."""
    monkeypatch.setattr(tiles, "step_tile", lambda *_: tiles.Tile(16, 16, 16, 4, 1))
    monkeypatch.setattr(tiles, "gradient_tile", lambda *_: tiles.GradientTile(16, 32, 16, 4, 1))
    monkeypatch.setattr("lpgpu.kernels.conv_step.fused._PROGRAMS", 2 * 2 * 10 * 2)
    forget_plans()
    conv.check_step(Case((1, 17, 3, 7), 2), 1)
    forget_plans()


@pytest.mark.parametrize("convolutions, bias", [(1, False), (2, True)])
def test_function_is_differentiable(convolutions: int, bias: bool) -> None:
    case = Case((1, 2, 2, 3), convolutions, "silu", bias, order="contiguous")
    tensors = conv.leaves(case, 1)

    def step(*given: Tensor) -> Tensor:
        remaining = iter(given)
        u, *parameters = [None if t is None else next(remaining) for t in tensors]
        filters = [Filter(w, b) for w, b in (parameters[:2], parameters[2:]) if w is not None]
        return conv_step.conv_ode_step(u, filters, conv.DT, case.activation)

    assert torch.autograd.gradcheck(step, [t for t in tensors if t is not None], fast_mode=True)


def test_operators_do_what_their_schemas_say() -> None:
    """By the fused kernels; the rest of opcheck looks at no kernel, and passes outside of the interpreter."""
    case, sweep, tests = (
        Case((1, 2, 2, 3), 2, order="contiguous"),
        Sweep(3, 0, 2, 1),
        ("test_schema", "test_faketensor"),
    )
    torch.library.opcheck(operators.conv_ode_step, (*conv.leaves(case, 2), conv.DT, "tanh"), test_utils=tests)
    filters, terms = case.filters(3), Terms(case.states(4))
    opcheck(operators.sweep, case.states(4), filters, conv.DT, "tanh", sweep, terms, test_utils=tests)
    saved = case.saved(filters)
    opcheck(operators.adjoint_sweep, case.states(4), saved, filters, conv.DT, "tanh", sweep, terms, test_utils=tests)
