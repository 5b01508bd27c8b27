"""The dense ODE step, Φ_k(u) = u + Δt g(W_k u + b_k), on many layers at once.

Shapes: K layers, L layers and P = L + 1 points of a window, B batch rows, H width. `u_KBH`, `w_KHH`, `b_KH` (None: no
bias). Slices of larger tensors along the layers are taken as they are, without a copy. `empty_states` makes tensors in
the memory order this operation is fastest in. Written tensors must not overlap those that are read, nor require grad;
`dense_ode_step` is the differentiable one.

`sweep` and `adjoint_sweep` march in place through many steps of all intervals; the fused kernels do so in one launch
where the weights fit on chip (`tiles`), else in one a step. All else is one launch for all layers. Tensors that do not
go together are a ValueError; `operators` has the same functions without a check.
"""

from torch import Tensor

from lpgpu.kernels.activations import activation_named
from lpgpu.kernels.checks import check_tensors
from lpgpu.kernels.dense_step import operators, reference
from lpgpu.kernels.dense_step.checks import check_march, check_step
from lpgpu.kernels.dense_step.reference import empty_states
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

__all__ = [
    "adjoint_sweep",
    "advance",
    "dense_ode_step",
    "diagonal",
    "empty_states",
    "linearise",
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

    >>> import torch
    >>> u, w = torch.ones(4, 1, 2), torch.eye(2).expand(3, 2, 2)
    >>> sweep(u, w, None, 1.0, "identity", Sweep(num_layers=3, first=0, interval=3, steps=3))
    >>> u[:, 0, 0].tolist()
    [1.0, 2.0, 4.0, 8.0]
    """
    check_march(u_PBH, w_LHH, b_LH, activation, sweep, terms)
    operators.sweep(u_PBH, w_LHH, b_LH, dt, activation, sweep, terms)


def adjoint_sweep(
    lam_PBH: Tensor,
    saved_LBH: Tensor,
    w_LHH: Tensor,
    dt: float,
    activation: str,
    sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """March adjoint states: as `sweep`, with λ_target = (∂Φ_k/∂u)ᵀ λ_source. `saved` is what `linearise` gave.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> w, back = torch.eye(2).expand(3, 2, 2), Sweep(num_layers=3, first=2, interval=3, steps=3, reverse=True)
    >>> lam, saved = torch.ones(4, 1, 2), linearise(torch.ones(3, 1, 2), w, None, "identity")
    >>> adjoint_sweep(lam, saved, w, 1.0, "identity", back)
    >>> lam[:, 0, 0].tolist()
    [8.0, 4.0, 2.0, 1.0]
    """
    check_march(lam_PBH, w_LHH, None, activation, sweep, terms)
    check_tensors(lam_PBH, saved=(saved_LBH, (sweep.num_layers, *lam_PBH.shape[1:])))
    operators.adjoint_sweep(lam_PBH, saved_LBH, w_LHH, dt, activation, sweep, terms)


def advance(
    u_KBH: Tensor,
    w_KHH: Tensor,
    b_KH: Tensor | None,
    dt: float,
    activation: str,
    out: Tensor,
    diagonal: Tensor | None = None,
) -> Tensor | None:
    """Set out = u + Δt g(W u + b), and diagonal = diag(∂Φ/∂u) where it is given.

    Returns what `linearise` would give, where that costs nothing: the reference does, the fused kernel returns None.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> u, out = torch.ones(1, 1, 2), torch.empty(1, 1, 2)
    >>> saved = advance(u, torch.eye(2)[None], None, 0.5, "relu", out)
    >>> out.tolist()
    [[[1.5, 1.5]]]
    """
    check_step(u_KBH, w_KHH, b_KH, activation, out=out, diagonal=diagonal)
    return operators.advance(u_KBH, w_KHH, b_KH, dt, activation, out, diagonal)


def linearise(u_KBH: Tensor, w_KHH: Tensor, b_KH: Tensor | None, activation: str) -> Tensor:
    """What the adjoint needs to know of the step at `u`, [K, B, H]: g(W u + b), or its input for silu.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> linearise(torch.ones(1, 1, 2), 3 * torch.eye(2)[None], None, "relu").tolist()
    [[[3.0, 3.0]]]
    """
    check_step(u_KBH, w_KHH, b_KH, activation)
    return operators.linearise(u_KBH, w_KHH, b_KH, activation)


def vjp(lam_KBH: Tensor, saved_KBH: Tensor, w_KHH: Tensor, dt: float, activation: str, out: Tensor) -> None:
    """Set out = (∂Φ/∂u)ᵀ λ = λ + Δt Wᵀ(g′ ⊙ λ).

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> w, lam, out = 3 * torch.eye(2)[None], torch.ones(1, 1, 2), torch.empty(1, 1, 2)
    >>> vjp(lam, linearise(torch.ones(1, 1, 2), w, None, "relu"), w, 0.5, "relu", out)
    >>> out.tolist()
    [[[2.5, 2.5]]]
    """
    check_step(lam_KBH, w_KHH, None, activation, saved=saved_KBH, out=out)
    operators.vjp(lam_KBH, saved_KBH, w_KHH, dt, activation, out)


def diagonal(saved_KBH: Tensor, w_KHH: Tensor, dt: float, activation: str, out: Tensor) -> None:
    """Set out = diag(∂Φ/∂u) = 1 + Δt g′ ⊙ diag W, for every batch row.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> w, out = 3 * torch.eye(2)[None], torch.empty(1, 1, 2)
    >>> diagonal(linearise(torch.ones(1, 1, 2), w, None, "relu"), w, 0.5, "relu", out)
    >>> out.tolist()
    [[[2.5, 2.5]]]
    """
    check_step(saved_KBH, w_KHH, None, activation, out=out)
    operators.diagonal(saved_KBH, w_KHH, dt, activation, out)


def parameter_gradient(
    lam_KBH: Tensor, saved_KBH: Tensor, u_KBH: Tensor, dt: float, activation: str
) -> tuple[Tensor, Tensor]:
    """(∂Φ/∂W)ᵀ λ [K, H, H] and (∂Φ/∂b)ᵀ λ [K, H], summed over the batch.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> u, lam, w = torch.ones(1, 4, 2), torch.ones(1, 4, 2), torch.eye(2)[None]
    >>> dw, db = parameter_gradient(lam, linearise(u, w, None, "relu"), u, 0.5, "relu")
    >>> dw.tolist(), db.tolist()
    ([[[2.0, 2.0], [2.0, 2.0]]], [[2.0, 2.0]])
    """
    activation_named(activation)
    check_tensors(lam_KBH, saved=(saved_KBH, lam_KBH.shape), u=(u_KBH, lam_KBH.shape))
    return reference.parameter_gradient(lam_KBH, saved_KBH, u_KBH, dt, activation)


def dense_ode_step(u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str) -> Tensor:
    """u + Δt g(W_k u + b_k) of every layer k: [K, B, H]. Differentiable once in `u`, `w` and `b`.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an unknown activation.
        RuntimeError: where a second derivative is taken.

    >>> import torch
    >>> u, w = torch.ones(1, 2, 3), torch.zeros(1, 3, 3, requires_grad=True)
    >>> dense_ode_step(u, w, None, 0.5, "tanh").sum().backward()
    >>> w.grad.flatten().tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    check_step(u, w, b, activation)
    return operators.dense_ode_step(u, w, b, dt, activation)
