"""The functions of the convolutional ODE step, unchecked, and its differentiable form; see the package."""

import torch
from torch import Tensor
from torch.library import custom_op

from lpgpu.kernels.conv_step import reference
from lpgpu.kernels.conv_step.layers import Filter
from lpgpu.kernels.operation import Operation, once_differentiable

sweep = Operation(reference.sweep, mutates=("u",))
adjoint_sweep = Operation(reference.adjoint_sweep, mutates=("lam",))
advance = Operation(reference.advance)
linearise = Operation(reference.linearise)
vjp = Operation(reference.vjp)
picard = Operation(reference.picard)
adjoint_picard = Operation(reference.adjoint_picard)
picard_sweep = Operation(reference.picard_sweep, mutates=("u",))
adjoint_picard_sweep = Operation(reference.adjoint_picard_sweep, mutates=("lam",))
parameter_gradient = Operation(reference.parameter_gradient)


@custom_op("lpgpu::conv_ode_step", mutates_args=())
def conv_ode_step(
    u: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor | None, b2: Tensor | None, dt: float, activation: str
) -> Tensor:
    """Φ of every layer, [K, B, C, Y, X], from one or two convolutions' filters and biases; nothing is checked."""
    filters, out = _filters(w1, b1, w2, b2), torch.empty_like(u)
    advance(u, filters, dt, activation, out, False)
    return out


@custom_op("lpgpu::conv_ode_step_backward", mutates_args=())
def _backward(
    lam: Tensor, u: Tensor, w: list[Tensor], b1: Tensor | None, b2: Tensor | None, dt: float, activation: str
) -> list[Tensor]:
    filters = [Filter(w_i, b_i) for w_i, b_i in zip(w, (b1, b2), strict=False)]
    saved, du = linearise(u, filters, activation), torch.empty_like(u)
    vjp(lam, saved, filters, dt, activation, du)
    gradients = parameter_gradient(lam, saved, u, filters, dt, activation)
    return [du, *(d.contiguous() for pair in gradients for d in pair)]


@conv_ode_step.register_fake
def _(u, w1, b1, w2, b2, dt, activation) -> Tensor:
    return torch.empty_like(u)


@_backward.register_fake
def _(lam, u, w, b1, b2, dt, activation) -> list[Tensor]:
    return [torch.empty_like(u), *(d for w_i in w for d in (w_i.new_empty(w_i.shape), w_i.new_empty(w_i.shape[:2])))]


def _filters(w1: Tensor, b1: Tensor | None, w2: Tensor | None, b2: Tensor | None) -> list[Filter]:
    return [Filter(w, b) for w, b in ((w1, b1), (w2, b2)) if w is not None]


def _pull_back(lam: Tensor, u, w1, b1, w2, b2, dt: float, activation: str) -> list[Tensor]:
    return _backward(lam, u, [w for w in (w1, w2) if w is not None], b1, b2, dt, activation)


def _in_order(inputs: list, gradients: list[Tensor]) -> tuple[Tensor | None, ...]:
    _, _, b1, _, b2, *_ = inputs
    du, dw1, db1, *second = gradients
    dw2, db2 = second or (None, None)
    return du, dw1, None if b1 is None else db1, dw2, None if b2 is None else db2, None, None


once_differentiable(conv_ode_step, _backward, _in_order, pull_back=_pull_back)
