"""The dense ODE step in plain PyTorch: batched products over the layers.

On a CPU the states are kept with the batch innermost: W (H×H) times u (H×B) is then one wide product per layer, where
u Wᵀ would be a tall, narrow one, four times slower at H = 8. The logical shape stays [K, B, H].
"""

import torch
from torch import Tensor

from lpgpu.kernels.activations import activation_named
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms, march


def empty_states(points: int, like: Tensor) -> Tensor:
    """Uninitialised states [points, B, H] for a batch `like` [B, H]; batch innermost on a CPU."""
    batch, width = like.shape
    if like.device.type == "cpu":
        return like.new_empty(points, width, batch).transpose(1, 2)
    return like.new_empty(points, batch, width)


def advance(u_KBH: Tensor, w_KHH: Tensor, b_KH: Tensor | None, dt: float, activation: str, out: Tensor) -> Tensor:
    """out = u + Δt g(W u + b); returns what was `kept` of g. `out` must not overlap `u`."""
    a_KBH, kept_KBH = activation_named(activation).value_and_kept(_product(u_KBH, w_KHH, b_KH))
    torch.add(u_KBH, a_KBH, alpha=dt, out=out)
    return kept_KBH


def kept(u_KBH: Tensor, w_KHH: Tensor, b_KH: Tensor | None, activation: str) -> Tensor:
    """What `advance` returns, without advancing."""
    return activation_named(activation).value_and_kept(_product(u_KBH, w_KHH, b_KH))[1]


def vjp(lam_KBH: Tensor, kept_KBH: Tensor, w_KHH: Tensor, dt: float, activation: str, out: Tensor) -> None:
    """out = (∂Φ/∂u)ᵀ λ = λ + Δt Wᵀ(g′ ⊙ λ). `out` must not overlap `lam`."""
    d_KBH = activation_named(activation).pull_back(lam_KBH, kept_KBH)
    torch.add(lam_KBH, _product(d_KBH, w_KHH.transpose(1, 2)), alpha=dt, out=out)


def diagonal(kept_KBH: Tensor, w_KHH: Tensor, dt: float, activation: str, out: Tensor) -> None:
    """out = diag(∂Φ/∂u) = 1 + Δt g′ ⊙ diag W, for every batch row."""
    diagonal_KBH = w_KHH.diagonal(dim1=1, dim2=2).unsqueeze(1).expand_as(kept_KBH)
    out.copy_(activation_named(activation).pull_back(diagonal_KBH, kept_KBH)).mul_(dt).add_(1)


def parameter_gradient(
    lam_KBH: Tensor, kept_KBH: Tensor, u_KBH: Tensor, dt: float, activation: str
) -> tuple[Tensor, Tensor]:
    """(∂Φ/∂W)ᵀ λ [K, H, H] and (∂Φ/∂b)ᵀ λ [K, H], summed over the batch."""
    d_KBH = activation_named(activation).pull_back(lam_KBH, kept_KBH)
    return torch.bmm(d_KBH.transpose(1, 2), u_KBH).mul_(dt), d_KBH.sum(1).mul_(dt)


def _product(a_KBH: Tensor, w_KHH: Tensor, b_KH: Tensor | None = None) -> Tensor:
    """W_k a_k + b_k, in the memory order of `a`."""
    if a_KBH.stride(-1) == 1 and a_KBH.stride(-2) != 1:
        wT_KHH = w_KHH.transpose(1, 2)
        return torch.bmm(a_KBH, wT_KHH) if b_KH is None else torch.baddbmm(b_KH.unsqueeze(1), a_KBH, wT_KHH)
    aT_KHB = a_KBH.transpose(1, 2)
    z_KHB = torch.bmm(w_KHH, aT_KHB) if b_KH is None else torch.baddbmm(b_KH.unsqueeze(2), w_KHH, aT_KHB)
    return z_KHB.transpose(1, 2)


def sweep(
    u_PBH: Tensor, w_LHH: Tensor, b_LH: Tensor | None, dt: float, activation: str, sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:  # fmt: skip
    """March through the layers in place, one batched step after the other; see `kernels.sweep.march`."""

    def step(layers: slice, u: Tensor, out: Tensor, diagonal_KBH: Tensor | None) -> None:
        w_KHH = w_LHH[layers]
        kept_KBH = advance(u, w_KHH, None if b_LH is None else b_LH[layers], dt, activation, out)
        if diagonal_KBH is not None:
            diagonal(kept_KBH, w_KHH, dt, activation, diagonal_KBH)

    march(sweep, step, u_PBH, terms)


def adjoint_sweep(
    lam_PBH: Tensor, kept_LBH: Tensor, w_LHH: Tensor, dt: float, activation: str, sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:  # fmt: skip
    """As `sweep`, by the transposed Jacobians."""

    def step(layers: slice, lam: Tensor, out: Tensor, diagonal_KBH: Tensor | None) -> None:
        vjp(lam, kept_LBH[layers], w_LHH[layers], dt, activation, out)
        if diagonal_KBH is not None:
            diagonal(kept_LBH[layers], w_LHH[layers], dt, activation, diagonal_KBH)

    march(sweep, step, lam_PBH, terms)
