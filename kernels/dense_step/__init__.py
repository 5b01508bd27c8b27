"""The dense ODE step, Φ_k(u) = u + Δt g(W_k u + b_k), on many layers at once.

Shapes: K layers, L layers and P = L + 1 points of a window, B batch rows, H width. `u_KBH`, `w_KHH`, `b_KH` (None: no
bias). Slices of larger tensors along the layers are taken as they are, without a copy. `empty_states` makes tensors in
the memory order this operation is fastest in. Written tensors must not overlap those that are read, nor require grad;
`dense_ode_step` is the differentiable one.

`sweep` and `adjoint_sweep` march in place through many steps of all intervals; the fused kernels do so in one launch
where the weights fit on chip (`capacity`), else in one a step. All else is one launch for all layers. Tensors that do
not go together are a ValueError; single steps on a CPU leave it to torch to say so, as they take microseconds.
"""

import torch
from torch import Tensor

from lpgpu.kernels.activations import activation_named
from lpgpu.kernels.checks import check_sweep, check_tensors
from lpgpu.kernels.dense_step import operators, reference
from lpgpu.kernels.dense_step.operators import dense_ode_step
from lpgpu.kernels.dense_step.reference import empty_states, parameter_gradient
from lpgpu.kernels.dispatch import is_fused
from lpgpu.kernels.layout import refusal
from lpgpu.kernels.packing import integers_of
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

__all__ = [
    "adjoint_sweep",
    "advance",
    "dense_ode_step",
    "diagonal",
    "empty_states",
    "kept",
    "parameter_gradient",
    "sweep",
    "vjp",
]


def sweep(
    u_PBH: Tensor,
    w_LHH: Tensor,
    b_LH: Tensor | None,
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
    _check_sweep(u_PBH, w_LHH, b_LH, activation, sweep, terms)
    run = operators.dense_sweep if torch.compiler.is_compiling() else operators.run_sweep
    run(u_PBH, w_LHH, b_LH, dt, activation, integers_of(sweep), *terms.tensors())


def adjoint_sweep(
    lam_PBH: Tensor,
    kept_LBH: Tensor,
    w_LHH: Tensor,
    dt: float,
    activation: str,
    sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """As `sweep`, with λ_target = (∂Φ_k/∂u)ᵀ λ_source, linearised where `kept` was taken.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.
    """
    _check_sweep(lam_PBH, w_LHH, None, activation, sweep, terms)
    check_tensors(lam_PBH, kept=(kept_LBH, (sweep.num_layers, *lam_PBH.shape[1:])))
    run = operators.dense_adjoint_sweep if torch.compiler.is_compiling() else operators.run_adjoint_sweep
    run(lam_PBH, kept_LBH, w_LHH, dt, activation, integers_of(sweep), *terms.tensors())


def advance(
    u_KBH: Tensor,
    w_KHH: Tensor,
    b_KH: Tensor | None,
    dt: float,
    activation: str,
    out: Tensor,
    *,
    diagonal: Tensor | None = None,
) -> Tensor | None:
    """out = u + Δt g(W u + b), and diagonal = diag(∂Φ/∂u) where asked for.

    Returns what was `kept` of g, where that costs nothing: the reference does, the fused kernel returns None.
    """
    if is_fused("dense_step.advance", u_KBH, refusal(u_KBH, w_KHH, out, diagonal)):
        from lpgpu.kernels.dense_step import fused

        _check_step(u_KBH, w_KHH, b_KH, activation, out, diagonal)
        fused.step(u_KBH, out, w_KHH, b_KH, dt, activation, diagonal_KBH=diagonal)
        return None
    kept_KBH = reference.advance(u_KBH, w_KHH, b_KH, dt, activation, out)
    if diagonal is not None:
        reference.diagonal(kept_KBH, w_KHH, dt, activation, diagonal)
    return kept_KBH


def kept(u_KBH: Tensor, w_KHH: Tensor, b_KH: Tensor | None, activation: str) -> Tensor:
    """What the adjoint needs to know of the step at `u`: [K, B, H]."""
    if is_fused("dense_step.kept", u_KBH, refusal(u_KBH, w_KHH)):
        from lpgpu.kernels.dense_step import fused

        _check_step(u_KBH, w_KHH, b_KH, activation)
        kept_KBH = fused.empty_kept(u_KBH)
        fused.step(u_KBH, None, w_KHH, b_KH, 0.0, activation, kept_KBH=kept_KBH)
        return kept_KBH
    return reference.kept(u_KBH, w_KHH, b_KH, activation)


def vjp(lam_KBH: Tensor, kept_KBH: Tensor, w_KHH: Tensor, dt: float, activation: str, out: Tensor) -> None:
    """out = (∂Φ/∂u)ᵀ λ = λ + Δt Wᵀ(g′ ⊙ λ)."""
    if is_fused("dense_step.vjp", lam_KBH, refusal(lam_KBH, kept_KBH, w_KHH, out)):
        from lpgpu.kernels.dense_step import fused

        _check_step(lam_KBH, w_KHH, None, activation, out, kept_KBH)
        fused.step(lam_KBH, out, w_KHH, None, dt, activation, kept_KBH=kept_KBH, adjoint=True)
        return
    reference.vjp(lam_KBH, kept_KBH, w_KHH, dt, activation, out)


def diagonal(kept_KBH: Tensor, w_KHH: Tensor, dt: float, activation: str, out: Tensor) -> None:
    """out = diag(∂Φ/∂u) = 1 + Δt g′ ⊙ diag W, for every batch row."""
    if is_fused("dense_step.diagonal", kept_KBH, refusal(kept_KBH, w_KHH, out)):
        from lpgpu.kernels.dense_step import fused

        _check_step(kept_KBH, w_KHH, None, activation, out)
        # The states go unread where there is nothing but a diagonal to write.
        fused.step(kept_KBH, None, w_KHH, None, dt, activation, kept_KBH=kept_KBH, diagonal_KBH=out, adjoint=True)
        return
    reference.diagonal(kept_KBH, w_KHH, dt, activation, out)


def _check_step(
    u: Tensor, w: Tensor, b: Tensor | None, activation: str, out: Tensor | None = None, other: Tensor | None = None
) -> None:
    if u.ndim != 3:
        raise ValueError(f"states have shape {tuple(u.shape)}; expected [layers, batch, width]")
    activation_named(activation)
    layers, _, width = state = u.shape
    check_tensors(
        u, w=(w, (layers, width, width)), b=(b, (layers, width)), out=(out, state), other=(other, state)
    )  # fmt: skip


def _check_sweep(u: Tensor, w: Tensor, b: Tensor | None, activation: str, sweep: Sweep, terms: Terms) -> None:
    check_sweep(u, sweep, terms)
    _check_step(u[1:], w, b, activation)
