"""How the GRU's kernels are launched on tensors of given shapes and strides (`kernels.launch`).

Rows are those of all intervals, in tiles; a kernel takes each tensor's strides by layers and by batch rows, W's by
rows, and none for b and what it writes without gaps. It may load as many units at once as all strides are multiples of.
"""

import math
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from lpgpu.kernels.implicit_gru import triton_adjoint, triton_kernels
from lpgpu.kernels.implicit_gru.tiles import Tile
from lpgpu.kernels.launch import Launch, Operands
from lpgpu.kernels.precision import Precision
from lpgpu.kernels.sweep import Sweep

UNLIMITED = 2**30
_TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64}


def sweep(operands: Operands, sweep: Sweep, tile: Tile, precision: Precision, implicit: bool) -> Launch:
    """h, its targets, x, W, b and the terms."""
    h, out, x, w, _, *terms = operands
    numbers = (*strides_of(h, out, x), w.stride(0), *strides_of(*terms), *_march(h, sweep, terms[-1]))
    options = _resident(operands, tile, precision) | {"IMPLICIT": implicit}
    return Launch(triton_kernels.gru_sweep, (_tiles(numbers[-7], tile.rows),), numbers, options)


def step(operands: Operands, tile: Tile, accumulates: bool, precision: Precision, implicit: bool) -> Launch:
    """h, h⁺, x, W, b, the terms, and where a, c and c_n go."""
    h, out, x, w, _, *terms = operands[:-3]
    num_rows, swept_rows = _rows_of_step(h, terms[-1])
    strides = (*strides_of(h, out, x), w.stride(0), *strides_of(*terms))
    numbers = (*strides, num_rows, swept_rows, h.shape[1], int(accumulates))
    options = _tiled(operands, tile, precision) | {"IMPLICIT": implicit}
    return Launch(triton_kernels.gru_step_tiled, grid_of(num_rows, h, tile), numbers, options)


def adjoint_sweep(operands: Operands, sweep: Sweep, tile: Tile, precision: Precision) -> Launch:
    """λ, its targets, a, c, W and the terms."""
    lam, out, a, c, w, *terms = operands
    numbers = (*strides_of(lam, out, a, c), w.stride(0), *strides_of(*terms), *_march(lam, sweep, terms[-1]))
    options = _resident(operands, tile, precision)
    return Launch(triton_adjoint.gru_adjoint_sweep, (_tiles(numbers[-7], tile.rows),), numbers, options)


def adjoint_sweep_recomputed(
    operands: Operands, sweep: Sweep, tile: Tile, precision: Precision, implicit: bool
) -> Launch:
    """λ, its targets, h, x, W, b and the terms."""
    lam, out, h, x, w, _, *terms = operands
    numbers = (*strides_of(lam, out, h, x), w.stride(0), *strides_of(*terms), *_march(lam, sweep, terms[-1]))
    options = _resident(operands, tile, precision) | {"IMPLICIT": implicit}
    return Launch(triton_adjoint.gru_adjoint_recomputed, (_tiles(numbers[-7], tile.rows),), numbers, options)


def adjoint_step(operands: Operands, tile: Tile, accumulates: bool, precision: Precision) -> Launch:
    """λ, where it goes, a, c, W and the terms."""
    lam, out, a, c, w, *terms = operands
    num_rows, swept_rows = _rows_of_step(lam, terms[-1])
    strides = (*strides_of(lam, out, a, c), w.stride(0), *strides_of(*terms))
    numbers = (*strides, num_rows, swept_rows, lam.shape[1], int(accumulates))
    options = _tiled(operands, tile, precision)
    return Launch(triton_adjoint.gru_adjoint_tiled, grid_of(num_rows, lam, tile), numbers, options)


def diagonal(operands: Operands) -> Launch:
    """a, c, W and where the diagonal goes."""
    a, c, w, out = operands
    numbers = (*strides_of(a, c), w.stride(0), *strides_of(out), out.shape[0] * out.shape[1], out.shape[1])
    options = _elementwise(operands, out) | {"ACC": _accumulator(out)}
    return Launch(triton_adjoint.gru_diagonal, _elementwise_grid(out), numbers, options)


def at_zero(operands: Operands, implicit: bool) -> Launch:
    """x, W, b, and where h⁺ and the diagonal go."""
    x, w, _, out, diagonal = operands
    numbers = (*strides_of(x), w.stride(0), *strides_of(out, diagonal), out.shape[0] * out.shape[1], out.shape[1])
    options = _elementwise(operands, out) | {"ACC": _accumulator(out), "IMPLICIT": implicit}
    return Launch(triton_kernels.gru_at_zero, _elementwise_grid(out), numbers, options)


def gate_gradients(operands: Operands) -> Launch:
    """λ, c, c_n and where both gradients go."""
    lam, c, c_n = operands[:3]
    numbers = (*strides_of(lam, c, c_n), lam.shape[0] * lam.shape[1], lam.shape[1])
    return Launch(
        triton_adjoint.gru_gate_gradients, _elementwise_grid(lam), numbers, _elementwise(operands, lam)
    )  # fmt: skip


def intervals_written(sweep: Sweep, products: Tensor | None) -> int:
    """`products` may have more intervals than those that are swept; theirs are 1."""
    return max(sweep.num_intervals, 0 if products is None else len(products))


def dot_operands(dtype: torch.dtype, precision: Precision) -> dict[str, Any]:
    """What the operands of products are rounded to, and how these are made."""
    if precision == "bf16":
        return {"DOT": tl.bfloat16, "PRECISION": "ieee"}
    return {"DOT": _TYPES[dtype], "PRECISION": precision}


def _march(u: Tensor, sweep: Sweep, products: Tensor | None) -> tuple[int, ...]:
    """Rows to write and to sweep, batch rows; steps, interval, limit and direction."""
    limit = UNLIMITED if sweep.reverse else sweep.num_layers - sweep.first
    batch = u.shape[1]
    rows = intervals_written(sweep, products) * batch, sweep.num_intervals * batch
    return *rows, batch, sweep.steps, sweep.interval, limit, sweep.direction


def _rows_of_step(u: Tensor, products: Tensor | None) -> tuple[int, int]:
    """Rows to write, and to step."""
    layers, batch, _ = u.shape
    return (layers if products is None else len(products)) * batch, layers * batch


def strides_of(*tensors: Tensor | None) -> tuple[int, ...]:
    """Strides by layers and by batch rows, 0 where there is no tensor."""
    return tuple(stride for t in tensors for stride in ((0, 0) if t is None else (t.stride(0), t.stride(1))))


def _aligned(operands: Operands, width: int) -> int:
    strides = (stride for t in operands if t is not None and t.ndim > 1 for stride in t.stride()[:-1])
    return math.gcd(16, width, *strides)


def _accumulator(like: Tensor) -> Any:
    return tl.float64 if like.dtype == torch.float64 else tl.float32


def common_options(like: Tensor, tile: Tile, precision: Precision) -> dict[str, Any]:
    """What all kernels with products are told of the states and their tile."""
    return {
        "WIDTH": like.shape[-1], "ROWS": tile.rows,
        "STAGES": tile.num_stages, "num_warps": tile.num_warps, "num_stages": tile.num_stages,
        "ACC": _accumulator(like), **dot_operands(like.dtype, precision),
    }  # fmt: skip


def _common(operands: Operands, tile: Tile, precision: Precision) -> dict[str, Any]:
    like = operands[0]
    return common_options(like, tile, precision) | {"ALIGNED": _aligned(operands, like.shape[-1])}


def _resident(operands: Operands, tile: Tile, precision: Precision) -> dict[str, Any]:
    return _common(operands, tile, precision) | {"PADDED": tile.columns}


def _tiled(operands: Operands, tile: Tile, precision: Precision) -> dict[str, Any]:
    return _common(operands, tile, precision) | {"COLUMNS": tile.columns, "DEPTH": tile.depth}


def grid_of(num_rows: int, like: Tensor, tile: Tile) -> tuple[int, int]:
    """Programs by rows and by units."""
    return _tiles(num_rows, tile.rows), _tiles(like.shape[-1], tile.columns)


def _elementwise(operands: Operands, like: Tensor) -> dict[str, Any]:
    width = like.shape[-1]
    return {"WIDTH": width, "ALIGNED": _aligned(operands, width), "PADDED": 256, "ROWS": 4, "num_warps": 4}


def _elementwise_grid(like: Tensor) -> tuple[int, int]:
    return _tiles(like.shape[0] * like.shape[1], 4), _tiles(like.shape[-1], 256)


def _tiles(extent: int, tile: int) -> int:
    return -(-extent // tile)
