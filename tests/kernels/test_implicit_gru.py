"""The GRU step against plain autograd: both formulations, strided states, outputs that are NaN until written."""

import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.kernels import implicit_gru
from lpgpu.kernels.implicit_gru import Cell, Coefficients, Gates
from tests.assertions import TOLERANCE, assert_close_relative
from tests.kernels.steps import contiguous, every_third, poisoned_like

STEPS, BATCH, WIDTH = 4, 5, 3
ORDERS = {"contiguous": contiguous, "strided": every_third}


class Problem(NamedTuple):
    """A step's operands, and λ."""

    h: Tensor
    x: Tensor
    w: Tensor
    b: Tensor | None
    dt: float
    formulation: str
    lam: Tensor

    def plain(self, h: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """h⁺ by its formula, from h, x and y = W h + b."""
        (x_r, x_z, x_n), (y_r, y_z, q) = x.chunk(3, -1), y.chunk(3, -1)
        z, n = torch.sigmoid(x_z + y_z), torch.tanh(x_n + torch.sigmoid(x_r + y_r) * q)
        d = self.dt * (1 - z)
        return (h + d * n) / (1 + d) if self.formulation == "implicit" else h + d * (n - h)

    def expected(self) -> Tensor:
        return self.plain(self.h, self.x, F.linear(self.h, self.w, self.b))

    @property
    def cell(self) -> Cell:
        return Cell(self.w, self.b, self.dt, self.formulation)

    def advance(self, out: Tensor | None = None) -> Gates:
        out = poisoned_like(self.h) if out is None else out
        return implicit_gru.advance(self.h, self.x, self.cell, out)

    def coefficients(self) -> Coefficients:
        return implicit_gru.coefficients(self.h, self.advance(), self.cell)


@pytest.fixture(params=[0.3, 1.0, 16.0], ids="dt={}".format)
def dt(request: pytest.FixtureRequest) -> float:
    """A fine step, the default, and the coarsest of three levels."""
    return request.param


@pytest.fixture(params=["implicit", "classic"])
def formulation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def bias(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def problem(dt: float, formulation: str, order: str, bias: bool) -> Problem:
    return fresh(dt, formulation, order, bias)


def fresh(
    dt: float = 1.0,
    formulation: str = "implicit",
    order: str = "contiguous",
    bias: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """States, inputs and λ in that memory order; h beyond ±1 too."""
    h, lam = (ORDERS[order](torch.randn(STEPS, BATCH, WIDTH, dtype=dtype)) for _ in range(2))
    x = ORDERS[order](torch.randn(STEPS, BATCH, 3 * WIDTH, dtype=dtype))
    b = torch.randn(3 * WIDTH, dtype=dtype) if bias else None
    return Problem(h, x, torch.randn(3 * WIDTH, WIDTH, dtype=dtype), b, dt, formulation, lam)


def test_advance(problem: Problem) -> None:
    before, out = [problem.h.clone(), problem.x.clone()], poisoned_like(problem.h)
    gates = problem.advance(out)
    assert_close_relative(out, problem.expected(), "h⁺")
    assert torch.equal(problem.h, before[0]) and torch.equal(problem.x, before[1])

    y = F.linear(problem.h, problem.w, problem.b)
    r, z = torch.sigmoid(problem.x + y).chunk(3, -1)[:2]
    q = y[..., 2 * WIDTH :]
    assert_close_relative(gates.rz, torch.cat([r, z], -1), "r and z")
    assert_close_relative(gates.q, q, "q")
    assert_close_relative(gates.n, torch.tanh(problem.x[..., 2 * WIDTH :] + r * q), "n")


def test_vjp(problem: Problem) -> None:
    h = problem.h.clone().requires_grad_()
    (expected,) = torch.autograd.grad(problem._replace(h=h).expected(), h, problem.lam)
    before, out = problem.lam.clone(), poisoned_like(problem.lam)
    at = problem.coefficients()
    implicit_gru.vjp(problem.lam, at, problem.w, out)
    assert_close_relative(out, expected)
    assert torch.equal(problem.lam, before)
    again = poisoned_like(problem.lam)
    implicit_gru.vjp(problem.lam, at, problem.w, again)
    assert torch.equal(out, again), "coefficients serve every sweep"


def test_diagonal(problem: Problem) -> None:
    """Against the whole Jacobian of every row."""
    expected = torch.empty(STEPS, BATCH, WIDTH, dtype=torch.float64)
    for step in range(STEPS):
        for row in range(BATCH):
            x = problem.x[step, row]
            jacobian = torch.autograd.functional.jacobian(
                lambda h, x=x: problem._replace(h=h, x=x).expected(), problem.h[step, row].clone()
            )
            expected[step, row] = jacobian.diagonal()  # pyright: ignore
    out = poisoned_like(problem.h)
    implicit_gru.diagonal(problem.coefficients(), problem.w, out)
    assert_close_relative(out, expected)


def test_gate_gradients(problem: Problem) -> None:
    """By x, and by q, the n gate's part of W h + b: in the other gates the two are one."""
    x = problem.x.clone().requires_grad_()
    y = F.linear(problem.h, problem.w, problem.b).requires_grad_()
    by_x, by_y = torch.autograd.grad(problem.plain(problem.h, x, y), (x, y), problem.lam)
    before = problem.lam.clone()
    came_by_x, came_by_q = implicit_gru.gate_gradients(problem.lam, problem.coefficients())
    assert_close_relative(came_by_x, by_x, "by x")
    assert_close_relative(torch.cat([came_by_x[..., : 2 * WIDTH], came_by_q], -1), by_y, "by W h + b")
    assert torch.equal(problem.lam, before)


def test_gates_and_coefficients_are_sliced_over_the_steps(formulation: str) -> None:
    """What a sweep kept of more steps than are asked for later."""
    problem = fresh(formulation=formulation)
    some = slice(1, 3)
    gates, at, lam = problem.advance(), problem.coefficients(), problem.lam[some]
    assert len(gates) == len(at) == STEPS and len(gates[some]) == len(at[some]) == 2
    sliced = implicit_gru.coefficients(problem.h[some], gates[some], problem.cell)
    whole, part, direct = poisoned_like(problem.lam), poisoned_like(lam), poisoned_like(lam)
    implicit_gru.vjp(problem.lam, at, problem.w, whole)
    implicit_gru.vjp(lam, at[some], problem.w, part)
    implicit_gru.vjp(lam, sliced, problem.w, direct)
    assert_close_relative(part, whole[some])
    assert_close_relative(direct, whole[some])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_past_the_end_the_state_is_held_and_so_is_the_adjoint(dt: float, formulation: str, dtype: torch.dtype) -> None:
    """Where x_z is +∞: exactly, whatever the rest of the input, in any dtype."""
    problem = fresh(dt, formulation, dtype=dtype)
    problem.x[:, ::2, WIDTH : 2 * WIDTH] = math.inf
    h_next, lam_next, diagonal = (poisoned_like(problem.h) for _ in range(3))
    gates = problem.advance(h_next)
    at = implicit_gru.coefficients(problem.h, gates, problem.cell)
    implicit_gru.vjp(problem.lam, at, problem.w, lam_next)
    implicit_gru.diagonal(at, problem.w, diagonal)
    assert torch.equal(h_next[:, ::2], problem.h[:, ::2])
    assert torch.equal(lam_next[:, ::2], problem.lam[:, ::2])
    assert (diagonal[:, ::2] == 1).all()
    for gradient in implicit_gru.gate_gradients(problem.lam, at):
        assert (gradient[:, ::2] == 0).all()
    everything = [h_next, lam_next, diagonal, at.a, at.c, at.c_n, gates.rz, gates.n, gates.q]
    assert all(t.isfinite().all() for t in everything)
    assert (h_next[:, 1::2] != problem.h[:, 1::2]).any(), "the other rows go on"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_saturated_gates_are_finite(dt: float, formulation: str, dtype: torch.dtype, sign: int) -> None:
    """Pre-activations far beyond where exp overflows, but within the dtype."""
    problem = fresh(dt, formulation, dtype=dtype)
    largest = min(1e4, torch.finfo(dtype).max / 4)
    problem.x.copy_(sign * largest * problem.x.sign())
    h_next, lam_next = poisoned_like(problem.h), poisoned_like(problem.h)
    gates = problem.advance(h_next)
    at = implicit_gru.coefficients(problem.h, gates, problem.cell)
    implicit_gru.vjp(problem.lam, at, problem.w, lam_next)
    assert all(t.isfinite().all() for t in (h_next, lam_next, at.a, at.c, at.c_n, gates.rz, gates.n))
    assert torch.equal(gates.n.abs(), torch.ones_like(gates.n))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_advance_in_every_dtype(dt: float, formulation: str, dtype: torch.dtype) -> None:
    problem = fresh(dt, formulation, dtype=dtype)
    exact = Problem(*(t.double() if isinstance(t, Tensor) else t for t in problem))  # pyright: ignore
    out = poisoned_like(problem.h)
    problem.advance(out)
    assert_close_relative(out, exact.expected(), tolerance=TOLERANCE[dtype] * (dt if formulation == "classic" else 1))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("scale", [1e-1, 1e-2, 1e-3])
def test_small_candidates_keep_their_digits(dtype: torch.dtype, scale: float) -> None:
    """n = tanh of a small number is as accurate, relative to itself, as that number."""
    problem = fresh(bias=False, dtype=dtype)
    problem = problem._replace(h=scale * problem.h, x=scale * problem.x)
    n = problem.advance().n
    q = F.linear(problem.h, problem.w).double()[..., 2 * WIDTH :]
    r = torch.sigmoid(problem.x.double() + F.linear(problem.h, problem.w).double())[..., :WIDTH]
    assert_close_relative(n, torch.tanh(problem.x.double()[..., 2 * WIDTH :] + r * q))
