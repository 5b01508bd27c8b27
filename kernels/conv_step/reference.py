"""The convolutional ODE step in plain PyTorch: one convolution call per interval.

The layers of one call have distinct weights. PyTorch can express that as a single grouped convolution, but on a CPU
that takes about four times as long as separate ones (8 channels, 28×28, batch 50); so intervals are visited in turn.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.kernels.activations import activation_named
from lpgpu.kernels.conv_step.layers import Kept, Kernel
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms, march


def empty_states(points: int, like: Tensor) -> Tensor:
    """Uninitialised states [points, B, C, Y, X] for a batch `like`; channels innermost, except on a CPU."""
    if like.device.type == "cpu":
        return like.new_empty(points, *like.shape)
    images, channels, height, width = like.shape
    return like.new_empty(points, images, height, width, channels).movedim(-1, 2)


def advance(
    u_KBCYX: Tensor, kernels: list[Kernel], dt: float, activation: str, out: Tensor, *, keep: bool = False
) -> Kept:
    """out = u + Δt g(K ∗ … + b); returns what was `kept` of g if asked to. `out` must not overlap `u`."""
    everything = [[] for _ in kernels]
    for k, u in enumerate(u_KBCYX):
        a, kept_k = _through(u, kernels, k, activation)
        torch.add(u, a, alpha=dt, out=out[k])
        if keep:
            _append(everything, kept_k)
    return Kept(everything)


def kept(u_KBCYX: Tensor, kernels: list[Kernel], activation: str) -> Kept:
    """What `advance` can return, without advancing."""
    everything = [[] for _ in kernels]
    for k, u in enumerate(u_KBCYX):
        _append(everything, _through(u, kernels, k, activation)[1])
    return Kept(everything)


def vjp(lam_KBCYX: Tensor, kept: Kept, kernels: list[Kernel], dt: float, activation: str, out: Tensor) -> None:
    """out = (∂Φ/∂u)ᵀ λ = λ + Δt K¹ᵀ(g′ ⊙ K²ᵀ(g′ ⊙ λ)). `out` must not overlap `lam`."""
    g = activation_named(activation)
    for k, lam in enumerate(lam_KBCYX):
        d = lam
        for kernel, kept_i in zip(reversed(kernels), reversed(kept[k]), strict=True):
            d = _transposed_convolution(g.pull_back(d, kept_i), kernel.w[k])
        torch.add(lam, d, alpha=dt, out=out[k])


def parameter_gradient(
    lam_KBCYX: Tensor, kept: Kept, u_KBCYX: Tensor, kernels: list[Kernel], dt: float, activation: str
) -> list[tuple[Tensor, Tensor]]:
    """Gradients of every convolution's weights [K, C, C, 3, 3] and biases [K, C], summed over the batch."""
    g = activation_named(activation)
    gradients = [(torch.empty_like(kernel.w), kernel.w.new_empty(kernel.w.shape[:2])) for kernel in kernels]
    for k, lam in enumerate(lam_KBCYX):
        d = lam * dt
        for i in reversed(range(len(kernels))):
            d = g.pull_back(d, kept[k][i])
            source = g.value_of_kept(kept[k][i - 1]) if i > 0 else u_KBCYX[k]
            w = kernels[i].w[k]
            dw_KCC33, db_KC = gradients[i]
            dw_KCC33[k] = torch.nn.grad.conv2d_weight(source, w.shape, d, padding=1)  # pyright: ignore
            db_KC[k] = d.sum((0, 2, 3))
            if i > 0:
                d = _transposed_convolution(d, w)
    return gradients


def sweep(
    u_PBCYX: Tensor, kernels: list[Kernel], dt: float, activation: str, sweep: Sweep, terms: Terms = NO_TERMS
) -> None:  # fmt: skip
    """March through the layers in place, one step after the other; see `kernels.sweep.march`."""

    def step(layers: slice, u: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        advance(u, [kernel.layers(layers) for kernel in kernels], dt, activation, out)

    march(sweep, step, u_PBCYX, terms)


def adjoint_sweep(
    lam_PBCYX: Tensor, kept: Kept, kernels: list[Kernel], dt: float, activation: str, sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:  # fmt: skip
    """As `sweep`, by the transposed Jacobians."""

    def step(layers: slice, lam: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        vjp(lam, kept[layers], [kernel.layers(layers) for kernel in kernels], dt, activation, out)

    march(sweep, step, lam_PBCYX, terms)


def _through(u: Tensor, kernels: list[Kernel], k: int, activation: str) -> tuple[Tensor, list[Tensor]]:
    """g(K² ∗ g(K¹ ∗ u + b¹) + b²) of layer k, and what is kept of each g."""
    a, kept_k = u, []
    for kernel in kernels:
        a, kept_i = activation_named(activation).value_and_kept(F.conv2d(a, *kernel.layer(k), padding=1))
        kept_k.append(kept_i)
    return a, kept_k


def _transposed_convolution(d: Tensor, w: Tensor) -> Tensor:
    """Kᵀ d as a convolution by the flipped kernel: on a CPU faster than the library's input gradient."""
    return F.conv2d(d, w.flip(-2, -1).transpose(-4, -3).contiguous(), padding=1)


def _append(everything: list[list[Tensor]], kept_k: list[Tensor]) -> None:
    for of_convolution, kept_i in zip(everything, kept_k, strict=True):
        of_convolution.append(kept_i)
