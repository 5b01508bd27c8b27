"""Launchers of the FAS kernels, and how they are shipped."""

import math

import torch
from torch import Tensor

from lpgpu.kernels.configuration import Configuration
from lpgpu.kernels.dispatch import launch
from lpgpu.kernels.fas.triton_kernels import fas_residual_kernel, fas_right_hand_side_kernel, fas_sum_kernel
from lpgpu.kernels.layout import layer_extent, ordered_like, written_like
from lpgpu.kernels.specialisation import TRITON_NAMES, specialised

_BLOCK = 1024
_PROGRAMS = 1024  # enough to fill a GPU; their sums are gathered by one more
_WARPS = 4


def residual_norm(phi: Tensor, u: Tensor, coarse_phi: Tensor | None = None) -> Tensor:
    """‖φ − u‖² in two launches; where `coarse_phi` is given it becomes φ − coarse_phi in the same pass."""
    out = phi.new_empty((), dtype=torch.float64)
    if not phi.numel():
        return out.zero_()
    like = _dense(phi)
    phi, u = ordered_like(phi, like), ordered_like(u, like)
    size = math.prod(phi.shape[1:])
    per_layer = -(-size // _BLOCK)
    programs = min(per_layer * len(phi), _PROGRAMS)
    partial_sums = phi.new_empty(programs, dtype=torch.float64)
    with written_like(coarse_phi, like, reads=True) as written:
        tensors, layers = (phi, u, written), 0 if written is None else len(written)
        launch(
            fas_residual_kernel, (programs,), *tensors, partial_sums, size, per_layer, per_layer * len(phi), layers,
            *map(_layer_stride, tensors), BLOCK=_BLOCK, num_warps=_WARPS,
        )  # fmt: skip
    launch(fas_sum_kernel, (1,), partial_sums, out, programs, BLOCK=_PROGRAMS, num_warps=_WARPS)
    return out


def coarse_right_hand_side_(coarse_phi: Tensor, phi: Tensor) -> Tensor:
    """coarse_phi becomes φ − coarse_phi, in one launch."""
    if not phi.numel():
        return coarse_phi
    like = _dense(coarse_phi)
    size = math.prod(phi.shape[1:])
    per_layer = -(-size // _BLOCK)
    with written_like(coarse_phi, like, reads=True) as written:
        tensors = (written, ordered_like(phi, like))
        launch(
            fas_right_hand_side_kernel, (per_layer * len(phi),), *tensors, size, per_layer,
            *map(_layer_stride, tensors), BLOCK=_BLOCK, num_warps=_WARPS,
        )  # fmt: skip
    return coarse_phi


def configurations() -> list[Configuration]:
    """Every kernel in the dtypes that matter."""
    shipped = [
        specialised(
            fas_sum_kernel, "fp64", {"partial_sums": torch.float64, "out": torch.float64}, {"BLOCK": _PROGRAMS},
            num_warps=_WARPS, uses_dots=False,
        )
    ]  # fmt: skip
    for dtype in (torch.bfloat16, torch.float32):
        strides = {"size": 16 * _BLOCK, "phi_layer": _BLOCK, "u_layer": _BLOCK, "coarse_layer": _BLOCK, "BLOCK": _BLOCK}
        states = {"phi": dtype, "u": dtype, "partial_sums": torch.float64}
        pair = {"coarse_phi": dtype, "phi": dtype}
        for kernel, name, tensors in (
            (fas_residual_kernel, "norm", {**states, "coarse_phi": None}),
            (fas_residual_kernel, "norm and right-hand side", {**states, "coarse_phi": dtype}),
            (fas_right_hand_side_kernel, "right-hand side", pair),
        ):
            constants = {key: value for key, value in strides.items() if key in kernel.arg_names}
            full_name = f"{name} {TRITON_NAMES[dtype]}"
            shipped.append(specialised(kernel, full_name, tensors, constants, num_warps=_WARPS, uses_dots=False))
    return shipped


def _dense(t: Tensor) -> Tensor:
    """A tensor in whose order a layer has no gaps: that of `t` where it has none."""
    return t if layer_extent(t) == math.prod(t.shape[1:]) else t.new_empty(t.shape)


def _layer_stride(t: Tensor | None) -> int:
    return 0 if t is None else t.stride(0)
