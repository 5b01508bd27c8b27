"""Launchers of the FAS kernels."""

import math

import torch
from torch import Tensor

from lpgpu.kernels.fas.tiles import BLOCK, PROGRAMS, WARPS
from lpgpu.kernels.fas.triton_kernels import fas_residual_kernel, fas_right_hand_side_kernel, fas_sum_kernel
from lpgpu.kernels.launch import Launch, Operands, launch
from lpgpu.kernels.layout import layer_extent, ordered_like, writable_like, write_back


def residual_norm(phi: Tensor, u: Tensor) -> Tensor:
    """In two launches: sums of blocks, then their sum."""
    return _norm(phi, u, None, 0)


def restrict_(phi: Tensor, u: Tensor, coarse_phi: Tensor, first: int) -> Tensor:
    """In two launches, as the norm alone."""
    return _norm(phi, u, coarse_phi, first)


def coarse_right_hand_side_(coarse_phi: Tensor, phi: Tensor) -> None:
    """In one launch."""
    like = _without_gaps(coarse_phi)
    written = writable_like(coarse_phi, like, reads=True)
    launch(_right_hand_side, (written, ordered_like(phi, like)))
    write_back(coarse_phi, written)


def _norm(phi: Tensor, u: Tensor, coarse_phi: Tensor | None, first: int) -> Tensor:
    out = phi.new_empty((), dtype=torch.float64)
    if not phi.numel():
        return out.zero_()
    like = _without_gaps(phi)
    phi, u = ordered_like(phi, like), ordered_like(u, like)
    partial_sums = phi.new_empty(_programs(phi), dtype=torch.float64)
    written = writable_like(coarse_phi, like, reads=True)
    launch(_residual, (phi, u, written, partial_sums), (first,))
    write_back(coarse_phi, written)
    launch(_sum, (partial_sums, out))
    return out


def _residual(operands: Operands, first: int) -> Launch:
    phi, u, coarse_phi, _ = operands
    layers = 0 if coarse_phi is None else len(coarse_phi)
    blocks = _blocks_of_layer(phi)
    numbers = (math.prod(phi.shape[1:]), blocks, blocks * len(phi), len(u), first, first + layers)
    strides = map(_layer_stride, (phi, u, coarse_phi))
    options = {"BLOCK": BLOCK, "num_warps": WARPS}
    return Launch(fas_residual_kernel, (_programs(phi),), (*numbers, *strides), options)


def _sum(operands: Operands) -> Launch:
    return Launch(fas_sum_kernel, (1,), (len(operands[0]),), {"BLOCK": PROGRAMS, "num_warps": WARPS})


def _right_hand_side(operands: Operands) -> Launch:
    coarse_phi, phi = operands
    blocks = _blocks_of_layer(phi)
    numbers = (math.prod(phi.shape[1:]), blocks, coarse_phi.stride(0), phi.stride(0))
    options = {"BLOCK": BLOCK, "num_warps": WARPS}
    return Launch(fas_right_hand_side_kernel, (blocks * len(phi),), numbers, options)


def _blocks_of_layer(t: Tensor) -> int:
    return -(-math.prod(t.shape[1:]) // BLOCK)


def _programs(phi: Tensor) -> int:
    return min(_blocks_of_layer(phi) * len(phi), PROGRAMS)


def _without_gaps(t: Tensor) -> Tensor:
    """A tensor in whose order a layer has no gaps: that of `t` where it has none."""
    if t.is_contiguous() or layer_extent(t) == math.prod(t.shape[1:]):
        return t
    return t.new_empty(t.shape)


def _layer_stride(t: Tensor | None) -> int:
    return 0 if t is None else t.stride(0)
