"""The convolutional ODE step on many layers at once: one or two 3×3 convolutions, zero padded.

One: Φ_k(u) = u + Δt g(K_k ∗ u + b_k). Two: Φ_k(u) = u + Δt g(K²_k ∗ g(K¹_k ∗ u + b¹_k) + b²_k).
Shapes: K layers, L layers and P = L + 1 points of a window, B images, C channels, Y×X pixels. `u_KBCYX`; a convolution
has `w_KCC33` and `b_KC` (or None). Slices of larger tensors along the layers are taken as they are, without a copy, in
any memory order; `empty_states` and `packed` give the one that is fastest. Written tensors must not overlap those that
are read, nor require grad; `conv_ode_step` is the differentiable one.

The fused kernels take one launch per convolution: for all layers in `advance`, `kept` and `vjp`, for one step of all
intervals in `sweep` and `adjoint_sweep`.
"""

import torch
from torch import Tensor

from lpgpu.kernels.activations import activation_named
from lpgpu.kernels.checks import check_sweep, check_tensors
from lpgpu.kernels.conv_step import operators, reference
from lpgpu.kernels.conv_step.layers import Kept, Kernel, packed
from lpgpu.kernels.conv_step.operators import conv_ode_step
from lpgpu.kernels.conv_step.reference import empty_states
from lpgpu.kernels.dispatch import is_fused
from lpgpu.kernels.layout import refusal
from lpgpu.kernels.packing import integers_of
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

__all__ = [
    "Kept",
    "Kernel",
    "adjoint_sweep",
    "advance",
    "conv_ode_step",
    "empty_states",
    "kept",
    "packed",
    "parameter_gradient",
    "sweep",
    "vjp",
]


def sweep(
    u_PBCYX: Tensor,
    kernels: list[Kernel],
    dt: float,
    activation: str,
    sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """March the states of a window through its layers, in place; see `kernels.sweep`.

    u_target = Φ_k(u_source) + δ_k ⊙ (u_source − anchor_k) + g_target, with δ, anchors and g from `terms`.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.
    """
    check_sweep(u_PBCYX, sweep, terms)
    _check_no_products(terms)
    _check_kernels(u_PBCYX, kernels, sweep.num_layers, activation)
    run = operators.conv_sweep if torch.compiler.is_compiling() else operators.run_sweep
    run(u_PBCYX, *operators.split(kernels), dt, activation, integers_of(sweep), *terms.tensors()[:3])


def adjoint_sweep(
    lam_PBCYX: Tensor,
    kept: Kept,
    kernels: list[Kernel],
    dt: float,
    activation: str,
    sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """As `sweep`, with λ_target = (∂Φ_k/∂u)ᵀ λ_source, linearised where `kept`, of the window's layers, was taken.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.
    """
    check_sweep(lam_PBCYX, sweep, terms)
    _check_no_products(terms)
    _check_kernels(lam_PBCYX, kernels, sweep.num_layers, activation)
    _check_kept(kept, kernels)
    if torch.compiler.is_compiling():
        rest = (dt, activation, integers_of(sweep), *terms.tensors()[:3])
        operators.conv_adjoint_sweep(lam_PBCYX, kept.stacked(), *operators.split(kernels), *rest)
    else:
        operators.run_adjoint_sweep(lam_PBCYX, kept, kernels, dt, activation, sweep, terms)


def advance(
    u_KBCYX: Tensor, kernels: list[Kernel], dt: float, activation: str, out: Tensor, *, keep: bool = False
) -> Kept:
    """out = u + Δt g(K ∗ … + b).

    Returns what was `kept` of g, where that is asked for and costs nothing; else it is empty.
    """
    _check_step(u_KBCYX, kernels, activation, out)
    if is_fused("conv_step.advance", u_KBCYX, refusal(u_KBCYX, out, *_weights(kernels))):
        from lpgpu.kernels.conv_step import fused

        fused.advance(u_KBCYX, kernels, dt, activation, out)
        return Kept()
    return reference.advance(u_KBCYX, kernels, dt, activation, out, keep=keep)


def kept(u_KBCYX: Tensor, kernels: list[Kernel], activation: str) -> Kept:
    """What the adjoint needs to know of the step at `u`."""
    _check_step(u_KBCYX, kernels, activation)
    if is_fused("conv_step.kept", u_KBCYX, refusal(u_KBCYX, *_weights(kernels))):
        from lpgpu.kernels.conv_step import fused

        return Kept(fused.kept(u_KBCYX, kernels, activation))
    return reference.kept(u_KBCYX, kernels, activation)


def vjp(lam_KBCYX: Tensor, kept: Kept, kernels: list[Kernel], dt: float, activation: str, out: Tensor) -> None:
    """out = (∂Φ/∂u)ᵀ λ = λ + Δt K¹ᵀ(g′ ⊙ K²ᵀ(g′ ⊙ λ))."""
    _check_step(lam_KBCYX, kernels, activation, out)
    _check_kept(kept, kernels)
    if is_fused("conv_step.vjp", lam_KBCYX, refusal(lam_KBCYX, out, *_weights(kernels))):
        from lpgpu.kernels.conv_step import fused

        fused.vjp(lam_KBCYX, kept.stacked(), kernels, dt, activation, out)
    else:
        reference.vjp(lam_KBCYX, kept, kernels, dt, activation, out)


def parameter_gradient(
    lam_KBCYX: Tensor, kept: Kept, u_KBCYX: Tensor, kernels: list[Kernel], dt: float, activation: str
) -> list[tuple[Tensor, Tensor]]:
    """Gradients of every convolution's weights [K, C, C, 3, 3] and biases [K, C], summed over the batch."""
    _check_step(u_KBCYX, kernels, activation, lam_KBCYX)
    _check_kept(kept, kernels)
    if is_fused("conv_step.parameter_gradient", u_KBCYX, refusal(u_KBCYX, lam_KBCYX, *_weights(kernels))):
        from lpgpu.kernels.conv_step import fused

        return fused.parameter_gradient(lam_KBCYX, kept.stacked(), u_KBCYX, kernels, dt, activation)
    return reference.parameter_gradient(lam_KBCYX, kept, u_KBCYX, kernels, dt, activation)


def _check_step(u: Tensor, kernels: list[Kernel], activation: str, other: Tensor | None = None) -> None:
    _check_kernels(u, kernels, len(u), activation)
    check_tensors(u, other=(other, u.shape))


def _check_kept(kept: Kept, kernels: list[Kernel]) -> None:
    came, expected = (len(kept.by_convolution), len(kept)), (len(kernels), len(kernels[0].w))
    if came != expected:
        raise ValueError(
            f"kept is of {came[0]} convolutions × {came[1]} layers; expected {expected[0]} × {expected[1]}"
        )


def _check_kernels(u: Tensor, kernels: list[Kernel], layers: int, activation: str) -> None:
    activation_named(activation)
    if u.ndim != 5:
        raise ValueError(f"states have shape {tuple(u.shape)}; expected [layers, images, channels, rows, columns]")
    if not kernels:
        raise ValueError("there are no kernels; expected one for each convolution of a step")
    channels = u.shape[2]
    for w, b in kernels:
        check_tensors(u, w=(w, (layers, channels, channels, 3, 3)), b=(b, (layers, channels)))


def _check_no_products(terms: Terms) -> None:
    if terms.products is not None:
        raise ValueError("products were asked for; a convolution has no closed formula for its Jacobian's diagonal")


def _weights(kernels: list[Kernel]) -> list[Tensor]:
    return [kernel.w for kernel in kernels]
