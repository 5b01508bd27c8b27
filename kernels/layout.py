"""Memory orders: kernels address the tensors of one call by common inner strides and a layer stride each.

Tensors are [layers, ...]. Those that come in another order than the rest are copied into it, and back if written.
"""

import math

import torch
from torch import Tensor

from lpgpu.kernels import devices
from lpgpu.kernels.dispatch import interpreted

_INDEX_LIMIT = 2**31
_INTERPRETED = interpreted()


def is_ordered_like(t: Tensor, like: Tensor) -> bool:
    """Whether one layer of `t` lies in memory as one of `like` does."""
    strides, of_like = t.stride()[1:], like.stride()[1:]
    if strides == of_like:
        return True
    inner = zip(t.shape[1:], strides, of_like, strict=True)
    return all(one == other for size, one, other in inner if size > 1)


def empty_ordered_like(layers: int, like: Tensor) -> Tensor:
    """Uninitialised [layers, ...], each layer in the memory order of `like`'s."""
    return like.new_empty_strided((layers, *like.shape[1:]), (layer_extent(like), *like.stride()[1:]))


def ordered_like(t: Tensor, like: Tensor) -> Tensor:
    """`t`, or a copy of it in the order of `like`."""
    return t if is_ordered_like(t, like) else empty_ordered_like(len(t), like).copy_(t)


def writable_like(t: Tensor | None, like: Tensor, *, reads: bool = False) -> Tensor | None:
    """`t`, or scratch memory in the order of `like`, from which `write_back` copies what was written.

    The scratch comes uninitialised, unless what is done with it `reads` it.
    """
    if t is None or is_ordered_like(t, like):
        return t
    scratch = empty_ordered_like(len(t), like)
    return scratch.copy_(t) if reads else scratch


def write_back(t: Tensor | None, written: Tensor | None) -> None:
    """`t` gets what was written to what `writable_like` gave for it."""
    if t is not None and written is not None and written is not t:
        t.copy_(written)


def layer_extent(t: Tensor) -> int:
    """How many elements of memory one layer of `t` spans."""
    if 0 in t.shape[1:]:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(t.shape[1:], t.stride()[1:], strict=True))


def aligned_layer_strides(*tensors: Tensor | None) -> tuple[list[int], int]:
    """The distances between layers in units of ALIGN elements, 0 where there is no tensor; and ALIGN, at most 16."""
    strides = [0 if t is None else t.stride(0) for t in tensors]
    align = math.gcd(16, *strides)
    return [stride // align for stride in strides], align


def why_unsupported(like: Tensor, *others: Tensor | None) -> str | None:
    """Why fused kernels cannot take these tensors, or None: the device, or a layer too large for counts in 32 bits."""
    if not like.is_cuda and not _INTERPRETED:
        return None
    if like.dtype == torch.bfloat16 and not like.is_cuda:
        return "Triton's interpreter does not compute in bfloat16"
    if (of_device := devices.why_unsupported(like.device)) is not None:
        return of_device
    largest = max((layer_extent(t) for t in (like, *others) if t is not None and t.numel()), default=0)
    return f"a layer spans {largest} elements; the limit is 2³¹ − 1" if largest >= _INDEX_LIMIT else None
