"""The convolutional ODE step on many layers at once: one or two 3×3 convolutions, zero padded.

One: Φ_k(u) = u + Δt g(K_k ∗ u + b_k). Two: Φ_k(u) = u + Δt g(K²_k ∗ g(K¹_k ∗ u + b¹_k) + b²_k).
Shapes: K layers, L layers and P = L + 1 points of a window, B images, C channels, Y×X pixels. `u_KBCYX`; the `Filter`
of a convolution has `w_KCC33` and `b_KC` (or None). Slices of larger tensors along the layers are taken as they are,
without a copy, in any memory order; `empty_states` and `packed` give the one that is fastest. Written tensors must not
overlap those that are read, nor require grad; `conv_ode_step` is the differentiable one.

The fused kernels take one launch per convolution: for all layers in `advance`, `linearise` and `vjp`, for one step of
all intervals in `sweep` and `adjoint_sweep`, for one iteration of all runs in `picard` and `adjoint_picard`: Picard
iterations over K runs of S layers (`kernels.picard`), with w [K, S, C, C, 3, 3]. `operators` has the same functions
without a check.
"""

from torch import Tensor

from lpgpu.kernels.checks import check_sweep
from lpgpu.kernels.conv_step import operators
from lpgpu.kernels.conv_step.checks import check_march, check_runs, check_saved, check_step
from lpgpu.kernels.conv_step.layers import Filter, Saved, packed
from lpgpu.kernels.conv_step.reference import empty_states
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

__all__ = [
    "Filter",
    "Saved",
    "adjoint_picard",
    "adjoint_picard_sweep",
    "adjoint_sweep",
    "advance",
    "conv_ode_step",
    "empty_states",
    "linearise",
    "packed",
    "parameter_gradient",
    "picard",
    "picard_sweep",
    "sweep",
    "vjp",
]


def sweep(
    u_PBCYX: Tensor, filters: list[Filter], dt: float, activation: str, sweep: Sweep, terms: Terms = NO_TERMS
) -> None:
    """March the states of a window through its layers, in place; see `kernels.sweep`.

    u_target = Φ_k(u_source) + δ_k ⊙ (u_source − anchor_k) + g_target, with δ, anchors and g from `terms`.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> identity = torch.zeros(2, 1, 1, 3, 3)
    >>> identity[..., 1, 1] = 1
    >>> u = torch.ones(3, 1, 1, 2, 2)
    >>> sweep(u, [Filter(identity, None)], 1.0, "relu", Sweep(num_layers=2, first=0, interval=2, steps=2))
    >>> u[:, 0, 0, 0, 0].tolist()
    [1.0, 2.0, 4.0]
    """
    check_march(u_PBCYX, filters, activation, sweep, terms)
    operators.sweep(u_PBCYX, filters, dt, activation, sweep, terms)


def adjoint_sweep(
    lam_PBCYX: Tensor,
    saved: Saved,
    filters: list[Filter],
    dt: float,
    activation: str,
    sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """March adjoint states: as `sweep`, with λ_target = (∂Φ_k/∂u)ᵀ λ_source; `saved` is of the window's layers.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> identity = torch.zeros(2, 1, 1, 3, 3)
    >>> identity[..., 1, 1] = 1
    >>> lam, filters = torch.ones(3, 1, 1, 2, 2), [Filter(identity, None)]
    >>> saved, back = linearise(torch.ones(2, 1, 1, 2, 2), filters, "relu"), Sweep(2, 1, 2, 2, reverse=True)
    >>> adjoint_sweep(lam, saved, filters, 1.0, "relu", back)
    >>> lam[:, 0, 0, 0, 0].tolist()
    [4.0, 2.0, 1.0]
    """
    check_march(lam_PBCYX, filters, activation, sweep, terms)
    check_saved(saved, filters)
    operators.adjoint_sweep(lam_PBCYX, saved, filters, dt, activation, sweep, terms)


def advance(
    u_KBCYX: Tensor, filters: list[Filter], dt: float, activation: str, out: Tensor, *, save: bool = False
) -> Saved:
    """Set out = u + Δt g(K ∗ … + b).

    Returns what `linearise` would give, where it is to be saved and costs nothing; else it is empty.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> u, out = torch.ones(1, 1, 1, 2, 2), torch.empty(1, 1, 1, 2, 2)
    >>> saved = advance(u, [Filter(torch.ones(1, 1, 1, 3, 3), None)], 0.5, "relu", out)
    >>> out[0, 0, 0].tolist()
    [[3.0, 3.0], [3.0, 3.0]]
    """
    check_step(u_KBCYX, filters, activation, out=out)
    return operators.advance(u_KBCYX, filters, dt, activation, out, save)


def linearise(u_KBCYX: Tensor, filters: list[Filter], activation: str) -> Saved:
    """What the adjoint needs to know of the step at `u`: of each convolution g(K ∗ … + b), or its input for silu.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> saved = linearise(torch.ones(1, 1, 1, 2, 2), [Filter(torch.ones(1, 1, 1, 3, 3), None)], "relu")
    >>> saved.stacked()[0][0, 0, 0].tolist()
    [[4.0, 4.0], [4.0, 4.0]]
    """
    check_step(u_KBCYX, filters, activation)
    return operators.linearise(u_KBCYX, filters, activation)


def vjp(lam_KBCYX: Tensor, saved: Saved, filters: list[Filter], dt: float, activation: str, out: Tensor) -> None:
    """Set out = (∂Φ/∂u)ᵀ λ = λ + Δt K¹ᵀ(g′ ⊙ K²ᵀ(g′ ⊙ λ)).

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> filters, lam, out = [Filter(torch.ones(1, 1, 1, 3, 3), None)], *torch.ones(2, 1, 1, 1, 2, 2)
    >>> vjp(lam, linearise(torch.ones(1, 1, 1, 2, 2), filters, "relu"), filters, 0.5, "relu", out)
    >>> out[0, 0, 0].tolist()
    [[3.0, 3.0], [3.0, 3.0]]
    """
    check_step(lam_KBCYX, filters, activation, out=out)
    check_saved(saved, filters)
    operators.vjp(lam_KBCYX, saved, filters, dt, activation, out)


def picard(
    u_KBCYX: Tensor, filters: list[Filter], dt: float, activation: str, order: int, out: Tensor
) -> None:  # fmt: skip
    """Set out = v_S, what `order` Picard iterations over each run of S layers make of u.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an order below 1.

    >>> import torch
    >>> u, out = torch.ones(1, 1, 1, 2, 2), torch.empty(1, 1, 1, 2, 2)
    >>> picard(u, [Filter(torch.ones(1, 3, 1, 1, 3, 3), None)], 0.5, "relu", 1, out)
    >>> out[0, 0, 0].tolist()
    [[7.0, 7.0], [7.0, 7.0]]
    """
    check_runs(u_KBCYX, filters, activation, order, out=out)
    operators.picard(u_KBCYX, filters, dt, activation, order, out)


def adjoint_picard(
    lam_KBCYX: Tensor, saved: Saved, filters: list[Filter], dt: float, activation: str, order: int, out: Tensor
) -> None:  # fmt: skip
    """As `picard`, of the layers' transposed Jacobians from the last to the first; `saved` is [K, S, ...] of each.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an order below 1.

    >>> import torch
    >>> saved, filters = Saved([torch.ones(1, 3, 1, 1, 2, 2)]), [Filter(torch.ones(1, 3, 1, 1, 3, 3), None)]
    >>> lam, out = torch.ones(1, 1, 1, 2, 2), torch.empty(1, 1, 1, 2, 2)
    >>> adjoint_picard(lam, saved, filters, 0.5, "relu", 1, out)
    >>> out[0, 0, 0].tolist()
    [[7.0, 7.0], [7.0, 7.0]]
    """
    check_runs(lam_KBCYX, filters, activation, order, saved, out)
    operators.adjoint_picard(lam_KBCYX, saved, filters, dt, activation, order, out)


def picard_sweep(
    u_PBCYX: Tensor, filters: list[Filter], dt: float, activation: str, order: int, sweep: Sweep,
    g_PBCYX: Tensor | None = None,
) -> None:  # fmt: skip
    """March the states of a window of L runs through them, in place: as `sweep`, each step a Picard step.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an order below 1.

    >>> import torch
    >>> u, filters = torch.ones(3, 1, 1, 2, 2), [Filter(torch.ones(2, 3, 1, 1, 3, 3), None)]
    >>> picard_sweep(u, filters, 0.5, "relu", 1, Sweep(num_layers=2, first=0, interval=2, steps=2))
    >>> u[:, 0, 0, 0, 0].tolist()
    [1.0, 7.0, 49.0]
    """
    check_sweep(u_PBCYX, sweep, Terms(g_PBCYX))
    check_runs(u_PBCYX[1:], filters, activation, order)
    operators.picard_sweep(u_PBCYX, filters, dt, activation, order, sweep, g_PBCYX)


def adjoint_picard_sweep(
    lam_PBCYX: Tensor, saved: Saved, filters: list[Filter], dt: float, activation: str, order: int, sweep: Sweep,
    g_PBCYX: Tensor | None = None,
) -> None:  # fmt: skip
    """March adjoint states: as `picard_sweep`, of the transposed Jacobians.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an order below 1.

    >>> import torch
    >>> saved, filters = Saved([torch.ones(2, 3, 1, 1, 2, 2)]), [Filter(torch.ones(2, 3, 1, 1, 3, 3), None)]
    >>> lam, back = torch.ones(3, 1, 1, 2, 2), Sweep(2, 1, 2, 2, reverse=True)
    >>> adjoint_picard_sweep(lam, saved, filters, 0.5, "relu", 1, back)
    >>> lam[:, 0, 0, 0, 0].tolist()
    [49.0, 7.0, 1.0]
    """
    check_sweep(lam_PBCYX, sweep, Terms(g_PBCYX))
    check_runs(lam_PBCYX[1:], filters, activation, order, saved)
    operators.adjoint_picard_sweep(lam_PBCYX, saved, filters, dt, activation, order, sweep, g_PBCYX)


def parameter_gradient(
    lam_KBCYX: Tensor, saved: Saved, u_KBCYX: Tensor, filters: list[Filter], dt: float, activation: str
) -> list[tuple[Tensor, Tensor]]:
    """The gradients of every convolution's weights [K, C, C, 3, 3] and biases [K, C], summed over the batch.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> filters, lam, u = [Filter(torch.ones(1, 1, 1, 3, 3), None)], *torch.ones(2, 1, 1, 1, 2, 2)
    >>> [(dw, db)] = parameter_gradient(lam, linearise(u, filters, "relu"), u, filters, 0.5, "relu")
    >>> db.tolist(), dw[0, 0, 0].tolist()
    ([[2.0]], [[0.5, 1.0, 0.5], [1.0, 2.0, 1.0], [0.5, 1.0, 0.5]])
    """
    check_step(u_KBCYX, filters, activation, lam=lam_KBCYX)
    check_saved(saved, filters)
    return operators.parameter_gradient(lam_KBCYX, saved, u_KBCYX, filters, dt, activation)


def conv_ode_step(u: Tensor, filters: list[Filter], dt: float, activation: str) -> Tensor:
    """The step of every layer: [K, B, C, Y, X], of one or two convolutions. Differentiable once in states and filters.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, an unknown activation, or more than
            two convolutions.
        RuntimeError: where a second derivative is taken.

    >>> import torch
    >>> u, w = torch.ones(1, 1, 1, 3, 3), torch.zeros(1, 1, 1, 3, 3, requires_grad=True)
    >>> conv_ode_step(u, [Filter(w, None)], 0.5, "tanh").sum().backward()
    >>> w.grad[0, 0, 0].tolist()
    [[2.0, 3.0, 2.0], [3.0, 4.5, 3.0], [2.0, 3.0, 2.0]]
    """
    if not 1 <= len(filters) <= 2:
        raise ValueError(f"{len(filters)} convolutions; expected one or two")
    check_step(u, filters, activation)
    one, two = filters[0], filters[1] if len(filters) > 1 else Filter(None, None)  # pyright: ignore[reportArgumentType]
    return operators.conv_ode_step(u, *one, *two, dt, activation)
