"""Fused Picard steps over convolutional layers in Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpgpu.kernels import conv_step
from lpgpu.kernels.conv_step import operators
from lpgpu.kernels.sweep import Sweep
from tests.kernels.fused import conv, conv_picard
from tests.kernels.fused.conv import Case
from tests.kernels.fused.inputs import ACTIVATIONS
from tests.kernels.steps import opcheck

EXAMPLES = settings(max_examples=8)

cases = st.builds(
    Case,
    shape=st.tuples(st.integers(1, 2), st.sampled_from([2, 5]), st.integers(1, 4), st.integers(1, 4)),
    convolutions=st.integers(1, 3),
    activation=st.sampled_from(ACTIVATIONS),
    bias=st.booleans(),
    order=st.sampled_from(sorted(conv.ORDERS)),
    packed=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
spans, orders = st.integers(1, 5), st.integers(1, 3)


@EXAMPLES
@given(cases, st.integers(1, 2), spans, orders, st.booleans())
def test_steps(case: Case, count: int, span: int, order: int, adjoint: bool) -> None:
    conv_picard.check_step(case, count, span, order, adjoint=adjoint)


@pytest.mark.parametrize("sweep", [Sweep(3, 0, 2, 1), Sweep(2, 1, 2, 2, reverse=True)], ids=str)
@pytest.mark.parametrize("convolutions", [1, 2])
@pytest.mark.parametrize("order", [1, 2])
def test_sweeps(order: int, convolutions: int, sweep: Sweep) -> None:
    """With an activation that is not zero at zero: what stands beside the last layer of a run does not count."""
    conv_picard.check_sweep(Case((2, 3, 3, 4), convolutions, "smooth_relu"), 3, order, sweep, rhs=order == 1)


@pytest.mark.parametrize("adjoint", [False, True])
def test_half_precision_and_many_channels(adjoint: bool) -> None:
    case = Case((1, 40, 3, 3), 2, "smooth_relu", dtype=torch.float16, packed=True)
    conv_picard.check_step(case, 1, 3, 1, adjoint=adjoint)


def test_operators_pass_opcheck() -> None:
    case, sweep = Case((1, 2, 2, 2)), Sweep(2, 0, 2, 1)
    filters, saved = conv_picard.runs(case, 2, 2, 2)
    opcheck(operators.picard_sweep, case.states(3), filters, conv.DT, "tanh", 2, sweep, case.states(3))
    opcheck(operators.adjoint_picard_sweep, case.states(3), saved, filters, conv.DT, "tanh", 1, sweep, None)


def test_what_does_not_go_together_is_refused() -> None:
    case = Case((1, 2, 2, 2))
    filters, saved = conv_picard.runs(case, 2, 4, 4)
    u, out = case.states(2), case.states(2)
    with pytest.raises(ValueError, match="order is 0; expected at least 1"):
        conv_step.picard(u, filters, conv.DT, "tanh", 0, out)
    with pytest.raises(ValueError, match="those of runs of layers"):
        conv_step.picard(u, case.filters(2), conv.DT, "tanh", 1, out)
    with pytest.raises(ValueError, match="saved is of 1 convolutions × 1 layers; expected 1 × 2"):
        conv_step.adjoint_picard(u, saved[1:], filters, conv.DT, "tanh", 1, out)
    with pytest.raises(ValueError, match=r"w has shape \(1, 2, 2, 3, 3\); expected \(2, 2, 2, 3, 3\)"):
        conv_step.picard(u, [each.of_layers(slice(1, 2)) for each in filters], conv.DT, "tanh", 1, out)
