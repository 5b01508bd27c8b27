"""The GRU step in plain PyTorch: one product for all gates of all rows, in-place arithmetic around it."""

from dataclasses import dataclass, fields
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.kernels.activations import tanh_
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
class Gates(_OfSteps):
    """What a step computed on its way: r and z [K, B, 2H], n and q [K, B, H]."""

    rz: Tensor
    n: Tensor
    q: Tensor


@dataclass(frozen=True)
class Coefficients(_OfSteps):
    """∂h⁺: by h past the gates, `a` [K, B, H]; by W h + b, `c` [K, B, 3H]; by n's pre-activation, `c_n` [K, B, H]."""

    a: Tensor
    c: Tensor
    c_n: Tensor


def advance(
    h_KBH: Tensor, x_KBG: Tensor, w_GH: Tensor, b_G: Tensor | None, dt: float, formulation: str, out: Tensor
) -> Gates:
    """out = h⁺; returns the gates. `out` must not overlap `h`."""
    width = h_KBH.shape[-1]
    y_KBG = F.linear(h_KBH, w_GH, b_G)
    q = y_KBG[..., 2 * width :]
    rz = torch.add(x_KBG[..., : 2 * width], y_KBG[..., : 2 * width]).sigmoid_()
    r, z = rz[..., :width], rz[..., width:]
    n = tanh_(torch.addcmul(x_KBG[..., 2 * width :], r, q))
    d = torch.rsub(z, dt, alpha=dt)
    if formulation == "implicit":
        torch.addcmul(h_KBH, d, n, out=out)
        out /= d.add_(1)
    else:
        torch.addcmul(h_KBH, d, n - h_KBH, out=out)
    return Gates(rz, n, q)


def coefficients(h_KBH: Tensor, gates: Gates, dt: float, formulation: str) -> Coefficients:
    """The adjoint's coefficients at h, from the gates of the step that started there."""
    width = h_KBH.shape[-1]
    n, q = gates.n, gates.q
    r, z = gates.rz[..., :width], gates.rz[..., width:]
    c_KBG = torch.empty_like(h_KBH).new_empty(*h_KBH.shape[:-1], 3 * width)
    c_r, c_z, c_q = c_KBG.split(width, -1)
    d = torch.rsub(z, dt, alpha=dt)
    torch.sub(h_KBH, n, out=c_z).mul_(z).mul_(d)  # (n − h) ∂d/∂(z's pre-activation), which is −Δt z (1 − z)
    if formulation == "implicit":
        a = (d + 1).reciprocal_()  # and n − h⁺ = (n − h) a
        c_z.mul_(a).mul_(a)
        d *= a
    else:
        a = 1 - d
    c_n = torch.ops.aten.tanh_backward(d, n)
    torch.mul(c_n, r, out=c_q)
    c_r.copy_(torch.ops.aten.sigmoid_backward(c_n * q, r))
    return Coefficients(a, c_KBG, c_n)


def decay(gates: Gates, dt: float, formulation: str, out: Tensor) -> None:
    """out = a, with h⁺ = a ⊙ h + (1 − a) ⊙ n: 1/(1 + d), or 1 − d for the classic cell."""
    d = torch.rsub(gates.rz[..., out.shape[-1] :], dt, alpha=dt)
    if formulation == "implicit":
        torch.reciprocal(d.add_(1), out=out)
    else:
        torch.sub(1, d, out=out)


def vjp(lam_KBH: Tensor, at: Coefficients, w_GH: Tensor, out: Tensor) -> None:
    """out = (∂h⁺/∂h)ᵀ λ = a ⊙ λ + Wᵀ (c ⊙ λ). `out` must not overlap `lam`."""
    torch.addcmul(torch.matmul(_by_gate(at.c, lam_KBH), w_GH), at.a, lam_KBH, out=out)


def diagonal(at: Coefficients, w_GH: Tensor, out: Tensor) -> None:
    """out = diag(∂h⁺/∂h) = a + Σ over the gates of c ⊙ diag W."""
    out.copy_(at.a)
    for c, w in zip(at.c.split(out.shape[-1], -1), w_GH.split(out.shape[-1]), strict=True):
        out.addcmul_(c, w.diagonal())


def gate_gradients(lam_KBH: Tensor, at: Coefficients) -> tuple[Tensor, Tensor]:
    """(∂h⁺/∂x)ᵀ λ [K, B, 3H], and (∂h⁺/∂q)ᵀ λ [K, B, H]: W h + b enters r and z as x does, but n through q."""
    by_x = _by_gate(at.c, lam_KBH)
    by_q = by_x[..., 2 * lam_KBH.shape[-1] :].clone()
    torch.mul(at.c_n, lam_KBH, out=by_x[..., 2 * lam_KBH.shape[-1] :])
    return by_x, by_q


def linearise(
    h_KBH: Tensor, x_KBG: Tensor, w_GH: Tensor, b_G: Tensor | None, dt: float, formulation: str
) -> Coefficients:
    """The adjoint's coefficients at h, where the gates were not kept."""
    gates = advance(h_KBH, x_KBG, w_GH, b_G, dt, formulation, torch.empty_like(h_KBH))
    return coefficients(h_KBH, gates, dt, formulation)


def sweep(
    h_PBH: Tensor,
    x_LBG: Tensor,
    w_GH: Tensor,
    b_G: Tensor | None,
    dt: float,
    formulation: str,
    geometry: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """March the states; `terms` are those of `kernels.sweep.march`."""

    def step(layers: slice, h: Tensor, out: Tensor, diagonal_out: Tensor | None) -> None:
        gates = advance(h, x_LBG[layers], w_GH, b_G, dt, formulation, out)
        if diagonal_out is not None:
            diagonal(coefficients(h, gates, dt, formulation), w_GH, diagonal_out)

    march(geometry, step, h_PBH, terms)


def adjoint_sweep(lam_PBH: Tensor, at: Coefficients, w_GH: Tensor, geometry: Sweep, terms: Terms = NO_TERMS) -> None:
    """March the adjoint states from the layers' coefficients."""

    def step(layers: slice, lam: Tensor, out: Tensor, diagonal_out: Tensor | None) -> None:
        vjp(lam, at[layers], w_GH, out)
        if diagonal_out is not None:
            diagonal(at[layers], w_GH, diagonal_out)

    march(geometry, step, lam_PBH, terms)


def adjoint_sweep_recomputed(
    lam_PBH: Tensor,
    h_LBH: Tensor,
    x_LBG: Tensor,
    w_GH: Tensor,
    b_G: Tensor | None,
    dt: float,
    formulation: str,
    geometry: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """March the adjoint states, linearising each step as it comes."""

    def step(layers: slice, lam: Tensor, out: Tensor, diagonal_out: Tensor | None) -> None:
        at = linearise(h_LBH[layers], x_LBG[layers], w_GH, b_G, dt, formulation)
        vjp(lam, at, w_GH, out)
        if diagonal_out is not None:
            diagonal(at, w_GH, diagonal_out)

    march(geometry, step, lam_PBH, terms)


def _by_gate(c_KBG: Tensor, lam_KBH: Tensor) -> Tensor:
    return (c_KBG.unflatten(-1, (3, -1)) * lam_KBH.unsqueeze(-2)).flatten(-2)
