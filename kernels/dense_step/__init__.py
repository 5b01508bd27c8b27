"""The dense ODE step, Φ_k(u) = u + Δt g(W_k u + b_k), on many layers at once.

Shapes: K layers, L layers and P = L + 1 points of a window, B batch rows, H width. `u_KBH`, `w_KHH`, `b_KH` (None: no
bias). Slices of larger tensors along the layers are taken as they are, without a copy. `empty_states` makes tensors in
the memory order this operation is fastest in. Written tensors must not overlap those that are read, nor require grad;
`dense_ode_step` is the differentiable one.

`sweep` and `adjoint_sweep` march in place through many steps of all intervals; the fused kernels do so in one launch
where the weights fit on chip (`tiles`), else in one a step. `picard` and `adjoint_picard` are Picard iterations over K
runs of S layers (`kernels.picard`) with `w_KSHH` and `b_KSH`, a launch each iteration; their sweeps are one launch in
all for order 1 and narrow layers, else one each step and iteration. All else is one launch for all layers. Tensors that
do not go together are a ValueError; `operators` has the same functions without a check.
"""

from torch import Tensor

from lpgpu.kernels.activations import activation_named
from lpgpu.kernels.checks import check_sweep, check_tensors
from lpgpu.kernels.dense_step import operators, reference
from lpgpu.kernels.dense_step.checks import check_march, check_runs, check_step
from lpgpu.kernels.dense_step.reference import empty_states
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

__all__ = [
    "adjoint_picard",
    "adjoint_picard_sweep",
    "adjoint_sweep",
    "advance",
    "dense_ode_step",
    "diagonal",
    "empty_states",
    "linearise",
    "parameter_gradient",
    "picard",
    "picard_sweep",
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


def picard(
    u_KBH: Tensor, w_KSHH: Tensor, b_KSH: Tensor | None, dt: float, activation: str, order: int, out: Tensor
) -> None:  # fmt: skip
    """Set out = v_S, what `order` Picard iterations over each run of S layers make of u.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an order below 1.

    >>> import torch
    >>> u, w, out = torch.ones(1, 1, 2), torch.eye(2).expand(1, 3, 2, 2), torch.empty(1, 1, 2)
    >>> picard(u, w, None, 1.0, "identity", 1, out)
    >>> out.tolist()
    [[[4.0, 4.0]]]
    """
    check_runs(u_KBH, w_KSHH, b_KSH, activation, order, out=out)
    operators.picard(u_KBH, w_KSHH, b_KSH, dt, activation, order, out)


def adjoint_picard(
    lam_KBH: Tensor, saved_KSBH: Tensor, w_KSHH: Tensor, dt: float, activation: str, order: int, out: Tensor
) -> None:  # fmt: skip
    """As `picard`, of the layers' transposed Jacobians from the last to the first; `saved` is what `linearise` gave.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an order below 1.

    >>> import torch
    >>> lam, w, out = torch.ones(1, 1, 2), torch.eye(2).expand(1, 3, 2, 2), torch.empty(1, 1, 2)
    >>> adjoint_picard(lam, torch.ones(1, 3, 1, 2), w, 1.0, "identity", 2, out)
    >>> out.tolist()
    [[[7.0, 7.0]]]
    """
    check_runs(lam_KBH, w_KSHH, None, activation, order, saved=saved_KSBH, out=out)
    operators.adjoint_picard(lam_KBH, saved_KSBH, w_KSHH, dt, activation, order, out)


def picard_sweep(
    u_PBH: Tensor, w_LSHH: Tensor, b_LSH: Tensor | None, dt: float, activation: str, order: int, sweep: Sweep,
    g_PBH: Tensor | None = None,
) -> None:  # fmt: skip
    """March the states of a window of L runs through them, in place: as `sweep`, each step a Picard step.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an order below 1.

    >>> import torch
    >>> u, w, march = torch.ones(3, 1, 2), torch.eye(2).expand(2, 3, 2, 2), Sweep(2, 0, 2, 2)
    >>> picard_sweep(u, w, None, 1.0, "identity", 1, march)
    >>> u[:, 0, 0].tolist()
    [1.0, 4.0, 16.0]
    """
    check_sweep(u_PBH, sweep, Terms(g_PBH))
    check_runs(u_PBH[1:], w_LSHH, b_LSH, activation, order)
    operators.picard_sweep(u_PBH, w_LSHH, b_LSH, dt, activation, order, sweep, g_PBH)


def adjoint_picard_sweep(
    lam_PBH: Tensor, saved_LSBH: Tensor, w_LSHH: Tensor, dt: float, activation: str, order: int, sweep: Sweep,
    g_PBH: Tensor | None = None,
) -> None:  # fmt: skip
    """March adjoint states: as `picard_sweep`, of the transposed Jacobians.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an order below 1.

    >>> import torch
    >>> lam, w, back = torch.ones(3, 1, 2), torch.eye(2).expand(2, 3, 2, 2), Sweep(2, 1, 2, 2, reverse=True)
    >>> adjoint_picard_sweep(lam, torch.ones(2, 3, 1, 2), w, 1.0, "identity", 1, back)
    >>> lam[:, 0, 0].tolist()
    [16.0, 4.0, 1.0]
    """
    check_sweep(lam_PBH, sweep, Terms(g_PBH))
    check_runs(lam_PBH[1:], w_LSHH, None, activation, order, saved=saved_LSBH)
    operators.adjoint_picard_sweep(lam_PBH, saved_LSBH, w_LSHH, dt, activation, order, sweep, g_PBH)


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
