"""The functions of the GRU step, unchecked, and its differentiable form; see the package."""

import torch
from torch import Tensor
from torch.library import custom_op

from lpgpu.kernels.devices import arch_of
from lpgpu.kernels.dispatch import could_fuse
from lpgpu.kernels.implicit_gru import reference, tiles
from lpgpu.kernels.implicit_gru.reference import Cell
from lpgpu.kernels.layout import why_unsupported as why_unsupported_layout
from lpgpu.kernels.operation import Operation, once_differentiable
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import NO_TERMS, Terms


def why_unsupported(like: Tensor, *others: Tensor | None) -> str | None:
    """Why the fused kernels cannot take these tensors, or None: they want each row's units side by side."""
    for t in (like, *others):
        if t is not None and t.ndim > 1 and t.shape[-1] > 1 and t.stride(-1) != 1:
            return f"a tensor {tuple(t.shape)} has stride {t.stride(-1)} from unit to unit; expected 1"
    return why_unsupported_layout(like)


def why_not_recomputed(lam: Tensor, terms: Terms = NO_TERMS) -> str | None:
    """Why no fused sweep can compute the gates again for states like `lam` and with these terms, or None."""
    if not could_fuse(lam):
        return None
    tile = tiles.tile(
        lam.shape[-1], lam.dtype, arch_of(lam.device), precision=dot_precision(lam.dtype), kind="recomputed",
        arrays=terms.arrays,
    )  # fmt: skip
    if tile.kind == "resident":
        return None
    return f"it holds W on chip for two products: {tile.reason}; linearise, and sweep from the coefficients"


def _why_unsupported_recomputed(lam: Tensor, *others: Tensor | None) -> str | None:
    terms = Terms(*others[-4:])
    return why_unsupported(lam, *others) or why_not_recomputed(lam, terms)


sweep = Operation(reference.sweep, mutates=("h", "products"), unsupported=why_unsupported)
adjoint_sweep = Operation(reference.adjoint_sweep, mutates=("lam", "products"), unsupported=why_unsupported)
adjoint_sweep_recomputed = Operation(
    reference.adjoint_sweep_recomputed, mutates=("lam", "products"), unsupported=_why_unsupported_recomputed
)
advance = Operation(reference.advance, unsupported=why_unsupported)
linearise = Operation(reference.linearise, unsupported=why_unsupported)
vjp = Operation(reference.vjp, unsupported=why_unsupported)
diagonal = Operation(reference.diagonal, unsupported=why_unsupported)
at_zero = Operation(reference.at_zero, unsupported=why_unsupported)
picard = Operation(reference.picard, unsupported=why_unsupported)
adjoint_picard = Operation(reference.adjoint_picard, unsupported=why_unsupported)
picard_sweep = Operation(reference.picard_sweep, mutates=("h",), unsupported=why_unsupported)
adjoint_picard_sweep = Operation(reference.adjoint_picard_sweep, mutates=("lam",), unsupported=why_unsupported)
gate_gradients = Operation(reference.gate_gradients, unsupported=why_unsupported)


@custom_op("lpgpu::gru_step", mutates_args=())
def gru_step(x: Tensor, h: Tensor, w: Tensor, b: Tensor | None, dt: float, formulation: str) -> Tensor:
    """h⁺ of every step, [K, B, H]; nothing is checked."""
    cell = Cell(w.contiguous(), b, dt, formulation)
    out = h.new_empty(h.shape)
    advance(h.contiguous(), x.contiguous(), cell, out, None, None)
    return out


@custom_op("lpgpu::gru_step_backward", mutates_args=())
def _backward(
    lam: Tensor, x: Tensor, h: Tensor, w: Tensor, b: Tensor | None, dt: float, formulation: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients by x, h, W and b: what enters W's two is one product over all steps."""
    lam, x, h, w = (t.contiguous() for t in (lam, x, h, w))
    at = linearise(h, x, Cell(w, b, dt, formulation))
    dh = torch.empty_like(h)
    vjp(lam, at, w, dh)
    dx, dq = gate_gradients(lam, at)
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


def _in_order(inputs: list, gradients: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    dx, dh, dw, db = gradients
    return dx, dh, dw, None if inputs[3] is None else db, None, None


once_differentiable(gru_step, _backward, _in_order)
