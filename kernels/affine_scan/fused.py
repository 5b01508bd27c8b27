"""Launcher of the affine scan."""

import math

from torch import Tensor

from lpgpu.kernels.affine_scan import cuda_scan
from lpgpu.kernels.affine_scan.tiles import BLOCK, STAGES, WARPS
from lpgpu.kernels.affine_scan.triton_kernels import affine_scan_kernel
from lpgpu.kernels.dispatch import reasons
from lpgpu.kernels.launch import Launch, Operands, launch


def affine_scan(v: Tensor, phi: Tensor, anchors: Tensor, decay: Tensor | None, reverse: bool) -> None:
    """In one launch."""
    if cuda_scan.is_chosen(v, phi, decay):
        reasons["affine_scan.affine_scan"] = "fused: in CUDA C++"
        return cuda_scan.affine_scan(v, phi, anchors, decay, reverse)
    written = v if _without_gaps(v) else v.contiguous()
    arrays = (_ordered_like(phi, written), _ordered_like(anchors, written))
    launch(_plan, (written, *arrays, None if decay is None else _ordered_like(decay, written)), (reverse,))
    if written is not v:
        v.copy_(written)


def _plan(operands: Operands, reverse: bool) -> Launch:
    v, phi, *_ = operands
    size = math.prod(v.shape[2:])
    blocks = -(-size // BLOCK)
    strides = (stride for t in operands for stride in ((0, 0) if t is None else t.stride()[:2]))
    options = {"BLOCK": BLOCK, "REVERSE": reverse, "STAGES": STAGES, "num_warps": WARPS, "num_stages": STAGES}
    return Launch(affine_scan_kernel, (blocks * len(v),), (size, blocks, phi.shape[1], *strides), options)


def _without_gaps(t: Tensor) -> bool:
    """Whether the entries of a state lie side by side, in whatever order of its dimensions."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(t.shape[2:], t.stride()[2:], strict=True))
    return extent == math.prod(t.shape[2:])


def _ordered_like(t: Tensor, like: Tensor) -> Tensor:
    """`t`, or a copy of it with the entries of a state in the order of `like`'s."""
    inner = zip(t.shape[2:], t.stride()[2:], like.stride()[2:], strict=True)
    if all(stride == of_like for size, stride, of_like in inner if size > 1):
        return t
    size = math.prod(t.shape[2:])
    return t.new_empty_strided(t.shape, (t.shape[1] * size, size, *like.stride()[2:])).copy_(t)
