"""Launchers of the dense kernels: tensors in any memory order become pointers and strides, a sweep becomes launches."""

import torch
from torch import Tensor

from lpgpu.kernels.dense_step import tiles
from lpgpu.kernels.dense_step.fused_picard import (  # noqa: F401
    adjoint_picard,
    adjoint_picard_sweep,
    picard,
    picard_sweep,
)
from lpgpu.kernels.dense_step.triton_kernels import dense_step_kernel, dense_sweep_kernel
from lpgpu.kernels.devices import arch_of
from lpgpu.kernels.launch import Launch, Operands, launch
from lpgpu.kernels.layout import (
    aligned_layer_strides,
    empty_ordered_like,
    ordered_like,
    writable_like,
    write_back,
)
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import Sweep, Terms


def sweep(
    u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str, sweep: Sweep, terms: Terms
) -> None:  # fmt: skip
    """In one launch where the weights fit on chip, else in one a step."""
    _march(u, w, b, None, dt, activation, sweep, terms)


def adjoint_sweep(
    lam: Tensor, saved: Tensor, w: Tensor, dt: float, activation: str, sweep: Sweep, terms: Terms
) -> None:
    """In one launch where the weights fit on chip, else in one a step."""
    _march(lam, w, None, saved, dt, activation, sweep, terms)


def advance(
    u: Tensor, w: Tensor, b: Tensor | None, dt: float, activation: str, out: Tensor, diagonal: Tensor | None
) -> None:
    """In one launch for all layers; nothing is left for the adjoint."""
    written = writable_like(diagonal, out)
    operands = (ordered_like(u, out), out, w, b, None, None, None, None, written)
    launch(_step, operands, (activation, False, False, dot_precision(u.dtype)), (dt,))
    write_back(diagonal, written)


def linearise(u: Tensor, w: Tensor, b: Tensor | None, activation: str) -> Tensor:
    """In one launch; in the order of the states, without the gaps between layers."""
    saved = torch.empty_like(u) if 0 in u.stride() else empty_ordered_like(len(u), u)
    operands = (ordered_like(u, saved), None, w, b, saved, None, None, None, None)
    launch(_step, operands, (activation, False, False, dot_precision(u.dtype)), (0.0,))
    return saved


def vjp(lam: Tensor, saved: Tensor, w: Tensor, dt: float, activation: str, out: Tensor) -> None:
    """In one launch for all layers."""
    operands = (ordered_like(lam, out), out, w, None, ordered_like(saved, out), None, None, None, None)
    launch(_step, operands, (activation, True, False, dot_precision(lam.dtype)), (dt,))


def diagonal(saved: Tensor, w: Tensor, dt: float, activation: str, out: Tensor) -> None:
    """In one launch for all layers. `saved` stands for the states, which are not read."""
    written = writable_like(out, saved)
    operands = (saved, None, w, None, saved, None, None, None, written)
    launch(_step, operands, (activation, True, False, dot_precision(saved.dtype)), (dt,))
    write_back(out, written)


def _march(
    u: Tensor, w: Tensor, b: Tensor | None, saved: Tensor | None, dt: float, activation: str, sweep: Sweep, terms: Terms
) -> None:  # fmt: skip
    """Forward, or where something was `saved` the adjoint."""
    if not u.numel():
        return
    saved, g, delta, anchors = (None if t is None else ordered_like(t, u) for t in (saved, *terms.tensors()[:3]))
    tile = tiles.resident_tile(u.shape[-1], u.shape[1], u.dtype, arch_of(u.device))
    products = writable_like(terms.products, u)
    if products is not None and (tile is None or len(products) > sweep.num_intervals):
        products.fill_(1)
    adjoint, precision = saved is not None, dot_precision(u.dtype)
    if tile is not None:
        operands = (u, w, b, saved, g, delta, anchors, products)
        launch(_resident, operands, (sweep, activation, adjoint, precision, tile), (dt,))
    else:
        ordered = Terms(g, delta, anchors, products)
        for step in sweep.marched():
            bias, saved_here = (None if t is None else t[step.layers] for t in (b, saved))
            operands = (u[step.sources], u[step.targets], w[step.layers], bias, saved_here, *ordered.at(step).tensors())
            launch(_step, operands, (activation, adjoint, True, precision), (dt,))
    write_back(terms.products, products)


def _resident(
    operands: Operands, sweep: Sweep, activation: str, adjoint: bool, precision: str, tile: tiles.Tile
) -> Launch:  # fmt: skip
    u, w, b = operands[:3]
    _, batch, width = u.shape
    row_tiles = -(-batch // tile.rows)
    layer_strides, align = aligned_layer_strides(*operands)
    sizes = (batch, row_tiles, sweep.num_layers, sweep.first, sweep.interval, sweep.steps)
    options = {
        "WIDTH": width, "ROWS": tile.rows, "COLS": tile.cols, "ACTIVATION": activation, "ADJOINT": adjoint,
        "REVERSE": sweep.reverse, "PRECISION": precision, "STAGES": tile.stages,
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    numbers = (*sizes, *layer_strides, *_inner_strides(u, w, b, adjoint=adjoint), align)
    return Launch(dense_sweep_kernel, (row_tiles * sweep.num_intervals,), numbers, options)


def _step(operands: Operands, activation: str, adjoint: bool, multiply: bool, precision: str) -> Launch:
    """All K layers in one launch; see `dense_step_kernel` for what is read and what is written."""
    x, _, w, b = operands[:4]
    layers, batch, width = x.shape
    tile = tiles.step_tile(width, x.dtype)
    row_tiles, col_tiles = -(-batch // tile.rows), -(-width // tile.cols)
    layer_strides, align = aligned_layer_strides(*operands)
    options = {
        "WIDTH": width, "ROWS": tile.rows, "COLS": tile.cols, "SUMMED": tile.summed, "ACTIVATION": activation,
        "ADJOINT": adjoint, "MULTIPLY": multiply, "PRECISION": precision, "STAGES": tile.stages,
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    numbers = (batch, row_tiles, *layer_strides, *_inner_strides(x, w, b, adjoint=adjoint), align)
    return Launch(dense_step_kernel, (layers * row_tiles * col_tiles,), numbers, options)


def _inner_strides(u: Tensor, w: Tensor, b: Tensor | None, *, adjoint: bool) -> tuple[int, ...]:
    """Of a row and a unit, of the index of W summed over and the one left, and of the bias."""
    summed, left = (w.stride(1), w.stride(2)) if adjoint else (w.stride(2), w.stride(1))
    return u.stride(1), u.stride(2), summed, left, 0 if b is None else b.stride(1)
