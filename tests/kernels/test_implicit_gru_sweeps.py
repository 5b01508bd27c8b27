"""GRU sweeps and the differentiable step on the CPU: against autograd, as operators of torch, and bad input."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.kernels import implicit_gru
from lpgpu.kernels.implicit_gru import FORMULATIONS, Cell, operators
from lpgpu.kernels.sweep import Sweep, Terms
from tests.assertions import assert_close_relative, assert_mentions
from tests.kernels.fused import gru
from tests.kernels.fused.gru import Case
from tests.kernels.steps import opcheck

LAYERS = 5
CELLS = pytest.mark.parametrize("formulation", FORMULATIONS)


def plain(h: Tensor, x: Tensor, w: Tensor, b: Tensor | None, dt: float, formulation: str) -> Tensor:
    """h⁺ by its formula."""
    (x_r, x_z, x_n), (y_r, y_z, q) = x.chunk(3, -1), F.linear(h, w, b).chunk(3, -1)
    z, n = torch.sigmoid(x_z + y_z), torch.tanh(x_n + torch.sigmoid(x_r + y_r) * q)
    d = dt * (1 - z)
    return (h + d * n) / (1 + d) if formulation == "implicit" else h + d * (n - h)


@CELLS
def test_sweep_marches_with_every_term(formulation: str) -> None:
    case = Case(batch=3, width=4, formulation=formulation)
    h, x, cell = case.states(LAYERS + 1), case.inputs(LAYERS), case.cell()
    g, delta, anchors = case.states(LAYERS + 1), case.states(LAYERS), case.states(LAYERS)
    expected, products = [h[0]], torch.ones_like(h[:1])
    for k in range(LAYERS):
        jacobian = torch.autograd.functional.jacobian(
            lambda state, k=k: plain(state, x[k], cell.w, cell.b, *case.options), expected[k]
        )
        products[0] *= jacobian.flatten(2).flatten(0, 1).diagonal().view_as(h[0]) + delta[k]  # pyright: ignore
        step = plain(expected[k], x[k], cell.w, cell.b, *case.options)
        expected.append(step + delta[k] * (expected[k] - anchors[k]) + g[k + 1])
    came = torch.full_like(products, torch.nan)
    terms = Terms(g, delta, anchors, came)
    implicit_gru.sweep(h, x, cell, Sweep(LAYERS, 0, LAYERS, LAYERS), terms)
    assert_close_relative(h, torch.stack(expected), "states")
    assert_close_relative(came, products, "products")


@CELLS
def test_both_adjoint_sweeps_are_autograd(formulation: str) -> None:
    case = Case(batch=3, width=4, formulation=formulation)
    h, x, cell = case.states(LAYERS + 1), case.inputs(LAYERS), case.cell()
    implicit_gru.sweep(h, x, cell, Sweep(LAYERS, 0, LAYERS, LAYERS))
    loss_by_h = case.states(LAYERS + 1)
    first = h[0].clone().requires_grad_()
    states = [first]
    for k in range(LAYERS):
        states.append(plain(states[k], x[k], cell.w, cell.b, *case.options))
    (expected,) = torch.autograd.grad((torch.stack(states) * loss_by_h).sum(), first)

    back = Sweep(LAYERS, LAYERS - 1, LAYERS, LAYERS, reverse=True)
    at = implicit_gru.linearise(h[:-1], x, cell)
    for recomputed in (False, True):
        lam = torch.full_like(h, torch.nan)
        lam[-1] = loss_by_h[-1]
        if recomputed:
            implicit_gru.adjoint_sweep_recomputed(lam, h[:-1], x, cell, back, Terms(loss_by_h))
        else:
            implicit_gru.adjoint_sweep(lam, at, cell.w, back, Terms(loss_by_h))
        assert_close_relative(lam[0], expected)


def test_advance_gives_the_diagonal_too() -> None:
    case = Case(batch=3, width=4)
    h, x, cell = case.states(2), case.inputs(2), case.cell()
    out, came, expected = (torch.full_like(h, torch.nan) for _ in range(3))
    implicit_gru.advance(h, x, cell, out, came)
    implicit_gru.diagonal(implicit_gru.linearise(h, x, cell), cell.w, expected)
    assert_close_relative(came, expected)


@CELLS
@pytest.mark.parametrize("bias", [True, False])
def test_step_is_differentiable_once(formulation: str, bias: bool) -> None:
    case = Case(batch=2, width=3, formulation=formulation, bias=bias)
    leaves, rest = gru.leaves(case, 2), (*(() if bias else (None,)), *case.options)
    assert torch.autograd.gradcheck(lambda *t: implicit_gru.gru_step(*t, *rest), leaves)
    y = implicit_gru.gru_step(*leaves, *rest)
    x, h, w = leaves[:3]
    assert_close_relative(y, plain(h, x, w, leaves[3] if bias else None, *case.options))
    for functional in (y.sum(), y.square().sum()):
        for leaf in leaves:
            (first,) = torch.autograd.grad(functional, leaf, create_graph=True)
            with pytest.raises(RuntimeError, match="gru_step can be differentiated once only"):
                torch.autograd.grad(first.sum(), leaves, allow_unused=True)


def test_step_takes_any_strides() -> None:
    case = Case(batch=2, width=3)
    x, h, w, b = gru.leaves(case, 2)
    expected = implicit_gru.gru_step(x, h, w, b, *case.options)
    turned = (t.transpose(0, -1).contiguous().transpose(0, -1) for t in (x, h, w))
    assert_close_relative(implicit_gru.gru_step(*turned, b, *case.options), expected)


def test_operators_pass_opcheck_and_compile() -> None:
    case, sweep = Case(batch=2, width=3), Sweep(3, 0, 2, 1)
    leaves = gru.leaves(case, 2)
    torch.library.opcheck(operators.gru_step, (*leaves, *case.options))
    x, at, cell, terms = (
        case.inputs(3),
        case.coefficients(3),
        case.cell(),
        Terms(case.states(4), products=case.states(2)),
    )
    opcheck(operators.sweep, case.states(4), x, cell, sweep, terms)
    opcheck(operators.adjoint_sweep, case.states(4), at, cell.w, sweep, terms)

    def compiled(x: Tensor, h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return implicit_gru.gru_step(x, 2 * h, w, b, *case.options).sum()

    expected = torch.autograd.grad(compiled(*leaves), leaves)
    came = torch.autograd.grad(torch.compile(compiled, fullgraph=True, backend="aot_eager")(*leaves), leaves)
    for one, other in zip(came, expected, strict=True):
        assert_close_relative(one, other)


def test_sweep_compiles() -> None:
    case, sweep = Case(batch=2, width=3), Sweep(3, 0, 3, 3)
    h, x, cell = case.states(4), case.inputs(3), case.cell()
    eager, compiled = h.clone(), h.clone()

    def march(h: Tensor) -> Tensor:
        implicit_gru.sweep(h, x, cell, sweep)
        return 2 * h

    march(eager)
    torch.compile(march, fullgraph=True, backend="aot_eager")(compiled)
    assert_close_relative(compiled, eager)


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "states of two dimensions": ({"h": torch.zeros(4, 3)}, ("(4, 3)", "[layers, batch, width]")),
    "too few states": ({"h": torch.zeros(3, 2, 3)}, ("(3, 2, 3)", "(4, 2, 3)")),
    "inputs of another width": ({"x": torch.zeros(3, 2, 8)}, ("x", "(3, 2, 8)", "(3, 2, 9)")),
    "weights turned": ({"w": torch.zeros(3, 9)}, ("w", "(3, 9)", "(9, 3)")),
    "bias of another width": ({"b": torch.zeros(3)}, ("b", "(3,)", "(9,)")),
    "another dtype": ({"x": torch.zeros(3, 2, 9, dtype=torch.float64)}, ("float64", "float32")),
    "an unknown cell": ({"formulation": "reset"}, ("reset", "implicit", "classic")),
    "delta alone": ({"delta": torch.zeros(3, 2, 3)}, ("delta and anchors",)),
    "a short right-hand side": ({"g": torch.zeros(3, 2, 3)}, ("g", "(3, 2, 3)", "(4, 2, 3)")),
    "integers": ({"h": torch.zeros(4, 2, 3, dtype=torch.int64)}, ("int64", "floating-point")),
}


@pytest.mark.parametrize("wrong", BAD)
def test_bad_input(wrong: str) -> None:
    given: dict[str, Any] = {
        "h": torch.zeros(4, 2, 3), "x": torch.zeros(3, 2, 9), "w": torch.zeros(9, 3), "b": torch.zeros(9),
        "dt": 1.0, "formulation": "implicit",
    }  # fmt: skip
    changes, words = BAD[wrong]
    terms = {name: value for name, value in changes.items() if name not in given}
    operands = given | {name: value for name, value in changes.items() if name in given}
    before = given["h"].clone()
    with pytest.raises(ValueError) as error:
        h, x, *shared = operands.values()
        implicit_gru.sweep(h, x, Cell(*shared), Sweep(3, 0, 3, 3), Terms(**terms))
    assert_mentions(error.value, words)
    assert torch.equal(given["h"], before)


def test_a_state_past_its_end_is_held_through_a_sweep() -> None:
    case = Case(batch=4, width=3)
    h, x, cell = case.states(LAYERS + 1), case.inputs(LAYERS), case.cell()
    x[2:, ::2, 3:6] = math.inf
    implicit_gru.sweep(h, x, cell, Sweep(LAYERS, 0, LAYERS, LAYERS))
    assert (h[3:, ::2] == h[2, ::2]).all() and (h[3:, 1::2] != h[2, 1::2]).any()


def test_products_with_lambda_do_not_leave_the_range_of_half_precision() -> None:
    gru.check_half_range(20, "cpu")
