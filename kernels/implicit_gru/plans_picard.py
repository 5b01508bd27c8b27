"""How the Picard kernels of the GRU are launched on tensors of given shapes and strides; conventions as in `plans`."""

import math

from torch import Tensor

from lpgpu.kernels.devices import arch_of
from lpgpu.kernels.implicit_gru import tiles, triton_picard
from lpgpu.kernels.implicit_gru.plans import UNLIMITED, common_options, grid_of, strides_of
from lpgpu.kernels.implicit_gru.tiles import Kind, Tile
from lpgpu.kernels.launch import Launch, Operands
from lpgpu.kernels.precision import Precision
from lpgpu.kernels.sweep import Sweep


def forward(operands: Operands, precision: Precision, implicit: bool) -> Launch:
    """h, where the runs lead to, x, W, b, g, and v⁰ before and after the iteration."""
    h, out, x, w, _, g, *_ = operands
    tile = _tile_of(h, precision, "forward")
    strides = (*strides_of(h, out), *_of_runs(x), w.stride(0), *strides_of(g))
    numbers = (*strides, h.shape[0] * h.shape[1], h.shape[1], x.shape[1])
    options = _options(operands, tile, precision) | {"COLUMNS": tile.columns, "DEPTH": tile.depth}
    return Launch(triton_picard.gru_picard, grid_of(numbers[-3], h, tile), numbers, options | {"IMPLICIT": implicit})


def adjoint(operands: Operands, precision: Precision) -> Launch:
    """λ, where the runs lead to, a, c, W, g, and v⁰ before and after the iteration."""
    lam, out, a, c, w, g, *_ = operands
    tile = _tile_of(lam, precision, "adjoint")
    strides = (*strides_of(lam, out), *_of_runs(a), *_of_runs(c), w.stride(0), *strides_of(g))
    numbers = (*strides, lam.shape[0] * lam.shape[1], lam.shape[1], a.shape[1])
    options = _options(operands, tile, precision) | {"COLUMNS": tile.columns, "DEPTH": tile.depth}
    return Launch(triton_picard.gru_adjoint_picard, grid_of(numbers[-3], lam, tile), numbers, options)


def sweep(operands: Operands, sweep: Sweep, tile: Tile, precision: Precision, implicit: bool) -> Launch:
    """h, its targets, x, W, b and g."""
    h, out, x, w, _, g = operands
    rows, batch = sweep.num_intervals * h.shape[1], h.shape[1]
    limit = UNLIMITED if sweep.reverse else sweep.num_layers - sweep.first
    march = (rows, batch, x.shape[1], sweep.steps, sweep.interval, limit, sweep.direction)
    numbers = (*strides_of(h, out), *_of_runs(x), w.stride(0), *strides_of(g), *march)
    options = _options(operands, tile, precision) | {"PADDED": tile.columns, "IMPLICIT": implicit}
    return Launch(triton_picard.gru_picard_sweep, (-(-rows // tile.rows),), numbers, options)


def _tile_of(h: Tensor, precision: Precision, kind: Kind) -> Tile:
    return tiles.picard_tile(h.shape[-1], h.dtype, arch_of(h.device), precision=precision, kind=kind)


def _of_runs(t: Tensor) -> tuple[int, int, int]:
    """Strides by runs, by batch rows and by steps of a run."""
    return t.stride(0), t.stride(2), t.stride(1)


def _options(operands: Operands, tile: Tile, precision: Precision) -> dict:
    like = operands[0]
    strides = (stride for t in operands if t is not None and t.ndim > 1 for stride in t.stride()[:-1])
    return common_options(like, tile, precision) | {"ALIGNED": math.gcd(16, like.shape[-1], *strides)}
