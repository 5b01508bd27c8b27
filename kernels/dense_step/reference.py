"""The dense ODE step in plain PyTorch: batched products over the layers.

On a CPU the states are kept with the batch innermost: W (H×H) times u (H×B) is then one wide product per layer, where
u Wᵀ would be a tall, narrow one, four times slower at H = 8. The logical shape stays [K, B, H].
"""

import torch
from torch import Tensor

from lpgpu.kernels.activations import activation_named
from lpgpu.kernels.picard import iterate
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms, march


def empty_states(points: int, like: Tensor) -> Tensor:
    """Uninitialised states [points, B, H] for a batch `like` [B, H]; batch innermost on a CPU.

    >>> states = empty_states(5, torch.empty(4, 3))
    >>> states.shape, states.stride()
    (torch.Size([5, 4, 3]), (12, 1, 4))
    """
    batch, width = like.shape
    if like.device.type == "cpu":
        return like.new_empty(points, width, batch).transpose(1, 2)
    return like.new_empty(points, batch, width)


def advance(
    u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str, out: Tensor, diagonal_out: Tensor | None = None
) -> Tensor | None:
    """out = u + Δt g(W u + b); returns what was saved of g. `out` must not overlap `u`."""
    a_KBH, saved_KBH = activation_named(activation).value_and_saved(_product(u, w, b))
    torch.add(u, a_KBH, alpha=dt, out=out)
    if diagonal_out is not None:
        diagonal(saved_KBH, w, dt, activation, diagonal_out)
    return saved_KBH


def linearise(u: Tensor, w: Tensor, b: Tensor | None, activation: str) -> Tensor:
    """What `advance` returns, without advancing."""
    return activation_named(activation).value_and_saved(_product(u, w, b))[1]


def vjp(lam: Tensor, saved: Tensor, w: Tensor, dt: float, activation: str, out: Tensor) -> None:
    """out = (∂Φ/∂u)ᵀ λ = λ + Δt Wᵀ(g′ ⊙ λ). `out` must not overlap `lam`."""
    d_KBH = activation_named(activation).pull_back(lam, saved)
    torch.add(lam, _product(d_KBH, w.transpose(1, 2)), alpha=dt, out=out)


def diagonal(saved: Tensor, w: Tensor, dt: float, activation: str, out: Tensor) -> None:
    """out = diag(∂Φ/∂u) = 1 + Δt g′ ⊙ diag W, for every batch row."""
    diagonal_KBH = w.diagonal(dim1=1, dim2=2).unsqueeze(1).expand_as(saved)
    out.copy_(activation_named(activation).pull_back(diagonal_KBH, saved)).mul_(dt).add_(1)


def parameter_gradient(lam: Tensor, saved: Tensor, u: Tensor, dt: float, activation: str) -> tuple[Tensor, Tensor]:
    """(∂Φ/∂W)ᵀ λ [K, H, H] and (∂Φ/∂b)ᵀ λ [K, H], summed over the batch."""
    d_KBH = activation_named(activation).pull_back(lam, saved)
    return torch.bmm(d_KBH.transpose(1, 2), u).mul_(dt), d_KBH.sum(1).mul_(dt)


def _product(a_KBH: Tensor, w_KHH: Tensor, b_KH: Tensor | None = None) -> Tensor:
    """W_k a_k + b_k, in the memory order of `a`."""
    if a_KBH.stride(-1) == 1 and a_KBH.stride(-2) != 1:
        wT_KHH = w_KHH.transpose(1, 2)
        return torch.bmm(a_KBH, wT_KHH) if b_KH is None else torch.baddbmm(b_KH.unsqueeze(1), a_KBH, wT_KHH)
    aT_KHB = a_KBH.transpose(1, 2)
    z_KHB = torch.bmm(w_KHH, aT_KHB) if b_KH is None else torch.baddbmm(b_KH.unsqueeze(2), w_KHH, aT_KHB)
    return z_KHB.transpose(1, 2)


def sweep(
    u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str, sweep: Sweep, terms: Terms = NO_TERMS
) -> None:
    """March through the layers in place, one batched step after the other."""

    def phi(layers: slice, source: Tensor, out: Tensor, diagonal_out: Tensor | None) -> None:
        advance(source, w[layers], None if b is None else b[layers], dt, activation, out, diagonal_out)

    march(sweep, phi, u, terms)


def adjoint_sweep(
    lam: Tensor, saved: Tensor, w: Tensor, dt: float, activation: str, sweep: Sweep, terms: Terms = NO_TERMS
) -> None:
    """As `sweep`, by the transposed Jacobians."""

    def phi(layers: slice, source: Tensor, out: Tensor, diagonal_out: Tensor | None) -> None:
        vjp(source, saved[layers], w[layers], dt, activation, out)
        if diagonal_out is not None:
            diagonal(saved[layers], w[layers], dt, activation, diagonal_out)

    march(sweep, phi, lam, terms)


def picard(
    u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str, order: int, out: Tensor
) -> None:  # fmt: skip
    """out = v_S after `order` iterations over the runs' layers w [K, S, H, H]."""

    def evaluate(states: Tensor) -> tuple[Tensor, None]:
        phi = torch.empty_like(states.flatten(0, 1))
        biases = None if b is None else b.flatten(0, 1)
        advance(states.flatten(0, 1), w.flatten(0, 1), biases, dt, activation, phi)
        return phi.view(states.shape), None

    out.copy_(iterate(evaluate, u, w.shape[1], order, reverse=False))


def adjoint_picard(
    lam: Tensor, saved: Tensor, w: Tensor, dt: float, activation: str, order: int, out: Tensor
) -> None:  # fmt: skip
    """As `picard`, by the transposed Jacobians of the layers in reverse; saved is [K, S, B, H]."""

    def evaluate(states: Tensor) -> tuple[Tensor, None]:
        phi = torch.empty_like(states.flatten(0, 1))
        vjp(states.flatten(0, 1), saved.flatten(0, 1), w.flatten(0, 1), dt, activation, phi)
        return phi.view(states.shape), None

    out.copy_(iterate(evaluate, lam, w.shape[1], order, reverse=True))


def picard_sweep(
    u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str, order: int, sweep: Sweep,
    g: Tensor | None = None,
) -> None:  # fmt: skip
    """March through runs of layers w [L, S, H, H], a Picard step each."""

    def phi(runs: slice, source: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        picard(source, w[runs], None if b is None else b[runs], dt, activation, order, out)

    march(sweep, phi, u, Terms(g))


def adjoint_picard_sweep(
    lam: Tensor, saved: Tensor, w: Tensor, dt: float, activation: str, order: int, sweep: Sweep,
    g: Tensor | None = None,
) -> None:  # fmt: skip
    """As `picard_sweep`, by the transposed Jacobians."""

    def phi(runs: slice, source: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        adjoint_picard(source, saved[runs], w[runs], dt, activation, order, out)

    march(sweep, phi, lam, Terms(g))
