"""The convolutional ODE step as operators of torch: sweeps that mutate, and the step as a differentiable function.

Shapes as in the package. Geometry: a `Sweep` in integers (`kernels.packing`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import custom_op

from lpgpu.kernels.conv_step import reference
from lpgpu.kernels.conv_step.layers import Kept, Kernel
from lpgpu.kernels.dispatch import is_fused
from lpgpu.kernels.layout import refusal
from lpgpu.kernels.packing import sweep_of
from lpgpu.kernels.sweep import Sweep, Terms


def split(kernels: list[Kernel]) -> tuple[list[Tensor], list[Tensor | None]]:
    """Weights and biases apart."""
    return [kernel.w for kernel in kernels], [kernel.b for kernel in kernels]


def run_sweep(
    u: Tensor,
    w: Sequence[Tensor],
    b: Sequence[Tensor | None],
    dt: float,
    activation: str,
    geometry: Sequence[int],
    g: Tensor | None,
    delta: Tensor | None,
    anchors: Tensor | None,
) -> None:
    """By the backend that these tensors take."""
    sweep, kernels, terms = sweep_of(geometry), list(map(Kernel, w, b)), Terms(g, delta, anchors)
    if is_fused("conv_step.sweep", u, refusal(u, g, delta, anchors, *w)):
        from lpgpu.kernels.conv_step import fused

        fused.sweep(u, kernels, dt, activation, sweep, terms)
    else:
        reference.sweep(u, kernels, dt, activation, sweep, terms)


def run_adjoint_sweep(
    lam: Tensor, kept: Kept, kernels: list[Kernel], dt: float, activation: str, sweep: Sweep, terms: Terms
) -> None:
    """By the backend that these tensors take."""
    if is_fused("conv_step.adjoint_sweep", lam, refusal(lam, *terms.tensors(), *split(kernels)[0])):
        from lpgpu.kernels.conv_step import fused

        fused.adjoint_sweep(lam, kept.stacked(), kernels, dt, activation, sweep, terms)
    else:
        reference.adjoint_sweep(lam, kept, kernels, dt, activation, sweep, terms)


conv_sweep = custom_op("lpgpu::conv_sweep", run_sweep, mutates_args=("u",))


@conv_sweep.register_fake
def _(u, w, b, dt, activation, geometry, g, delta, anchors) -> None: ...


@custom_op("lpgpu::conv_adjoint_sweep", mutates_args=("lam",))
def conv_adjoint_sweep(
    lam: Tensor,
    kept: Sequence[Tensor],
    w: Sequence[Tensor],
    b: Sequence[Tensor | None],
    dt: float,
    activation: str,
    geometry: Sequence[int],
    g: Tensor | None,
    delta: Tensor | None,
    anchors: Tensor | None,
) -> None:
    """`run_adjoint_sweep`, of tensors and numbers."""
    terms = Terms(g, delta, anchors)
    run_adjoint_sweep(lam, Kept(kept), list(map(Kernel, w, b)), dt, activation, sweep_of(geometry), terms)


@conv_adjoint_sweep.register_fake
def _(lam, kept, w, b, dt, activation, geometry, g, delta, anchors) -> None: ...


def conv_ode_step(u: Tensor, kernels: list[Kernel], dt: float, activation: str) -> Tensor:
    """The step of every layer: [K, B, C, Y, X], of one or two convolutions. Differentiable once in states and kernels.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, an unknown activation, or more than
            two convolutions.
    """
    if not 1 <= len(kernels) <= 2:
        raise ValueError(f"{len(kernels)} convolutions; expected one or two")
    one, two = kernels[0], kernels[1] if len(kernels) > 1 else Kernel(None, None)  # pyright: ignore[reportArgumentType]
    return _conv_ode_step(u, *one, *two, dt, activation)


@custom_op("lpgpu::conv_ode_step", mutates_args=())
def _conv_ode_step(
    u: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor | None, b2: Tensor | None, dt: float, activation: str
) -> Tensor:
    from lpgpu.kernels import conv_step

    out = torch.empty_like(u)
    conv_step.advance(u, _kernels(w1, b1, w2, b2), dt, activation, out)
    return out


@custom_op("lpgpu::conv_ode_step_backward", mutates_args=())
def _backward(
    lam: Tensor,
    u: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    dt: float,
    activation: str,
) -> list[Tensor]:
    from lpgpu.kernels import conv_step

    kernels = _kernels(w1, b1, w2, b2)
    kept, du = conv_step.kept(u, kernels, activation), torch.empty_like(u)
    conv_step.vjp(lam, kept, kernels, dt, activation, du)
    gradients = conv_step.parameter_gradient(lam, kept, u, kernels, dt, activation)
    return [du, *(d.contiguous() for pair in gradients for d in pair)]


@_conv_ode_step.register_fake
def _(u, w1, b1, w2, b2, dt, activation) -> Tensor:
    return torch.empty_like(u)


@_backward.register_fake
def _(lam, u, w1, b1, w2, b2, dt, activation) -> list[Tensor]:
    like = [w for w in (w1, w2) if w is not None]
    return [torch.empty_like(u), *(d for w in like for d in (w.new_empty(w.shape), w.new_empty(w.shape[:2])))]


def _kernels(w1: Tensor, b1: Tensor | None, w2: Tensor | None, b2: Tensor | None) -> list[Kernel]:
    return [Kernel(w, b) for w, b in ((w1, b1), (w2, b2)) if w is not None]


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.dt, ctx.activation = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, lam: Tensor):
    u, w1, b1, w2, b2 = ctx.saved_tensors
    du, dw1, db1, *second = _backward(lam, u, w1, b1, w2, b2, ctx.dt, ctx.activation)
    dw2, db2 = second or (None, None)
    return du, dw1, None if b1 is None else db1, dw2, None if b2 is None else db2, None, None


def _refuse_to_differentiate(ctx, *gradients: Tensor):
    raise RuntimeError(
        "conv_ode_step can be differentiated once only: write the step in plain PyTorch where a second derivative is "
        "wanted"
    )


_conv_ode_step.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_refuse_to_differentiate)
