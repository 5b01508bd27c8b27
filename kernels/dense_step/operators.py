"""The functions of the dense ODE step, unchecked, and its differentiable form; see the package."""

import torch
from torch import Tensor
from torch.library import custom_op

from lpgpu.kernels.dense_step import reference
from lpgpu.kernels.operation import Operation, once_differentiable

sweep = Operation(reference.sweep, mutates=("u", "products"))
adjoint_sweep = Operation(reference.adjoint_sweep, mutates=("lam", "products"))
advance = Operation(reference.advance)
linearise = Operation(reference.linearise)
vjp = Operation(reference.vjp)
diagonal = Operation(reference.diagonal)
picard = Operation(reference.picard)
adjoint_picard = Operation(reference.adjoint_picard)
picard_sweep = Operation(reference.picard_sweep, mutates=("u",))
adjoint_picard_sweep = Operation(reference.adjoint_picard_sweep, mutates=("lam",))


@custom_op("lpgpu::dense_ode_step", mutates_args=())
def dense_ode_step(u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str) -> Tensor:
    """Φ of every layer, [K, B, H]; nothing is checked."""
    out = torch.empty_like(u)
    advance(u, w, b, dt, activation, out, None)
    return out


@custom_op("lpgpu::dense_ode_step_backward", mutates_args=())
def _backward(
    lam: Tensor, u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    saved, du = linearise(u, w, b, activation), torch.empty_like(u)
    vjp(lam, saved, w, dt, activation, du)
    return du, *reference.parameter_gradient(lam, saved, u, dt, activation)


@dense_ode_step.register_fake
def _(u, w, b, dt, activation) -> Tensor:
    return torch.empty_like(u)


@_backward.register_fake
def _(lam, u, w, b, dt, activation) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(u), w.new_empty(w.shape), w.new_empty(w.shape[:2])


def _in_order(inputs: list, gradients: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    du, dw, db = gradients
    return du, dw, None if inputs[2] is None else db, None, None


once_differentiable(dense_ode_step, _backward, _in_order)
