"""The convolutional ODE step in plain PyTorch: one convolution call per interval.

The layers of one call have distinct weights. PyTorch can express that as a single grouped convolution, but on a CPU
that takes about four times as long as separate ones (8 channels, 28×28, batch 50); so intervals are visited in turn.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.kernels.activations import activation_named
from lpgpu.kernels.conv_step.layers import Filter, Saved
from lpgpu.kernels.picard import iterate
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms, march


def empty_states(points: int, like: Tensor) -> Tensor:
    """Uninitialised states [points, B, C, Y, X] for a batch `like`; channels innermost, except on a CPU.

    >>> empty_states(5, torch.empty(2, 3, 8, 8)).shape
    torch.Size([5, 2, 3, 8, 8])
    """
    if like.device.type == "cpu":
        return like.new_empty(points, *like.shape)
    images, channels, height, width = like.shape
    return like.new_empty(points, images, height, width, channels).movedim(-1, 2)


def advance(u: Tensor, filters: list[Filter], dt: float, activation: str, out: Tensor, save: bool = False) -> Saved:
    """out = u + Δt g(K ∗ … + b); returns what `linearise` would, if asked to `save` it. `out` must not overlap `u`."""
    everything = [[] for _ in filters]
    for k, u_k in enumerate(u):
        a, saved_k = _through(u_k, filters, k, activation)
        torch.add(u_k, a, alpha=dt, out=out[k])
        if save:
            _append(everything, saved_k)
    return Saved(everything)


def linearise(u: Tensor, filters: list[Filter], activation: str) -> Saved:
    """What `advance` can return, without advancing."""
    everything = [[] for _ in filters]
    for k, u_k in enumerate(u):
        _append(everything, _through(u_k, filters, k, activation)[1])
    return Saved(everything)


def vjp(lam: Tensor, saved: Saved, filters: list[Filter], dt: float, activation: str, out: Tensor) -> None:
    """out = (∂Φ/∂u)ᵀ λ = λ + Δt K¹ᵀ(g′ ⊙ K²ᵀ(g′ ⊙ λ)). `out` must not overlap `lam`."""
    g = activation_named(activation)
    for k, lam_k in enumerate(lam):
        d = lam_k
        for each, saved_i in zip(reversed(filters), reversed(saved[k]), strict=True):
            d = _transposed_convolution(g.pull_back(d, saved_i), each.w[k])
        torch.add(lam_k, d, alpha=dt, out=out[k])


def parameter_gradient(
    lam: Tensor, saved: Saved, u: Tensor, filters: list[Filter], dt: float, activation: str
) -> list[tuple[Tensor, Tensor]]:
    """Gradients of every convolution's weights [K, C, C, 3, 3] and biases [K, C], summed over the batch."""
    g = activation_named(activation)
    gradients = [(torch.empty_like(each.w), each.w.new_empty(each.w.shape[:2])) for each in filters]
    for k, lam_k in enumerate(lam):
        d = lam_k * dt
        for i in reversed(range(len(filters))):
            d = g.pull_back(d, saved[k][i])
            source = g.value_of_saved(saved[k][i - 1]) if i > 0 else u[k]
            w = filters[i].w[k]
            dw_KCC33, db_KC = gradients[i]
            dw_KCC33[k] = torch.nn.grad.conv2d_weight(source, w.shape, d, padding=1)  # pyright: ignore
            db_KC[k] = d.sum((0, 2, 3))
            if i > 0:
                d = _transposed_convolution(d, w)
    return gradients


def sweep(
    u: Tensor, filters: list[Filter], dt: float, activation: str, sweep: Sweep, terms: Terms = NO_TERMS
) -> None:  # fmt: skip
    """March through the layers in place, one step after the other."""

    def phi(layers: slice, source: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        advance(source, [each.of_layers(layers) for each in filters], dt, activation, out)

    march(sweep, phi, u, terms)


def adjoint_sweep(
    lam: Tensor, saved: Saved, filters: list[Filter], dt: float, activation: str, sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:  # fmt: skip
    """As `sweep`, by the transposed Jacobians."""

    def phi(layers: slice, source: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        vjp(source, saved[layers], [each.of_layers(layers) for each in filters], dt, activation, out)

    march(sweep, phi, lam, terms)


def picard(u: Tensor, filters: list[Filter], dt: float, activation: str, order: int, out: Tensor) -> None:
    """out = v_S after `order` iterations over the runs' layers, w [K, S, C, C, 3, 3]."""
    flat = [each.flat() for each in filters]

    def evaluate(states: Tensor) -> tuple[Tensor, None]:
        phi = torch.empty_like(states.flatten(0, 1))
        advance(states.flatten(0, 1), flat, dt, activation, phi)
        return phi.view(states.shape), None

    out.copy_(iterate(evaluate, u, filters[0].w.shape[1], order, reverse=False))


def adjoint_picard(
    lam: Tensor, saved: Saved, filters: list[Filter], dt: float, activation: str, order: int, out: Tensor
) -> None:  # fmt: skip
    """As `picard`, by the transposed Jacobians of the layers in reverse; saved [K, S, ...] of each convolution."""
    flat, saved_flat = [each.flat() for each in filters], Saved([each.flatten(0, 1) for each in saved.stacked()])

    def evaluate(states: Tensor) -> tuple[Tensor, None]:
        phi = torch.empty_like(states.flatten(0, 1))
        vjp(states.flatten(0, 1), saved_flat, flat, dt, activation, phi)
        return phi.view(states.shape), None

    out.copy_(iterate(evaluate, lam, filters[0].w.shape[1], order, reverse=True))


def picard_sweep(
    u: Tensor, filters: list[Filter], dt: float, activation: str, order: int, sweep: Sweep, g: Tensor | None = None
) -> None:
    """March through runs of layers, a Picard step each."""

    def phi(runs: slice, source: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        picard(source, [each.of_layers(runs) for each in filters], dt, activation, order, out)

    march(sweep, phi, u, Terms(g))


def adjoint_picard_sweep(
    lam: Tensor, saved: Saved, filters: list[Filter], dt: float, activation: str, order: int, sweep: Sweep,
    g: Tensor | None = None,
) -> None:  # fmt: skip
    """As `picard_sweep`, by the transposed Jacobians."""

    def phi(runs: slice, source: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        adjoint_picard(source, saved[runs], [each.of_layers(runs) for each in filters], dt, activation, order, out)

    march(sweep, phi, lam, Terms(g))


def _through(u: Tensor, filters: list[Filter], k: int, activation: str) -> tuple[Tensor, list[Tensor]]:
    """g(K² ∗ g(K¹ ∗ u + b¹) + b²) of layer k, and what is saved of each g."""
    a, saved_k = u, []
    for each in filters:
        a, saved_i = activation_named(activation).value_and_saved(F.conv2d(a, *each.layer(k), padding=1))
        saved_k.append(saved_i)
    return a, saved_k


def _transposed_convolution(d: Tensor, w: Tensor) -> Tensor:
    """Kᵀ d as a convolution by the flipped kernel: on a CPU faster than the library's input gradient."""
    return F.conv2d(d, w.flip(-2, -1).transpose(-4, -3).contiguous(), padding=1)


def _append(everything: list[list[Tensor]], saved_k: list[Tensor]) -> None:
    for of_convolution, saved_i in zip(everything, saved_k, strict=True):
        of_convolution.append(saved_i)
