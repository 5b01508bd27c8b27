"""One step of a GRU on many time steps at once: implicit (Moon & Cyr 2022) or classic, in ODE form with step Δt.

    r, z = σ(x_r + W_hr h + b_hr), σ(x_z + W_hz h + b_hz);  q = W_hn h + b_hn;  n = tanh(x_n + r ⊙ q);  d = Δt (1 − z)
    implicit: h⁺ = (h + d ⊙ n) / (1 + d)        classic: h⁺ = h + d ⊙ (n − h), torch.nn.GRU's cell at Δt = 1

Shapes: K steps, L layers and P = L + 1 points of a window, B batch rows, H units, gates in the order r, z, n: `h_KBH`;
`x_KBG` = W_i x + b_i with G = 3H, made beforehand for all steps by one product; `w_GH`, `b_G` (or None) shared by all
steps. Where x_z is +∞, z is exactly 1 and h⁺ exactly h: that is how a step past a sequence's end is skipped. Written
tensors must not overlap those that are read, nor require grad; `gru_step` is the differentiable one.

The adjoint is linear in λ once its coefficients are known (`Coefficients`); they are taken for many steps in one pass,
and kept in the states' dtype: in half precision each is off by a rounding, as are the states it is taken at, and λ
itself wherever it is stored. `adjoint_sweep_recomputed` keeps none (`capacity.prefers_recomputation`).

Fused sweeps march in one launch where W fits on chip (`capacity.tier`), else in one a step. All else is one launch.
"""

import torch
from torch import Tensor

from lpgpu.kernels.checks import check_sweep, check_tensors
from lpgpu.kernels.dispatch import is_fused
from lpgpu.kernels.implicit_gru import operators, reference
from lpgpu.kernels.implicit_gru.operators import gru_step, refusal
from lpgpu.kernels.implicit_gru.reference import FORMULATIONS, Coefficients, Gates, coefficients
from lpgpu.kernels.packing import integers_of
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

__all__ = [
    "FORMULATIONS",
    "Coefficients",
    "Gates",
    "adjoint_sweep",
    "adjoint_sweep_recomputed",
    "advance",
    "can_recompute",
    "coefficients",
    "diagonal",
    "gate_gradients",
    "gru_step",
    "linearise",
    "sweep",
    "vjp",
]


def sweep(
    h_PBH: Tensor,
    x_LBG: Tensor,
    w_GH: Tensor,
    b_G: Tensor | None,
    dt: float,
    formulation: str,
    sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """March the states of a window through its layers, in place; see `kernels.sweep`.

    h_target = Φ_k(h_source) + δ_k ⊙ (h_source − anchor_k) + g_target, with δ, anchors and g from `terms`.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an unknown formulation.
    """
    _check_sweep(h_PBH, w_GH, sweep, terms)
    _check_cell(h_PBH, w_GH, b_G, formulation, x_LBG=x_LBG, layers=sweep.num_layers)
    run = operators.gru_sweep if torch.compiler.is_compiling() else operators.run_sweep
    run(h_PBH, x_LBG, w_GH, b_G, dt, formulation, integers_of(sweep), *terms.tensors())


def adjoint_sweep(
    lam_PBH: Tensor,
    at: Coefficients,
    w_GH: Tensor,
    sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """As `sweep`, with λ_target = (∂h⁺/∂h)ᵀ λ_source from the coefficients of the window's layers, [L, ...].

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.
    """
    _check_sweep(lam_PBH, w_GH, sweep, terms)
    _check_coefficients(lam_PBH, at, sweep.num_layers)
    run = operators.gru_adjoint_sweep if torch.compiler.is_compiling() else operators.run_adjoint_sweep
    run(lam_PBH, at.a, at.c, w_GH, integers_of(sweep), *terms.tensors())


def adjoint_sweep_recomputed(
    lam_PBH: Tensor,
    h_LBH: Tensor,
    x_LBG: Tensor,
    w_GH: Tensor,
    b_G: Tensor | None,
    dt: float,
    formulation: str,
    sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """As `adjoint_sweep`, with the gates computed again from the states `h` that the layers started from.

    Fused where W fits on chip for two products (`capacity.tier(..., kind="recomputed")`).

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an unknown formulation.
    """
    _check_sweep(lam_PBH, w_GH, sweep, terms)
    _check_cell(lam_PBH, w_GH, b_G, formulation, x_LBG=x_LBG, h_LBH=h_LBH, layers=sweep.num_layers)
    compiling = torch.compiler.is_compiling()
    run = operators.gru_adjoint_sweep_recomputed if compiling else operators.run_adjoint_sweep_recomputed
    geometry = integers_of(sweep)
    run(lam_PBH, h_LBH, x_LBG, w_GH, b_G, dt, formulation, geometry, *terms.tensors())


def can_recompute(lam: Tensor, terms: Terms = NO_TERMS) -> bool:
    """Whether `adjoint_sweep_recomputed` runs for states like `lam`, and with these terms."""
    return operators.refusal_to_recompute(lam, terms) is None


def advance(
    h_KBH: Tensor,
    x_KBG: Tensor,
    w_GH: Tensor,
    b_G: Tensor | None,
    dt: float,
    formulation: str,
    out: Tensor,
    diagonal: Tensor | None = None,
    decay: Tensor | None = None,
) -> Gates | Coefficients | None:
    """out = h⁺; where asked for, diagonal = diag(∂h⁺/∂h), and the decay a of h⁺ = a ⊙ h + (1 − a) ⊙ n.

    Returns what the adjoint can use and cost nothing extra: the reference's gates, or with `diagonal` the coefficients;
    the fused kernel has neither and returns None.
    """
    if _is_fused("advance", h_KBH, x_KBG, w_GH, out, diagonal, decay):
        from lpgpu.kernels.implicit_gru import fused

        _check_cell(h_KBH, w_GH, b_G, formulation, x_LBG=x_KBG, layers=len(h_KBH))
        check_tensors(h_KBH, out=(out, h_KBH.shape), diagonal=(diagonal, h_KBH.shape), decay=(decay, h_KBH.shape))
        fused.advance(h_KBH, x_KBG, w_GH, b_G, dt, formulation, out, diagonal, decay)
        return None
    gates = reference.advance(h_KBH, x_KBG, w_GH, b_G, dt, formulation, out)
    if decay is not None:
        reference.decay(gates, dt, formulation, decay)
    if diagonal is None:
        return gates
    at = coefficients(h_KBH, gates, dt, formulation)
    reference.diagonal(at, w_GH, diagonal)
    return at


def linearise(
    h_KBH: Tensor, x_KBG: Tensor, w_GH: Tensor, b_G: Tensor | None, dt: float, formulation: str
) -> Coefficients:
    """The adjoint's coefficients of all K steps, from the states they started from."""
    _check_cell(h_KBH, w_GH, b_G, formulation, x_LBG=x_KBG, layers=len(h_KBH))
    if _is_fused("linearise", h_KBH, x_KBG, w_GH):
        from lpgpu.kernels.implicit_gru import fused

        return fused.linearise(h_KBH, x_KBG, w_GH, b_G, dt, formulation)
    return reference.linearise(h_KBH, x_KBG, w_GH, b_G, dt, formulation)


def vjp(lam_KBH: Tensor, at: Coefficients, w_GH: Tensor, out: Tensor) -> None:
    """out = (∂h⁺/∂h)ᵀ λ = a ⊙ λ + Wᵀ (c ⊙ λ). `out` must not overlap `lam`."""
    if _is_fused("vjp", lam_KBH, at.a, at.c, w_GH, out):
        from lpgpu.kernels.implicit_gru import fused

        _check_coefficients(lam_KBH, at, len(lam_KBH))
        check_tensors(lam_KBH, out=(out, lam_KBH.shape), w=(w_GH, (3 * lam_KBH.shape[-1], lam_KBH.shape[-1])))
        return fused.vjp(lam_KBH, at, w_GH, out)
    return reference.vjp(lam_KBH, at, w_GH, out)


def diagonal(at: Coefficients, w_GH: Tensor, out: Tensor) -> None:
    """out = diag(∂h⁺/∂h) = a + Σ over the gates of c ⊙ diag W."""
    if _is_fused("diagonal", out, at.a, at.c, w_GH):
        from lpgpu.kernels.implicit_gru import fused

        _check_coefficients(out, at, len(out))
        check_tensors(out, w=(w_GH, (3 * out.shape[-1], out.shape[-1])))
        return fused.diagonal(at, w_GH, out)
    return reference.diagonal(at, w_GH, out)


def gate_gradients(lam_KBH: Tensor, at: Coefficients) -> tuple[Tensor, Tensor]:
    """(∂h⁺/∂x)ᵀ λ [K, B, 3H], and (∂h⁺/∂q)ᵀ λ [K, B, H]: W h + b enters r and z as x does, but n through q."""
    if _is_fused("gate_gradients", lam_KBH, *at.tensors()):
        from lpgpu.kernels.implicit_gru import fused

        _check_coefficients(lam_KBH, at, len(lam_KBH))
        return fused.gate_gradients(lam_KBH, at)
    return reference.gate_gradients(lam_KBH, at)


def _is_fused(operation: str, like: Tensor, *others: Tensor | None) -> bool:
    """Whether the fused kernel runs. The steps check their tensors only then: a serial solve on a CPU takes thousands
    of them, tens of microseconds each, and PyTorch's own errors speak for the reference."""
    return is_fused(f"implicit_gru.{operation}", like, refusal(like, *others))


def _check_sweep(u_PBH: Tensor, w_GH: Tensor, sweep: Sweep, terms: Terms) -> None:
    _check_states(u_PBH)
    check_sweep(u_PBH, sweep, terms)
    check_tensors(u_PBH, w=(w_GH, (3 * u_PBH.shape[-1], u_PBH.shape[-1])))


def _check_cell(
    like: Tensor,
    w_GH: Tensor,
    b_G: Tensor | None,
    formulation: str,
    *,
    x_LBG: Tensor,
    layers: int,
    h_LBH: Tensor | None = None,
) -> None:
    if formulation not in FORMULATIONS:
        raise ValueError(f"formulation is {formulation!r}; expected one of {', '.join(FORMULATIONS)}")
    _check_states(like)
    batch, width = like.shape[1:]
    shapes = {"x": (layers, batch, 3 * width), "w": (3 * width, width), "b": (3 * width,), "h": (layers, batch, width)}
    check_tensors(like, x=(x_LBG, shapes["x"]), w=(w_GH, shapes["w"]), b=(b_G, shapes["b"]), h=(h_LBH, shapes["h"]))


def _check_coefficients(like: Tensor, at: Coefficients, layers: int) -> None:
    _check_states(like)
    shape, width = (layers, *like.shape[1:]), like.shape[-1]
    check_tensors(like, a=(at.a, shape), c=(at.c, (*shape[:2], 3 * width)), c_n=(at.c_n, shape))


def _check_states(states: Tensor) -> None:
    if states.ndim != 3:
        raise ValueError(f"states have shape {tuple(states.shape)}; expected [layers, batch, width]")
