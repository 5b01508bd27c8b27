"""A sweep's tensors and geometry as the GRU's kernels take them."""

from collections.abc import Iterator
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from lpgpu.kernels.precision import Precision
from lpgpu.kernels.sweep import Sweep

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


def strided_terms(
    first: int,
    target: int,
    g: Tensor | None,
    delta: Tensor | None,
    anchors: Tensor | None,
    products: Tensor | None,
) -> tuple[Tensor | int | None, ...]:
    """A whole sweep's, from its first step on."""
    return (
        *strided(None if g is None else g[target:]),
        *strided(None if delta is None else delta[first:]),
        *strided(None if anchors is None else anchors[first:]),
        *strided(products),
    )


def sliced_terms(
    layers: slice,
    targets: slice,
    g: Tensor | None,
    delta: Tensor | None,
    anchors: Tensor | None,
    products: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Those of one step."""
    return (
        None if g is None else g[targets],
        None if delta is None else delta[layers],
        None if anchors is None else anchors[layers],
        products,
    )


def rows_of(u: Tensor, geometry: Sweep, products: Tensor | None) -> tuple[int, int]:
    """Rows to write, and to sweep: `products` may have more intervals than those that are swept; theirs are 1."""
    intervals = geometry.num_intervals
    return max(intervals, 0 if products is None else len(products)) * u.shape[1], intervals * u.shape[1]


def starts_of(geometry: Sweep) -> tuple[int, int, int]:
    """The layer, the source and the target of the first interval's first step."""
    return geometry.first, geometry.sources(0).start, geometry.targets(0).start


def marching(geometry: Sweep) -> tuple[int, int, int, int]:
    """Steps, interval, limit and direction as the kernels take them."""
    limit = _UNLIMITED if geometry.reverse else geometry.num_layers - geometry.first
    return geometry.steps, geometry.interval, limit, geometry.direction


def steps_of(geometry: Sweep, products: Tensor | None) -> Iterator[tuple[slice, slice, slice, bool]]:
    """Each step's layers, sources and targets, and whether `products` already holds those of the steps before."""
    for j, (layers, sources, targets) in enumerate(geometry.marched()):
        yield layers, sources, targets, products is not None and j > 0
