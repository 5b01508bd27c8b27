"""A sweep's tensors and geometry as the GRU's kernels take them."""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from lpgpu.kernels.precision import Precision
from lpgpu.kernels.sweep import Sweep, Terms

_UNLIMITED = 2**30
_TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64}


def dot_operands(dtype: torch.dtype, precision: Precision) -> dict[str, Any]:
    """What the operands of products are rounded to, and how these are made."""
    if precision == "bf16":
        return {"DOT": tl.bfloat16, "PRECISION": "ieee"}
    return {"DOT": _TYPES[dtype], "PRECISION": precision}


def strided(t: Tensor | None) -> tuple[Tensor | None, int, int]:
    """A tensor as a kernel takes it: where it starts, its stride by layers, its stride by batch rows."""
    return (None, 0, 0) if t is None else (t, t.stride(0), t.stride(1))


def strided_terms(geometry: Sweep, terms: Terms) -> tuple[Tensor | int | None, ...]:
    """A whole sweep's, from its first step on."""
    first, _, target = starts_of(geometry)
    g, delta, anchors, products = terms.of(slice(first, None), slice(target, None)).tensors()
    return *strided(g), *strided(delta), *strided(anchors), *strided(products)


def rows_of(u: Tensor, geometry: Sweep, terms: Terms) -> tuple[int, int]:
    """Rows to write, and to sweep: `products` may have more intervals than those that are swept; theirs are 1."""
    intervals, products = geometry.num_intervals, terms.products
    return max(intervals, 0 if products is None else len(products)) * u.shape[1], intervals * u.shape[1]


def starts_of(geometry: Sweep) -> tuple[int, int, int]:
    """The layer, the source and the target of the first interval's first step."""
    return geometry.first, geometry.sources(0).start, geometry.targets(0).start


def marching(geometry: Sweep) -> tuple[int, int, int, int]:
    """Steps, interval, limit and direction as the kernels take them."""
    limit = _UNLIMITED if geometry.reverse else geometry.num_layers - geometry.first
    return geometry.steps, geometry.interval, limit, geometry.direction
