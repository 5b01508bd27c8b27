"""The dense ODE step as operators of torch: sweeps that mutate, and the step as a differentiable function.

Shapes as in the package. Geometry: a `Sweep` in integers (`kernels.packing`).
"""

import torch
from torch import Tensor
from torch.library import custom_op

from lpgpu.kernels.dense_step import reference
from lpgpu.kernels.dispatch import is_fused
from lpgpu.kernels.layout import refusal
from lpgpu.kernels.packing import sweep_of
from lpgpu.kernels.sweep import Terms


def run_sweep(
    u: Tensor,
    w: Tensor,
    b: Tensor | None,
    dt: float,
    activation: str,
    geometry: list[int],
    g: Tensor | None,
    delta: Tensor | None,
    anchors: Tensor | None,
    products: Tensor | None,
) -> None:
    """By the backend that these tensors take."""
    sweep, terms = sweep_of(geometry), Terms(g, delta, anchors, products)
    if is_fused("dense_step.sweep", u, refusal(u, w, g, delta, anchors)):
        from lpgpu.kernels.dense_step import fused

        fused.sweep(u, w, b, dt, activation, sweep, terms)
    else:
        reference.sweep(u, w, b, dt, activation, sweep, terms)


def run_adjoint_sweep(
    lam: Tensor,
    kept: Tensor,
    w: Tensor,
    dt: float,
    activation: str,
    geometry: list[int],
    g: Tensor | None,
    delta: Tensor | None,
    anchors: Tensor | None,
    products: Tensor | None,
) -> None:
    """By the backend that these tensors take."""
    sweep, terms = sweep_of(geometry), Terms(g, delta, anchors, products)
    if is_fused("dense_step.adjoint_sweep", lam, refusal(lam, kept, w, g, delta, anchors)):
        from lpgpu.kernels.dense_step import fused

        fused.sweep(lam, w, None, dt, activation, sweep, terms, kept_LBH=kept)
    else:
        reference.adjoint_sweep(lam, kept, w, dt, activation, sweep, terms)


dense_sweep = custom_op("lpgpu::dense_sweep", run_sweep, mutates_args=("u", "products"))
dense_adjoint_sweep = custom_op("lpgpu::dense_adjoint_sweep", run_adjoint_sweep, mutates_args=("lam", "products"))


@dense_sweep.register_fake
def _(u, w, b, dt, activation, geometry, g, delta, anchors, products) -> None: ...


@dense_adjoint_sweep.register_fake
def _(lam, kept, w, dt, activation, geometry, g, delta, anchors, products) -> None: ...


@custom_op("lpgpu::dense_ode_step", mutates_args=())
def dense_ode_step(u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str) -> Tensor:
    """u + Δt g(W_k u + b_k) of every layer k: [K, B, H]. Differentiable once in `u`, `w` and `b`.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an unknown activation.
    """
    from lpgpu.kernels import dense_step

    out = torch.empty_like(u)
    dense_step.advance(u, w, b, dt, activation, out)
    return out


@custom_op("lpgpu::dense_ode_step_backward", mutates_args=())
def _backward(
    lam: Tensor, u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    from lpgpu.kernels import dense_step

    kept, du = dense_step.kept(u, w, b, activation), torch.empty_like(u)
    dense_step.vjp(lam, kept, w, dt, activation, du)
    return du, *dense_step.parameter_gradient(lam, kept, u, dt, activation)


@dense_ode_step.register_fake
def _(u, w, b, dt, activation) -> Tensor:
    return torch.empty_like(u)


@_backward.register_fake
def _(lam, u, w, b, dt, activation) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(u), w.new_empty(w.shape), w.new_empty(w.shape[:2])


def _save(ctx, inputs, output) -> None:
    u, w, b, ctx.dt, ctx.activation = inputs
    ctx.save_for_backward(u, w, b)


def _differentiate(ctx, lam: Tensor):
    u, w, b = ctx.saved_tensors
    du, dw, db = _backward(lam, u, w, b, ctx.dt, ctx.activation)
    return du, dw, None if b is None else db, None, None


def _refuse_to_differentiate(ctx, *gradients: Tensor):
    raise RuntimeError(
        "dense_ode_step can be differentiated once only: write the step in plain PyTorch where a second derivative is "
        "wanted"
    )


dense_ode_step.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_refuse_to_differentiate)
