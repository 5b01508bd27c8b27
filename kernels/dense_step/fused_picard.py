"""Launchers of Picard steps over dense layers: one launch an iteration, or one for a whole march of order 1."""

import math

from torch import Tensor

from lpgpu.kernels.dense_step import tiles
from lpgpu.kernels.dense_step.tiles import PicardTile
from lpgpu.kernels.dense_step.triton_picard import dense_picard_kernel, dense_picard_sweep_kernel
from lpgpu.kernels.launch import Launch, Operands, launch
from lpgpu.kernels.layout import ordered_like
from lpgpu.kernels.picard import empty_runs, runs_ordered_like
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import Sweep


def picard(
    u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str, order: int, out: Tensor
) -> None:  # fmt: skip
    """In one launch an iteration, for all runs."""
    _iterate((ordered_like(u, out), out, w, b, None, None), dt, activation, order)


def adjoint_picard(
    lam: Tensor, saved: Tensor, w: Tensor, dt: float, activation: str, order: int, out: Tensor
) -> None:  # fmt: skip
    """In one launch an iteration, for all runs."""
    _iterate((ordered_like(lam, out), out, w, None, runs_ordered_like(saved, out), None), dt, activation, order)


def picard_sweep(
    u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str, order: int, sweep: Sweep,
    g: Tensor | None = None,
) -> None:  # fmt: skip
    """In one launch, or one for each step and iteration."""
    _march((u, w, b, None, None if g is None else ordered_like(g, u)), dt, activation, order, sweep)


def adjoint_picard_sweep(
    lam: Tensor, saved: Tensor, w: Tensor, dt: float, activation: str, order: int, sweep: Sweep,
    g: Tensor | None = None,
) -> None:  # fmt: skip
    """In one launch, or one for each step and iteration."""
    g = None if g is None else ordered_like(g, lam)
    _march((lam, w, None, runs_ordered_like(saved, lam), g), dt, activation, order, sweep)


def _march(operands: Operands, dt: float, activation: str, order: int, sweep: Sweep) -> None:
    """`operands`: states, W, b, saved and g. Forward, or where something was saved the adjoint."""
    u, w, b, saved, g = operands
    if not u.numel():
        return
    tile = tiles.picard_march_tile(u.shape[-1], u.dtype, order)
    if tile is not None:
        launch(_resident, operands, (sweep, activation, dot_precision(u.dtype), tile), (dt,))
        return
    for step in sweep.marched():
        b_here, saved_here = (None if t is None else t[step.layers] for t in (b, saved))
        g_here = None if g is None else g[step.targets]
        here = (u[step.sources], u[step.targets], w[step.layers], b_here, saved_here, g_here)
        _iterate(here, dt, activation, order)


def _iterate(operands: Operands, dt: float, activation: str, order: int) -> None:
    """`operands`: states, where the runs lead to, W, b, saved and g there."""
    u, out, w, *rest, g = operands
    count, span = w.shape[:2]
    scratch = [empty_runs(out, count, span) for _ in range(min(2, order - 1))]
    before = None
    for iteration in range(order):
        last = iteration + 1 == order
        following = None if last else scratch[iteration % 2]
        tensors = (u, out if last else None, w, *rest, g if last else None, before, following)
        launch(_iteration, tensors, (activation, order, dot_precision(u.dtype)), (dt,))
        before = following


def _iteration(operands: Operands, activation: str, order: int, precision: str) -> Launch:
    """One iteration of all runs; see `dense_picard_kernel`."""
    u, out, w, b, saved, rhs, before, following = operands
    runs, batch, width = u.shape
    tile = tiles.picard_tile(width, runs * batch, u.dtype, order, saved is not None)
    row_tiles, col_tiles = -(-batch // tile.rows), -(-width // tile.cols)
    strides, align = _strides((u, out), (w, b, saved), (rhs,), (before, following))
    numbers = (batch, row_tiles, w.shape[1], *strides, *_inner_strides(u, w, b, adjoint=saved is not None), align)
    options = _options(tile, width, activation, precision, adjoint=saved is not None) | {"SUMMED": tile.summed}
    return Launch(dense_picard_kernel, (runs * row_tiles * col_tiles,), numbers, options)


def _resident(operands: Operands, sweep: Sweep, activation: str, precision: str, tile: PicardTile) -> Launch:
    """A whole march; see `dense_picard_sweep_kernel`."""
    u, w, b, saved, rhs = operands
    _, batch, width = u.shape
    row_tiles = -(-batch // tile.rows)
    strides, align = _strides((u,), (w, b, saved), (rhs,), ())
    sizes = (batch, row_tiles, w.shape[1], sweep.num_layers, sweep.first, sweep.interval, sweep.steps)
    numbers = (*sizes, *strides, *_inner_strides(u, w, b, adjoint=saved is not None), align)
    options = _options(tile, width, activation, precision, adjoint=saved is not None)
    return Launch(dense_picard_sweep_kernel, (row_tiles * sweep.num_intervals,), numbers, options)


def _options(tile: PicardTile, width: int, activation: str, precision: str, *, adjoint: bool) -> dict:
    return {
        "WIDTH": width, "ROWS": tile.rows, "COLS": tile.cols, "LAYERS": tile.layers, "ACTIVATION": activation,
        "ADJOINT": adjoint, "PRECISION": precision, "STAGES": tile.stages,
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip


def _strides(*groups: tuple[Tensor | None, ...]) -> tuple[list[int], int]:
    """From run to run, and in the second and fourth group from layer to layer too, in units of ALIGN; and ALIGN."""
    strides = [
        0 if t is None else t.stride(dimension)
        for i, group in enumerate(groups)
        for t in group
        for dimension in range(1 + i % 2)
    ]
    align = math.gcd(16, *strides)
    return [stride // align for stride in strides], align


def _inner_strides(u: Tensor, w: Tensor, b: Tensor | None, *, adjoint: bool) -> tuple[int, ...]:
    """Of a row and a unit, of the index of W summed over and the one left, and of the bias."""
    summed, left = (w.stride(2), w.stride(3)) if adjoint else (w.stride(3), w.stride(2))
    return u.stride(1), u.stride(2), summed, left, 0 if b is None else b.stride(2)
