"""One step of a GRU on many time steps at once: implicit (Moon & Cyr 2022) or classic, in ODE form with step Δt.

    r, z = σ(x_r + W_hr h + b_hr), σ(x_z + W_hz h + b_hz);  q = W_hn h + b_hn;  n = tanh(x_n + r ⊙ q);  d = Δt (1 − z)
    implicit: h⁺ = (h + d ⊙ n) / (1 + d)        classic: h⁺ = h + d ⊙ (n − h), torch.nn.GRU's cell at Δt = 1

Shapes: K steps, L layers and P = L + 1 points of a window, B batch rows, H units, gates in the order r, z, n: `h_KBH`;
`x_KBG` = W_i x + b_i with G = 3H, made beforehand for all steps by one product; the `Cell`, which all steps share, has
W_h [3H, H], b_h [3H] or None, Δt and the formulation. Where x_z is +∞, z is exactly 1 and h⁺ exactly h: that is how a
step past a sequence's end is skipped. Written tensors must not overlap those that are read, nor require grad;
`gru_step` is the differentiable one.

The adjoint is linear in λ once its coefficients are known (`Coefficients`); they are taken for many steps in one pass,
and kept in the states' dtype: in half precision each is off by a rounding, as are the states it is taken at, and λ
itself wherever it is stored. `adjoint_sweep_recomputed` keeps none.

`picard` and `adjoint_picard` are Picard iterations over K runs of S steps (`kernels.picard`), x [K, S, B, 3H].
Fused sweeps march in one launch where W fits on chip (`tiles.tile`), else in one a step; so does `picard_sweep` of
order 1. Other Picard steps take a launch an iteration. All else is one launch.
`operators` has the same functions without a check.
"""

from torch import Tensor

from lpgpu.kernels.checks import check_tensors
from lpgpu.kernels.implicit_gru import operators
from lpgpu.kernels.implicit_gru.checks import check_cell, check_coefficients, check_march, check_weights
from lpgpu.kernels.implicit_gru.picard import adjoint_picard, adjoint_picard_sweep, picard, picard_sweep
from lpgpu.kernels.implicit_gru.reference import FORMULATIONS, Cell, Coefficients, Gates, coefficients
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

__all__ = [
    "FORMULATIONS",
    "Cell",
    "Coefficients",
    "Gates",
    "adjoint_picard",
    "adjoint_picard_sweep",
    "adjoint_sweep",
    "adjoint_sweep_recomputed",
    "advance",
    "at_zero",
    "can_recompute",
    "coefficients",
    "diagonal",
    "gate_gradients",
    "gru_step",
    "linearise",
    "picard",
    "picard_sweep",
    "sweep",
    "vjp",
]


def sweep(h_PBH: Tensor, x_LBG: Tensor, cell: Cell, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
    """March the states of a window through its layers, in place; see `kernels.sweep`.

    h_target = Φ_k(h_source) + δ_k ⊙ (h_source − anchor_k) + g_target, with δ, anchors and g from `terms`.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an unknown formulation.

    >>> import torch
    >>> h, cell = torch.ones(3, 1, 1), Cell(torch.zeros(3, 1), None, 1.0, "classic")
    >>> sweep(h, torch.zeros(2, 1, 3), cell, Sweep(num_layers=2, first=0, interval=2, steps=2))
    >>> h.flatten().tolist()
    [1.0, 0.5, 0.25]
    """
    check_march(h_PBH, cell.w, sweep, terms)
    check_cell(h_PBH, x_LBG, cell, h=h_PBH[1:])
    operators.sweep(h_PBH, x_LBG, cell, sweep, terms)


def adjoint_sweep(lam_PBH: Tensor, at: Coefficients, w_GH: Tensor, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
    """March adjoint states: as `sweep`, with λ_target = (∂h⁺/∂h)ᵀ λ_source.

    `at` are the coefficients of the window's layers, [L, ...].

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> lam, cell = torch.ones(3, 1, 1), Cell(torch.zeros(3, 1), None, 1.0, "classic")
    >>> at = linearise(torch.ones(2, 1, 1), torch.zeros(2, 1, 3), cell)
    >>> adjoint_sweep(lam, at, cell.w, Sweep(num_layers=2, first=1, interval=2, steps=2, reverse=True))
    >>> lam.flatten().tolist()
    [0.25, 0.5, 1.0]
    """
    check_march(lam_PBH, w_GH, sweep, terms)
    check_coefficients(lam_PBH, at, sweep.num_layers)
    operators.adjoint_sweep(lam_PBH, at, w_GH, sweep, terms)


def adjoint_sweep_recomputed(
    lam_PBH: Tensor, h_LBH: Tensor, x_LBG: Tensor, cell: Cell, sweep: Sweep, terms: Terms = NO_TERMS
) -> None:
    """March adjoint states, computing the gates again from the states `h` that the layers started from.

    Fused where W fits on chip for two products (`can_recompute`).

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an unknown formulation.

    >>> import torch
    >>> lam, cell = torch.ones(3, 1, 1), Cell(torch.zeros(3, 1), None, 1.0, "classic")
    >>> back = Sweep(num_layers=2, first=1, interval=2, steps=2, reverse=True)
    >>> adjoint_sweep_recomputed(lam, torch.ones(2, 1, 1), torch.zeros(2, 1, 3), cell, back)
    >>> lam.flatten().tolist()
    [0.25, 0.5, 1.0]
    """
    check_march(lam_PBH, cell.w, sweep, terms)
    check_cell(lam_PBH, x_LBG, cell, lam=lam_PBH[1:], h=h_LBH)
    operators.adjoint_sweep_recomputed(lam_PBH, h_LBH, x_LBG, cell, sweep, terms)


def can_recompute(lam: Tensor, terms: Terms = NO_TERMS) -> bool:
    """Whether `adjoint_sweep_recomputed` runs for states like `lam`, and with these terms.

    >>> import torch
    >>> can_recompute(torch.ones(3, 1, 1))
    True
    """
    return operators.why_not_recomputed(lam, terms) is None


def advance(
    h_KBH: Tensor,
    x_KBG: Tensor,
    cell: Cell,
    out: Tensor,
    diagonal: Tensor | None = None,
    decay: Tensor | None = None,
) -> Gates | Coefficients | None:
    """Set out = h⁺; where asked for, diagonal = diag(∂h⁺/∂h), and the decay a of h⁺ = a ⊙ h + (1 − a) ⊙ n.

    Returns what the adjoint can use and cost nothing extra: the reference's gates, or with `diagonal` the coefficients;
    the fused kernel has neither and returns None.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an unknown formulation.

    >>> import torch
    >>> h, out, cell = torch.ones(1, 1, 1), torch.empty(1, 1, 1), Cell(torch.zeros(3, 1), None, 1.0, "classic")
    >>> gates = advance(h, torch.zeros(1, 1, 3), cell, out)
    >>> out.item()
    0.5
    """
    check_cell(h_KBH, x_KBG, cell, h=h_KBH, out=out, diagonal=diagonal, decay=decay)
    return operators.advance(h_KBH, x_KBG, cell, out, diagonal, decay)


def linearise(h_KBH: Tensor, x_KBG: Tensor, cell: Cell) -> Coefficients:
    """The adjoint's coefficients of all K steps, from the states they started from.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an unknown formulation.

    >>> import torch
    >>> linearise(torch.ones(1, 1, 1), torch.zeros(1, 1, 3), Cell(torch.zeros(3, 1), None, 1.0, "classic")).a.item()
    0.5
    """
    check_cell(h_KBH, x_KBG, cell, h=h_KBH)
    return operators.linearise(h_KBH, x_KBG, cell)


def vjp(lam_KBH: Tensor, at: Coefficients, w_GH: Tensor, out: Tensor) -> None:
    """Set out = (∂h⁺/∂h)ᵀ λ = a ⊙ λ + Wᵀ (c ⊙ λ). `out` must not overlap `lam`.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> cell, out = Cell(torch.zeros(3, 1), None, 1.0, "classic"), torch.empty(1, 1, 1)
    >>> vjp(torch.ones(1, 1, 1), linearise(torch.ones(1, 1, 1), torch.zeros(1, 1, 3), cell), cell.w, out)
    >>> out.item()
    0.5
    """
    check_coefficients(lam_KBH, at, len(lam_KBH))
    check_weights(lam_KBH, w_GH)
    check_tensors(lam_KBH, out=(out, lam_KBH.shape))
    operators.vjp(lam_KBH, at, w_GH, out)


def diagonal(at: Coefficients, w_GH: Tensor, out: Tensor) -> None:
    """Set out = diag(∂h⁺/∂h) = a + Σ over the gates of c ⊙ diag W.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> cell, out = Cell(torch.zeros(3, 1), None, 1.0, "classic"), torch.empty(1, 1, 1)
    >>> diagonal(linearise(torch.ones(1, 1, 1), torch.zeros(1, 1, 3), cell), cell.w, out)
    >>> out.item()
    0.5
    """
    check_coefficients(out, at, len(out))
    check_weights(out, w_GH)
    operators.diagonal(at, w_GH, out)


def at_zero(x_KBG: Tensor, cell: Cell, out: Tensor, diagonal: Tensor) -> None:
    """Set out = h⁺ and diagonal = diag(∂h⁺/∂h), both at h = 0: no product with W, so that all K steps cost little.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an unknown formulation.

    >>> import torch
    >>> out, diagonal = torch.empty(2, 1, 1, 1)
    >>> at_zero(torch.zeros(1, 1, 3), Cell(torch.ones(3, 1), torch.ones(3), 1.0, "classic"), out, diagonal)
    >>> round(out.item(), 4), round(diagonal.item(), 4)
    (0.1677, 0.7609)
    """
    check_cell(out, x_KBG, cell, out=out, diagonal=diagonal)
    operators.at_zero(x_KBG, cell, out, diagonal)


def gate_gradients(lam_KBH: Tensor, at: Coefficients) -> tuple[Tensor, Tensor]:
    """(∂h⁺/∂x)ᵀ λ [K, B, 3H], and (∂h⁺/∂q)ᵀ λ [K, B, H]: W h + b enters r and z as x does, but n through q.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> at = linearise(torch.ones(1, 1, 1), torch.zeros(1, 1, 3), Cell(torch.zeros(3, 1), None, 1.0, "classic"))
    >>> by_x, by_q = gate_gradients(torch.ones(1, 1, 1), at)
    >>> by_x.flatten().tolist(), by_q.item()
    ([0.0, 0.25, 0.5], 0.25)
    """
    check_coefficients(lam_KBH, at, len(lam_KBH))
    return operators.gate_gradients(lam_KBH, at)


def gru_step(x: Tensor, h: Tensor, w: Tensor, b: Tensor | None, dt: float, formulation: str) -> Tensor:
    """h⁺ of every step: `x` [K, B, 3H], `h` [K, B, H] → [K, B, H]. Differentiable once in `x`, `h`, `w` and `b`.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an unknown formulation.
        RuntimeError: where a second derivative is taken.

    >>> import torch
    >>> x, h = torch.zeros(1, 2, 9), torch.ones(1, 2, 3, requires_grad=True)
    >>> gru_step(x, h, torch.zeros(9, 3), None, 1.0, "classic").sum().backward()
    >>> h.grad.tolist()
    [[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]
    """
    check_cell(h, x, Cell(w, b, dt, formulation), h=h)
    return operators.gru_step(x, h, w, b, dt, formulation)
