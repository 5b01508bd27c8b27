"""The GRU step as operators of torch: sweeps that mutate, and the step as a differentiable function.

Shapes as in the package. Geometry: a `Sweep` in integers (`kernels.packing`).
"""

import torch
from torch import Tensor
from torch.library import custom_op

from lpgpu.kernels.devices import arch_of
from lpgpu.kernels.dispatch import could_fuse, is_fused
from lpgpu.kernels.implicit_gru import capacity, reference
from lpgpu.kernels.implicit_gru.reference import Coefficients
from lpgpu.kernels.layout import refusal as refusal_of_states
from lpgpu.kernels.packing import sweep_of
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import Terms


def refusal(like: Tensor, *others: Tensor | None) -> str | None:
    """Why the fused kernels cannot take these tensors, or None: they want each row's units side by side."""
    if not could_fuse(like):
        return None
    for t in (like, *others):
        if t is not None and t.ndim > 1 and t.shape[-1] > 1 and t.stride(-1) != 1:
            return f"a tensor {tuple(t.shape)} has stride {t.stride(-1)} from unit to unit; expected 1"
    return refusal_of_states(like)


def run_sweep(
    h: Tensor,
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    dt: float,
    formulation: str,
    geometry: list[int],
    g: Tensor | None,
    delta: Tensor | None,
    anchors: Tensor | None,
    products: Tensor | None,
) -> None:
    """By the backend that these tensors take."""
    sweep, terms = sweep_of(geometry), Terms(g, delta, anchors, products)
    if is_fused("implicit_gru.sweep", h, refusal(h, x, w, g, delta, anchors, products)):
        from lpgpu.kernels.implicit_gru import fused

        fused.sweep(h, x, w, b, dt, formulation, sweep, terms)
    else:
        reference.sweep(h, x, w, b, dt, formulation, sweep, terms)


def run_adjoint_sweep(
    lam: Tensor,
    a: Tensor,
    c: Tensor,
    w: Tensor,
    geometry: list[int],
    g: Tensor | None,
    delta: Tensor | None,
    anchors: Tensor | None,
    products: Tensor | None,
) -> None:
    """By the backend that these tensors take. Of the coefficients a sweep needs `a` and `c` only."""
    sweep, terms, at = sweep_of(geometry), Terms(g, delta, anchors, products), Coefficients(a, c, a)
    if is_fused("implicit_gru.adjoint_sweep", lam, refusal(lam, a, c, w, g, delta, anchors, products)):
        from lpgpu.kernels.implicit_gru import fused

        fused.adjoint_sweep(lam, at, w, sweep, terms)
    else:
        reference.adjoint_sweep(lam, at, w, sweep, terms)


def run_adjoint_sweep_recomputed(
    lam: Tensor,
    h: Tensor,
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    dt: float,
    formulation: str,
    geometry: list[int],
    g: Tensor | None,
    delta: Tensor | None,
    anchors: Tensor | None,
    products: Tensor | None,
) -> None:
    """By the backend that these tensors take."""
    sweep, terms = sweep_of(geometry), Terms(g, delta, anchors, products)
    refused = refusal(lam, h, x, w, *terms.tensors()) or refusal_to_recompute(lam, terms)
    if is_fused("implicit_gru.adjoint_sweep_recomputed", lam, refused):
        from lpgpu.kernels.implicit_gru import fused

        fused.adjoint_sweep_recomputed(lam, h, x, w, b, dt, formulation, sweep, terms)
    else:
        reference.adjoint_sweep_recomputed(lam, h, x, w, b, dt, formulation, sweep, terms)


def refusal_to_recompute(lam: Tensor, terms: Terms) -> str | None:
    """Why no fused sweep can compute the gates again for these tensors, or None."""
    if not could_fuse(lam):
        return None
    chosen = capacity.tier(
        lam.shape[-1], lam.dtype, arch_of(lam.device), precision=dot_precision(lam.dtype), kind="recomputed",
        corrected=terms.delta is not None, right_hand_side=terms.g is not None,
    )  # fmt: skip
    if chosen.kind == "resident":
        return None
    return f"it holds W on chip for two products: {chosen.reason}; linearise, and sweep from the coefficients"


gru_sweep = custom_op("lpgpu::implicit_gru_sweep", run_sweep, mutates_args=("h", "products"))
gru_adjoint_sweep = custom_op("lpgpu::implicit_gru_adjoint_sweep", run_adjoint_sweep, mutates_args=("lam", "products"))
gru_adjoint_sweep_recomputed = custom_op(
    "lpgpu::implicit_gru_adjoint_sweep_recomputed", run_adjoint_sweep_recomputed, mutates_args=("lam", "products")
)


@gru_sweep.register_fake
def _(h, x, w, b, dt, formulation, geometry, g, delta, anchors, products) -> None: ...


@gru_adjoint_sweep.register_fake
def _(lam, a, c, w, geometry, g, delta, anchors, products) -> None: ...


@gru_adjoint_sweep_recomputed.register_fake
def _(lam, h, x, w, b, dt, formulation, geometry, g, delta, anchors, products) -> None: ...


@custom_op("lpgpu::gru_step", mutates_args=())
def gru_step(x: Tensor, h: Tensor, w: Tensor, b: Tensor | None, dt: float, formulation: str) -> Tensor:
    """h⁺ of every step: `x` [K, B, 3H], `h` [K, B, H] → [K, B, H]. Differentiable once in `x`, `h`, `w` and `b`.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an unknown formulation.
    """
    from lpgpu.kernels import implicit_gru

    out = h.new_empty(h.shape)
    implicit_gru.advance(h.contiguous(), x.contiguous(), w.contiguous(), b, dt, formulation, out)
    return out


@custom_op("lpgpu::gru_step_backward", mutates_args=())
def _backward(
    lam: Tensor, x: Tensor, h: Tensor, w: Tensor, b: Tensor | None, dt: float, formulation: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients by x, h, W and b: what enters W's two is one product over all steps."""
    from lpgpu.kernels import implicit_gru

    lam, x, h, w = (t.contiguous() for t in (lam, x, h, w))
    at = implicit_gru.linearise(h, x, w, b, dt, formulation)
    dh = torch.empty_like(h)
    implicit_gru.vjp(lam, at, w, dh)
    dx, dq = implicit_gru.gate_gradients(lam, at)
    dy = dx.clone()  # W h + b enters the gates r and z as x does, but n through q
    dy[..., 2 * h.shape[-1] :] = dq
    dy = dy.flatten(0, 1)
    return dx, dh, dy.T @ h.flatten(0, 1), dy.sum(0)


@gru_step.register_fake
def _(x, h, w, b, dt, formulation) -> Tensor:
    return h.new_empty(h.shape)


@_backward.register_fake
def _(lam, x, h, w, b, dt, formulation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), h.new_empty(h.shape), w.new_empty(w.shape), w.new_empty(w.shape[:1])


def _save(ctx, inputs, output) -> None:
    x, h, w, b, ctx.dt, ctx.formulation = inputs
    ctx.save_for_backward(x, h, w, b)


def _differentiate(ctx, lam: Tensor):
    x, h, w, b = ctx.saved_tensors
    dx, dh, dw, db = _backward(lam, x, h, w, b, ctx.dt, ctx.formulation)
    return dx, dh, dw, None if b is None else db, None, None


def _refuse_to_differentiate(ctx, *gradients: Tensor):
    raise RuntimeError(
        "gru_step can be differentiated once only, on every backend: write the step in plain PyTorch where a second "
        "derivative is wanted"
    )


gru_step.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_refuse_to_differentiate)
