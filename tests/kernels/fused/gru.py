"""The fused GRU step against the reference in fp64, on a device and in a dtype: shared by interpreter and GPU."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lpgpu.kernels import implicit_gru
from lpgpu.kernels.implicit_gru import Cell, Coefficients, reference
from lpgpu.kernels.sweep import Sweep, Terms
from tests.kernels.fused.inputs import Launched, assert_near, doubled, doubled_terms, like, random, spread

ORDERS = {"contiguous": lambda t: t, "spread": spread}
WAYS = ("forward", "adjoint", "recomputed")
RESIDENT = {"forward": "gru_sweep", "adjoint": "gru_adjoint_sweep", "recomputed": "gru_adjoint_recomputed"}
TILED = {"forward": "gru_step_tiled", "adjoint": "gru_adjoint_tiled"}


@dataclass(frozen=True)
class Case:
    """What is computed, on what."""

    batch: int
    width: int
    formulation: str = "implicit"
    bias: bool = True
    order: str = "contiguous"
    dt: float = 0.3
    dtype: torch.dtype = torch.float64
    device: str = "cpu"
    ended: bool = False

    def states(self, layers: int) -> Tensor:
        return ORDERS[self.order](random(layers, self.batch, self.width, dtype=self.dtype, device=self.device))

    def inputs(self, layers: int) -> Tensor:
        """x; where some rows have `ended`, their x_z is +∞."""
        x = random(layers, self.batch, 3 * self.width, dtype=self.dtype, device=self.device)
        if self.ended:
            x[layers // 2 :, ::2, self.width : 2 * self.width] = math.inf
        return ORDERS[self.order](x)

    def weights(self) -> tuple[Tensor, Tensor | None]:
        w = random(3 * self.width, self.width, dtype=self.dtype, device=self.device, scale=self.width**-0.5)
        b = random(3 * self.width, dtype=self.dtype, device=self.device)
        return w, ORDERS[self.order](b) if self.bias else None

    @property
    def options(self) -> tuple[float, str]:
        return self.dt, self.formulation

    def cell(self) -> Cell:
        return Cell(*self.weights(), *self.options)

    def coefficients(self, layers: int) -> Coefficients:
        at = reference.linearise(self.states(layers), self.inputs(layers), self.cell())
        return Coefficients(*(ORDERS[self.order](t) for t in at.tensors()))


def doubled_cell(cell: Cell) -> Cell:
    return replace(cell, w=doubled(cell.w), b=doubled(cell.b))


def check_sweep(case: Case, sweep: Sweep, *, way: str, rhs: bool, delta: bool, products: bool, launches: int) -> None:
    """Against the reference in fp64; everything that is to be written is NaN before, all else as it was after."""
    layers, cell = sweep.num_layers, case.cell()
    h, x, at = case.states(layers), case.inputs(layers), case.coefficients(layers)
    beyond = case.states(layers + 4)
    u = beyond[: layers + 1]
    beyond[layers + 1 :] = torch.nan
    for _, _, targets in sweep.marched():
        u[targets] = torch.nan
    g = case.states(layers + 1) if rhs else None
    corrections = [case.states(layers) if delta else None for _ in range(2)]
    factors = like(u[:1], u.new_full((sweep.num_intervals + 1, *u.shape[1:]), torch.nan)) if products else None
    terms = Terms(g, *corrections, factors)
    expected_u, expected_terms = doubled(u), doubled_terms(terms)
    h64, x64, cell64 = doubled(h), doubled(x), doubled_cell(cell)
    with Launched() as launched:
        if way == "forward":
            implicit_gru.sweep(u, x, cell, sweep, terms)
        elif way == "adjoint":
            implicit_gru.adjoint_sweep(u, at, cell.w, sweep, terms)
        else:
            implicit_gru.adjoint_sweep_recomputed(u, h, x, cell, sweep, terms)
    resident = RESIDENT[way]
    assert launched.names == {resident if resident in launched.names else TILED[way]: launches}
    if way == "forward":
        reference.sweep(expected_u, x64, cell64, sweep, expected_terms)
    elif way == "adjoint":
        at64 = Coefficients(*(doubled(t) for t in at.tensors()))  # pyright: ignore
        reference.adjoint_sweep(expected_u, at64, cell64.w, sweep, expected_terms)
    else:
        reference.adjoint_sweep_recomputed(expected_u, h64, x64, cell64, sweep, expected_terms)
    assert_near(u, expected_u, "states", factor=10)
    assert_near(factors, expected_terms.products, "products", factor=10)
    assert beyond[layers + 1 :].isnan().all()
    if case.order == "spread":
        assert u._base is not None and u._base[0::2].isnan().all()


def check_steps(case: Case, layers: int) -> None:
    """advance with its diagonal, linearise, vjp, diagonal and gate_gradients: one launch each."""
    h, lam, x, cell = case.states(layers), case.states(layers), case.inputs(layers), case.cell()
    out, diagonal = (like(h, torch.full_like(h, torch.nan)) for _ in range(2))
    h64, lam64, x64, cell64 = doubled(h), doubled(lam), doubled(x), doubled_cell(cell)
    expected, expected_diagonal = torch.empty_like(h64), torch.empty_like(h64)
    gates = reference.advance(h64, x64, cell64, expected)
    at64 = reference.coefficients(h64, gates, cell64)
    reference.diagonal(at64, cell64.w, expected_diagonal)

    with Launched() as launched:
        assert implicit_gru.advance(h, x, cell, out, diagonal) is None
    assert launched.names == {"gru_step_tiled": 1}
    assert_near(out, expected, "advance")
    assert_near(diagonal, expected_diagonal, "diagonal on the way")
    assert torch.equal(doubled(h), h64) and torch.equal(doubled(x), x64)
    out.fill_(torch.nan)
    implicit_gru.advance(h, x, cell, out)
    assert_near(out, expected, "advance alone")
    decay = like(h, torch.full_like(h, torch.nan))
    with Launched() as launched:
        implicit_gru.advance(h, x, cell, out, decay=decay)
    assert launched.names == {"gru_step_tiled": 1}
    assert_near(decay, at64.a, "decay on the way")

    with Launched() as launched:
        at = implicit_gru.linearise(h, x, cell)
    assert launched.names == {"gru_step_tiled": 1}
    for name, one, other in zip(("a", "c", "c_n"), at.tensors(), at64.tensors(), strict=True):
        assert_near(one, other, name)

    at64 = Coefficients(*(doubled(t) for t in at.tensors()))  # pyright: ignore
    reference.vjp(lam64, at64, cell64.w, expected)
    reference.diagonal(at64, cell64.w, expected_diagonal)
    out.fill_(torch.nan)
    diagonal.fill_(torch.nan)
    with Launched() as launched:
        implicit_gru.vjp(lam, at, cell.w, out)
        implicit_gru.diagonal(at, cell.w, diagonal)
        gradients = implicit_gru.gate_gradients(lam, at)
    assert launched.names == {"gru_adjoint_tiled": 1, "gru_diagonal": 1, "gru_gate_gradients": 1}
    assert_near(out, expected, "vjp")
    assert_near(diagonal, expected_diagonal, "diagonal")
    for name, one, other in zip(("by x", "by q"), gradients, reference.gate_gradients(lam64, at64), strict=True):
        assert_near(one, other, name)
    assert torch.equal(doubled(lam), lam64)


def check_ended(case: Case) -> None:
    """Where x_z is +∞ states and adjoint states are passed on exactly, through every kernel, sweep and step alike."""
    sweep, cell = Sweep(4, 0, 4, 4), case.cell()
    x = case.inputs(4)
    x[:, ::2, case.width : 2 * case.width] = math.inf
    back = Sweep(4, 3, 4, 4, reverse=True)
    h, lam, again = case.states(5), case.states(5), case.states(5)
    products = [torch.full_like(h[:1], torch.nan) for _ in range(3)]
    given = h[0, ::2].clone()
    implicit_gru.sweep(h, x, cell, sweep, Terms(products=products[0]))
    at = implicit_gru.linearise(h[:4], x, cell)
    last = lam[4, ::2].clone()
    again[4] = lam[4]
    implicit_gru.adjoint_sweep(lam, at, cell.w, back, Terms(products=products[1]))
    implicit_gru.adjoint_sweep_recomputed(again, h[:4], x, cell, back, Terms(products=products[2]))
    for states, value in ((h, given), (lam, last), (again, last)):
        assert states.isfinite().all()
        assert (states[:, ::2] == value).all()
        assert (states[1:-1, 1::2] != states[2:, 1::2]).any(), "the other rows go on"
    for each in products:
        assert (each[:, ::2] == 1).all()
    out, diagonal = torch.empty_like(h[:4]), torch.empty_like(h[:4])
    implicit_gru.advance(h[:4], x, cell, out, diagonal)
    assert (out[:, ::2] == given).all() and (diagonal[:, ::2] == 1).all()
    implicit_gru.vjp(lam[1:], at, cell.w, out)
    assert (out[:, ::2] == last).all()
    for gradient in implicit_gru.gate_gradients(lam[1:], at):
        assert (gradient[:, ::2] == 0).all()


def leaves(case: Case, layers: int) -> list[Tensor]:
    """x, h, w and b, if there is one, of the functional form, requiring grad."""
    tensors = (case.inputs(layers), case.states(layers), *case.weights())
    return [t.detach().requires_grad_() for t in tensors if t is not None]


def check_half_range(width: int, device: str) -> None:
    """fp16: |c ⊙ λ| above the largest number, and below the smallest, where λ and λ⁺ are well within."""
    half, back = {"dtype": torch.float16, "device": device}, Sweep(3, 2, 3, 3, reverse=True)
    h, x, w = (
        torch.zeros(3, 5, width, **half),
        torch.zeros(3, 5, 3 * width, **half),
        0.01 * torch.randn(3 * width, width),
    )
    x[..., 2 * width :], b = -30.0, torch.zeros(3 * width, **half)
    b[2 * width :] = 60.0  # n = tanh(−30 + r q) with r = 1/2 and q = 60: c_r is 5
    cell = Cell(w.to(**half), b, 1.0, "implicit")
    lam = torch.full((4, 5, width), 3e4, **half)
    at = reference.linearise(*(doubled(t) for t in (h, x)), doubled_cell(cell))  # pyright: ignore
    at = Coefficients(*(t.to(**half) for t in at.tensors()))
    _check_range(lam, at, cell.w, back)
    again, expected = lam.clone(), doubled(lam)
    implicit_gru.adjoint_sweep_recomputed(again, h, x, cell, back)
    reference.adjoint_sweep_recomputed(expected, doubled(h), doubled(x), doubled_cell(cell), back)  # pyright: ignore
    assert_near(again, expected, "recomputed")
    small = Coefficients(torch.zeros_like(at.a), 2e-4 * at.c, at.c_n)
    _check_range(torch.full_like(lam, 1e-5), small, (2e4 * w).to(**half), back)


def _check_range(lam: Tensor, at: Coefficients, w: Tensor, back: Sweep) -> None:
    at64, expected, out = Coefficients(*(doubled(t) for t in at.tensors())), doubled(lam), lam[3:].clone()  # pyright: ignore
    reference.adjoint_sweep(expected, at64, doubled(w), back)  # pyright: ignore
    implicit_gru.vjp(lam[3:], at[2:], w, out)
    implicit_gru.adjoint_sweep(lam, at, w, back)
    assert_near(lam[2:], expected[2:], "swept")  # pyright: ignore
    assert_near(out, expected[2:3], "vjp")  # pyright: ignore


def check_at_zero(case: Case, layers: int) -> None:
    """As a step from h = 0 and its diagonal, without a product."""
    x, cell, h = case.inputs(layers), case.cell(), case.states(layers)
    out, diagonal = (like(h, torch.full_like(h, torch.nan)) for _ in range(2))
    zero, expected, expected_diagonal = (torch.zeros_like(doubled(h)) for _ in range(3))
    reference.advance(zero, doubled(x), doubled_cell(cell), expected, expected_diagonal)
    with Launched() as launched:
        implicit_gru.at_zero(x, cell, out, diagonal)
    assert launched.names == {"gru_at_zero": 1}
    assert_near(out, expected, "h⁺")
    assert_near(diagonal, expected_diagonal, "diagonal")
