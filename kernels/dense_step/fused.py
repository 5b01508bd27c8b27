"""Launchers of the dense kernels: tensors in any memory order become pointers and strides, a sweep becomes launches."""

import torch
from torch import Tensor

from lpgpu.kernels.dense_step import capacity
from lpgpu.kernels.dense_step.configurations import configurations
from lpgpu.kernels.dense_step.triton_kernels import dense_step_kernel, dense_sweep_kernel
from lpgpu.kernels.devices import arch_of
from lpgpu.kernels.dispatch import launch
from lpgpu.kernels.layout import aligned_layer_strides, empty_ordered_like, ordered_like, written_like
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

__all__ = ["configurations", "empty_kept", "step", "sweep"]


def sweep(
    u_PBH: Tensor, w_LHH: Tensor, b_LH: Tensor | None, dt: float, activation: str, sweep: Sweep,
    terms: Terms = NO_TERMS, *, kept_LBH: Tensor | None = None,
) -> None:  # fmt: skip
    """Forward, or where `kept_LBH` is given the adjoint. One launch where the weights fit on chip, else one a step."""
    if not u_PBH.numel():
        return
    kept, g, delta, anchors = (None if t is None else ordered_like(t, u_PBH) for t in (kept_LBH, *terms.tensors()[:3]))
    tile = capacity.resident_tile(u_PBH.shape[-1], u_PBH.shape[1], u_PBH.dtype, arch_of(u_PBH.device))
    with written_like(terms.products, u_PBH) as written:
        if written is not None and (tile is None or len(written) > sweep.num_intervals):
            written.fill_(1)
        tensors = (u_PBH, w_LHH, b_LH, kept, g, delta, anchors, written)
        if tile is not None:
            _resident(*tensors, dt, activation, sweep, tile)
        else:
            _step_by_step(*tensors, dt, activation, sweep)


def step(
    x_KBH: Tensor, out_KBH: Tensor | None, w_KHH: Tensor, b_KH: Tensor | None, dt: float, activation: str, *,
    kept_KBH: Tensor | None = None, diagonal_KBH: Tensor | None = None, adjoint: bool = False,
) -> None:  # fmt: skip
    """All K layers in one launch; see `dense_step_kernel` for what is read and what is written."""
    if not x_KBH.numel():
        return
    like = next(t for t in (out_KBH, kept_KBH, diagonal_KBH) if t is not None)
    kept = kept_KBH
    if adjoint and kept is not None:
        kept = ordered_like(kept, like)
    with written_like(None if adjoint else kept, like) as written, written_like(diagonal_KBH, like) as diagonal:
        tensors = (out_KBH, w_KHH, b_KH, kept if adjoint else written, None, None, None, diagonal)
        _tiled(ordered_like(x_KBH, like), *tensors, dt, activation, adjoint=adjoint)


def _resident(
    u: Tensor, w: Tensor, b: Tensor | None, kept: Tensor | None, g: Tensor | None, delta: Tensor | None,
    anchors: Tensor | None, products: Tensor | None, dt: float, activation: str, sweep: Sweep, tile: capacity.Tile,
) -> None:  # fmt: skip
    _, batch, width = u.shape
    tiles = -(-batch // tile.rows)
    tensors = (u, w, b, kept, g, delta, anchors, products)
    layer_strides, align = aligned_layer_strides(*tensors)
    # fmt: off
    launch(
        dense_sweep_kernel, (tiles * sweep.num_intervals,), *tensors, dt,
        batch, tiles, sweep.num_layers, sweep.first, sweep.interval, sweep.steps,
        *layer_strides, *_inner_strides(u, w, b, adjoint=kept is not None), align,
        WIDTH=width, ROWS=tile.rows, COLS=tile.cols, ACTIVATION=activation, ADJOINT=kept is not None,
        REVERSE=sweep.reverse, PRECISION=dot_precision(u.dtype), STAGES=tile.stages, num_warps=tile.warps,
        num_stages=tile.stages,
    )
    # fmt: on


def _step_by_step(
    u: Tensor, w: Tensor, b: Tensor | None, kept: Tensor | None, g: Tensor | None, delta: Tensor | None,
    anchors: Tensor | None, products: Tensor | None, dt: float, activation: str, sweep: Sweep,
) -> None:  # fmt: skip
    for layers, sources, targets in sweep.marched():
        bias, kept_here, delta_here, anchors_here = (_at(t, layers) for t in (b, kept, delta, anchors))
        tensors = (u[sources], u[targets], w[layers], bias, kept_here, _at(g, targets), delta_here, anchors_here)
        _tiled(*tensors, products, dt, activation, adjoint=kept is not None, multiply=True)


def _at(t: Tensor | None, where: slice) -> Tensor | None:
    return None if t is None else t[where]


def _tiled(
    x: Tensor, out: Tensor | None, w: Tensor, b: Tensor | None, kept: Tensor | None, g: Tensor | None,
    delta: Tensor | None, anchors: Tensor | None, diagonal: Tensor | None, dt: float, activation: str, *,
    adjoint: bool, multiply: bool = False,
) -> None:  # fmt: skip
    layers, batch, width = x.shape
    tile = capacity.step_tile(width, x.dtype)
    row_tiles, col_tiles = -(-batch // tile.rows), -(-width // tile.cols)
    tensors = (x, out, w, b, kept, g, delta, anchors, diagonal)
    layer_strides, align = aligned_layer_strides(*tensors)
    # fmt: off
    launch(
        dense_step_kernel, (layers * row_tiles * col_tiles,), *tensors, dt,
        batch, row_tiles, *layer_strides, *_inner_strides(x, w, b, adjoint=adjoint), align,
        WIDTH=width, ROWS=tile.rows, COLS=tile.cols, SUMMED=tile.summed, ACTIVATION=activation, ADJOINT=adjoint,
        MULTIPLY=multiply, PRECISION=dot_precision(x.dtype), STAGES=tile.stages, num_warps=tile.warps,
        num_stages=tile.stages,
    )
    # fmt: on


def _inner_strides(u: Tensor, w: Tensor, b: Tensor | None, *, adjoint: bool) -> tuple[int, ...]:
    """Of a row and a unit, of the index of W summed over and the one left, and of the bias."""
    summed, left = (w.stride(1), w.stride(2)) if adjoint else (w.stride(2), w.stride(1))
    return u.stride(1), u.stride(2), summed, left, 0 if b is None else b.stride(1)


def empty_kept(u_KBH: Tensor) -> Tensor:
    """What `kept` is written to: in the order of the states, without the gaps between layers."""
    return torch.empty_like(u_KBH) if 0 in u_KBH.stride() else empty_ordered_like(len(u_KBH), u_KBH)
