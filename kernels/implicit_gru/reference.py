"""The GRU step in plain PyTorch: one product for all gates of all rows, in-place arithmetic around it.

W and b may be of a lower precision than all else: products with W are then computed in that, and what is made of them
in the states' own. The fused kernels take tensors of one dtype.
"""

from dataclasses import dataclass, fields
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.kernels.activations import tanh_
from lpgpu.kernels.picard import iterate
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms, march

FORMULATIONS = ("implicit", "classic")


@dataclass(frozen=True)
class _OfSteps:
    """Tensors over the same K steps, [K, ...] each: as long as one of them, and sliced together."""

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors, in order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def __len__(self) -> int:
        return len(self.tensors()[0])

    def __getitem__(self, steps: slice) -> Self:
        return type(self)(*(tensor[steps] for tensor in self.tensors()))


@dataclass(frozen=True)
class Cell:
    """What all steps share: W [3H, H] and b [3H] (None: no bias) of W h + b, the step Δt, implicit or classic.

    >>> gru = torch.nn.GRUCell(5, 3)
    >>> Cell(gru.weight_hh, gru.bias_hh, 1.0, "classic").w.shape
    torch.Size([9, 3])
    """

    w: Tensor
    b: Tensor | None
    dt: float
    formulation: str


@dataclass(frozen=True)
class Gates(_OfSteps):
    """What a step computed on its way: r and z [K, B, 2H], n and q [K, B, H].

    >>> gates = Gates(torch.zeros(5, 2, 6), torch.zeros(5, 2, 3), torch.zeros(5, 2, 3))
    >>> len(gates), gates[1:3].n.shape
    (5, torch.Size([2, 2, 3]))
    """

    rz: Tensor
    n: Tensor
    q: Tensor


@dataclass(frozen=True)
class Coefficients(_OfSteps):
    """∂h⁺: by h past the gates, `a` [K, B, H]; by W h + b, `c` [K, B, 3H]; by n's pre-activation, `c_n` [K, B, H].

    >>> at = Coefficients(torch.ones(5, 2, 3), torch.zeros(5, 2, 9), torch.zeros(5, 2, 3))
    >>> len(at), at[1:3].c.shape
    (5, torch.Size([2, 2, 9]))
    """

    a: Tensor
    c: Tensor
    c_n: Tensor


def advance(
    h: Tensor,
    x: Tensor,
    cell: Cell,
    out: Tensor,
    diagonal_out: Tensor | None = None,
    decay_out: Tensor | None = None,
) -> Gates | Coefficients | None:
    """out = h⁺; returns the gates, or with `diagonal_out` the coefficients. `out` must not overlap `h`."""
    gates = _gates(h, x, cell)
    _next(h, gates, cell, out)
    if decay_out is not None:
        decay(gates, cell, decay_out)
    if diagonal_out is None:
        return gates
    at = coefficients(h, gates, cell)
    diagonal(at, cell.w, diagonal_out)
    return at


def _gates(h: Tensor, x_KBG: Tensor, cell: Cell) -> Gates:
    width = h.shape[-1]
    y_KBG = F.linear(h.to(cell.w.dtype), cell.w, cell.b).to(h.dtype)
    q = y_KBG[..., 2 * width :]
    rz = torch.add(x_KBG[..., : 2 * width], y_KBG[..., : 2 * width]).sigmoid_()
    r = rz[..., :width]
    return Gates(rz, tanh_(torch.addcmul(x_KBG[..., 2 * width :], r, q)), q)


def _next(h: Tensor, gates: Gates, cell: Cell, out: Tensor) -> None:
    n, d = gates.n, _step_size(gates, cell)
    if cell.formulation == "implicit":
        torch.addcmul(h, d, n, out=out)
        out /= d.add_(1)
    else:
        torch.addcmul(h, d, n - h, out=out)


def _step_size(gates: Gates, cell: Cell) -> Tensor:
    """d = Δt (1 − z)."""
    return torch.rsub(gates.rz[..., gates.n.shape[-1] :], cell.dt, alpha=cell.dt)


def coefficients(h: Tensor, gates: Gates, cell: Cell) -> Coefficients:
    """The adjoint's coefficients at h, from the gates of the step that started there.

    >>> h, out, cell = torch.ones(1, 1, 1), torch.empty(1, 1, 1), Cell(torch.zeros(3, 1), None, 1.0, "classic")
    >>> coefficients(h, advance(h, torch.zeros(1, 1, 3), cell, out), cell).a.item()
    0.5
    """
    width = h.shape[-1]
    n, q = gates.n, gates.q
    r, z = gates.rz[..., :width], gates.rz[..., width:]
    c_KBG = torch.empty_like(h).new_empty(*h.shape[:-1], 3 * width)
    c_r, c_z, c_q = c_KBG.split(width, -1)
    d = _step_size(gates, cell)
    torch.sub(h, n, out=c_z).mul_(z).mul_(d)  # (n − h) ∂d/∂(z's pre-activation), which is −Δt z (1 − z)
    if cell.formulation == "implicit":
        a = (d + 1).reciprocal_()  # and n − h⁺ = (n − h) a
        c_z.mul_(a).mul_(a)
        d *= a
    else:
        a = 1 - d
    c_n = torch.ops.aten.tanh_backward(d, n)
    torch.mul(c_n, r, out=c_q)
    c_r.copy_(torch.ops.aten.sigmoid_backward(c_n * q, r))
    return Coefficients(a, c_KBG, c_n)


def decay(gates: Gates, cell: Cell, out: Tensor) -> None:
    """out = a, with h⁺ = a ⊙ h + (1 − a) ⊙ n: 1/(1 + d), or 1 − d for the classic cell."""
    d = _step_size(gates, cell)
    if cell.formulation == "implicit":
        torch.reciprocal(d.add_(1), out=out)
    else:
        torch.sub(1, d, out=out)


def vjp(lam: Tensor, at: Coefficients, w: Tensor, out: Tensor) -> None:
    """out = (∂h⁺/∂h)ᵀ λ = a ⊙ λ + Wᵀ (c ⊙ λ). `out` must not overlap `lam`."""
    if w.dtype == torch.float16:  # in whose range c ⊙ λ need not be
        out.copy_(
            torch.addcmul(torch.matmul(_by_gate(at.c.float(), lam.float()), w.float()), at.a.float(), lam.float())
        )
        return
    product = torch.matmul(_by_gate(at.c, lam).to(w.dtype), w).to(lam.dtype)
    torch.addcmul(product, at.a, lam, out=out)


def diagonal(at: Coefficients, w: Tensor, out: Tensor) -> None:
    """out = diag(∂h⁺/∂h) = a + Σ over the gates of c ⊙ diag W."""
    out.copy_(at.a)
    for c, w_gate in zip(at.c.split(out.shape[-1], -1), w.split(out.shape[-1]), strict=True):
        out.addcmul_(c, w_gate.diagonal().to(out.dtype))


def gate_gradients(lam: Tensor, at: Coefficients) -> tuple[Tensor, Tensor]:
    """(∂h⁺/∂x)ᵀ λ [K, B, 3H], and (∂h⁺/∂q)ᵀ λ [K, B, H]: W h + b enters r and z as x does, but n through q."""
    by_x = _by_gate(at.c, lam)
    by_q = by_x[..., 2 * lam.shape[-1] :].clone()
    torch.mul(at.c_n, lam, out=by_x[..., 2 * lam.shape[-1] :])
    return by_x, by_q


def linearise(h: Tensor, x: Tensor, cell: Cell) -> Coefficients:
    """The adjoint's coefficients at h, where the gates were not kept."""
    return coefficients(h, _gates(h, x, cell), cell)


def at_zero(x: Tensor, cell: Cell, out: Tensor, diagonal_out: Tensor) -> None:
    """out = h⁺ and diagonal_out = diag(∂h⁺/∂h), both at h = 0, where W h is nothing."""
    width, zero = out.shape[-1], torch.zeros_like(out)
    b = None if cell.b is None else cell.b.to(x.dtype)
    y_KBG = x if b is None else x + b
    rz = y_KBG[..., : 2 * width].sigmoid()
    q = zero if b is None else b[2 * width :].expand_as(out)
    n = tanh_(torch.addcmul(x[..., 2 * width :], rz[..., :width], q))
    gates = Gates(rz, n, q)
    _next(zero, gates, cell, out)
    diagonal(coefficients(zero, gates, cell), cell.w, diagonal_out)


def sweep(h: Tensor, x: Tensor, cell: Cell, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
    """March the states."""

    def phi(layers: slice, source: Tensor, out: Tensor, diagonal_out: Tensor | None) -> None:
        advance(source, x[layers], cell, out, diagonal_out)

    march(sweep, phi, h, terms)


def adjoint_sweep(lam: Tensor, at: Coefficients, w: Tensor, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
    """March the adjoint states from the layers' coefficients."""

    def phi(layers: slice, source: Tensor, out: Tensor, diagonal_out: Tensor | None) -> None:
        vjp(source, at[layers], w, out)
        if diagonal_out is not None:
            diagonal(at[layers], w, diagonal_out)

    march(sweep, phi, lam, terms)


def adjoint_sweep_recomputed(
    lam: Tensor, h: Tensor, x: Tensor, cell: Cell, sweep: Sweep, terms: Terms = NO_TERMS
) -> None:
    """March the adjoint states, linearising each step as it comes."""

    def phi(layers: slice, source: Tensor, out: Tensor, diagonal_out: Tensor | None) -> None:
        at = linearise(h[layers], x[layers], cell)
        vjp(source, at, cell.w, out)
        if diagonal_out is not None:
            diagonal(at, cell.w, diagonal_out)

    march(sweep, phi, lam, terms)


def picard(h: Tensor, x: Tensor, cell: Cell, order: int, out: Tensor) -> None:
    """out = v_S after `order` iterations over the runs' steps x [K, S, B, 3H], the decays composed exactly."""

    def evaluate(states: Tensor) -> tuple[Tensor, Tensor]:
        phi, a = torch.empty_like(states.flatten(0, 1)), torch.empty_like(states.flatten(0, 1))
        advance(states.flatten(0, 1), x.flatten(0, 1), cell, phi, decay_out=a)
        return phi.view(states.shape), a.view(states.shape)

    out.copy_(iterate(evaluate, h, x.shape[1], order, reverse=False))


def adjoint_picard(lam: Tensor, at: Coefficients, w: Tensor, order: int, out: Tensor) -> None:
    """As `picard`, by the transposed Jacobians of the steps in reverse; `at` is [K, S, ...]."""
    flat = Coefficients(*(t.flatten(0, 1) for t in at.tensors()))

    def evaluate(states: Tensor) -> tuple[Tensor, Tensor]:
        phi = torch.empty_like(states.flatten(0, 1))
        vjp(states.flatten(0, 1), flat, w, phi)
        return phi.view(states.shape), at.a

    out.copy_(iterate(evaluate, lam, at.a.shape[1], order, reverse=True))


def picard_sweep(
    h: Tensor, x: Tensor, cell: Cell, order: int, sweep: Sweep, g: Tensor | None = None
) -> None:  # fmt: skip
    """March through runs of steps x [L, S, B, 3H], a Picard step each."""

    def phi(runs: slice, source: Tensor, out: Tensor, diagonal_out: Tensor | None) -> None:
        picard(source, x[runs], cell, order, out)

    march(sweep, phi, h, Terms(g))


def adjoint_picard_sweep(
    lam: Tensor, at: Coefficients, w: Tensor, order: int, sweep: Sweep, g: Tensor | None = None
) -> None:  # fmt: skip
    """As `picard_sweep`, by the transposed Jacobians."""

    def phi(runs: slice, source: Tensor, out: Tensor, diagonal_out: Tensor | None) -> None:
        adjoint_picard(source, at[runs], w, order, out)

    march(sweep, phi, lam, Terms(g))


def _by_gate(c_KBG: Tensor, lam: Tensor) -> Tensor:
    return (c_KBG.unflatten(-1, (3, -1)) * lam.unsqueeze(-2)).flatten(-2)
