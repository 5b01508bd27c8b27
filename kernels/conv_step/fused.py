"""Launchers of the convolution kernels: one launch for a convolution of all layers of a step, images and pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lpgpu.kernels.activations import activation_named
from lpgpu.kernels.conv_step import cuda_sweep, tiles
from lpgpu.kernels.conv_step.fused_picard import (  # noqa: F401
    adjoint_picard,
    adjoint_picard_sweep,
    picard,
    picard_sweep,
)
from lpgpu.kernels.conv_step.layers import Filter, Saved
from lpgpu.kernels.conv_step.triton_kernels import conv_gradient_kernel, conv_step_kernel
from lpgpu.kernels.dispatch import reasons
from lpgpu.kernels.launch import Launch, Operands, launch
from lpgpu.kernels.layout import aligned_layer_strides, empty_ordered_like, ordered_like
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

_PROGRAMS = 528  # four for each of an H100's multiprocessors: as many as a gradient is split into


def sweep(
    u: Tensor, filters: list[Filter], dt: float, activation: str, sweep: Sweep, terms: Terms
) -> None:  # fmt: skip
    """In one launch per step and convolution, over all intervals; or, where that is asked for, in one for all."""
    terms = _ordered(u, terms)
    if plan := cuda_sweep.plan_of("forward", u, filters, activation, sweep, terms):
        reasons["conv_step.sweep"] = "fused: in CUDA C++, one launch"
        return cuda_sweep.sweep(u, filters, dt, activation, sweep, terms, plan)
    scratch = _scratch(u, sweep.num_intervals, len(filters))
    for step in sweep.marched():
        here = terms.at(step)
        filters_here = [each.of_layers(step.layers) for each in filters]
        _forward(u[step.sources], filters_here, dt, activation, u[step.targets], scratch, here)


def adjoint_sweep(
    lam: Tensor, saved: Saved, filters: list[Filter], dt: float, activation: str, sweep: Sweep, terms: Terms
) -> None:
    """In one launch per step and convolution, over all intervals; or, where that is asked for, in one for all."""
    terms, ordered = _ordered(lam, terms), [ordered_like(each, lam) for each in saved.stacked()]
    if plan := cuda_sweep.plan_of("adjoint", lam, filters, activation, sweep, terms, ordered):
        reasons["conv_step.adjoint_sweep"] = "fused: in CUDA C++, one launch"
        return cuda_sweep.sweep(lam, filters, dt, activation, sweep, terms, plan, ordered)
    scratch = _scratch(lam, sweep.num_intervals, len(filters))
    for step in sweep.marched():
        here = terms.at(step)
        filters_here, saved_here = [each.of_layers(step.layers) for each in filters], [s[step.layers] for s in ordered]
        _backward(lam[step.sources], saved_here, filters_here, dt, activation, lam[step.targets], scratch, here)


def advance(u: Tensor, filters: list[Filter], dt: float, activation: str, out: Tensor, save: bool) -> Saved:
    """In one launch per convolution, over all layers; nothing is left for the adjoint."""
    _forward(ordered_like(u, out), filters, dt, activation, out, _scratch(out, len(u), len(filters)), NO_TERMS)
    return Saved()


def linearise(u: Tensor, filters: list[Filter], activation: str) -> Saved:
    """In one launch per convolution, over all layers; a tensor like `u` for each."""
    saved = [torch.empty_like(u) for _ in filters]
    like = saved[0]
    scratch = _scratch(like, len(u), len(filters))
    saves_input = activation_named(activation).saves_input
    x = ordered_like(u, like)
    for i, (each, saved_i) in enumerate(zip(filters, saved, strict=True)):
        if not saves_input:
            a = saved_i
            _convolve(x, each, 0.0, activation, out=a)
        else:
            a = scratch[i % 2] if i + 1 < len(filters) else None
            _convolve(x, each, 0.0, activation, out=a, saved=saved_i)
        x = saved_i if a is None else a
    return Saved(saved)


def vjp(lam: Tensor, saved: Saved, filters: list[Filter], dt: float, activation: str, out: Tensor) -> None:
    """In one launch per convolution, over all layers."""
    ordered = [ordered_like(each, out) for each in saved.stacked()]
    scratch = _scratch(out, len(lam), len(filters))
    _backward(ordered_like(lam, out), ordered, filters, dt, activation, out, scratch, NO_TERMS)


def parameter_gradient(
    lam: Tensor, saved: Saved, u: Tensor, filters: list[Filter], dt: float, activation: str
) -> list[tuple[Tensor, Tensor]]:
    """For each convolution a launch, and one to pull back through it; sums in two stages, in the same order always."""
    like, *_ = stacked = saved.stacked()
    lam, u, ordered = ordered_like(lam, like), ordered_like(u, like), [ordered_like(each, like) for each in stacked]
    scratch = _scratch(like, len(lam), len(filters))
    gradients, d, slope = [], lam, ordered[-1]
    for i in reversed(range(len(filters))):
        source = ordered[i - 1] if i > 0 else u
        gradients.append(_gradient_of(d, slope, source, dt, activation, from_saved=i > 0))
        if i > 0:
            following = scratch[(i - 1) % 2]
            _pull_back(d, filters[i], dt, activation, out=following, slope=slope, saved=ordered[i - 1])
            d, slope = following, None
    return gradients[::-1]


def _ordered(u: Tensor, terms: Terms) -> Terms:
    """The terms in the memory order of the states."""
    return Terms(*(None if t is None else ordered_like(t, u) for t in terms.tensors()[:3]))


def _forward(
    u: Tensor, filters: list[Filter], dt: float, activation: str, out: Tensor, scratch: list[Tensor], terms: Terms
) -> None:  # fmt: skip
    x = u
    for i, each in enumerate(filters[:-1]):
        a = scratch[i % 2][: len(u)]
        _convolve(x, each, dt, activation, out=a)
        x = a
    g, delta, anchors, _ = terms.tensors()
    w, b = filters[-1]
    launch(_step, (x, None, w, b, None, u, out, g, delta, anchors), (activation, False, dot_precision(x.dtype)), (dt,))


def _backward(
    lam: Tensor, saved: Sequence[Tensor], filters: list[Filter], dt: float, activation: str, out: Tensor,
    scratch: list[Tensor], terms: Terms,
) -> None:  # fmt: skip
    d, slope = lam, saved[-1]
    for i in reversed(range(1, len(filters))):
        following = scratch[(i - 1) % 2][: len(lam)]
        _pull_back(d, filters[i], dt, activation, out=following, slope=slope, saved=saved[i - 1])
        d, slope = following, None
    g, delta, anchors, _ = terms.tensors()
    operands = (d, slope, filters[0].w, None, None, lam, out, g, delta, anchors)
    launch(_step, operands, (activation, True, dot_precision(lam.dtype)), (dt,))


def _convolve(
    x: Tensor, each: Filter, dt: float, activation: str, *, out: Tensor | None, saved: Tensor | None = None
) -> None:  # fmt: skip
    """out = g(K ∗ x + b), and what the adjoint needs of it."""
    operands = (x, None, *each, saved, None, out, None, None, None)
    launch(_step, operands, (activation, False, dot_precision(x.dtype)), (dt,))


def _pull_back(
    d: Tensor, each: Filter, dt: float, activation: str, *, out: Tensor, slope: Tensor | None, saved: Tensor
) -> None:  # fmt: skip
    """out = g′ ⊙ Kᵀ(g′ ⊙ d), the outer slope from `saved`, the inner from `slope` where given."""
    operands = (d, slope, each.w, None, saved, None, out, None, None, None)
    launch(_step, operands, (activation, True, dot_precision(d.dtype)), (dt,))


def _step(operands: Operands, activation: str, adjoint: bool, precision: str) -> Launch:
    """See `conv_step_kernel`; every tensor of states is in the memory order of the first."""
    x, _, w, b = operands[:4]
    layers, images, channels, height, width = x.shape
    tile = tiles.step_tile(channels, x.dtype)
    pixels = images * height * width
    pixel_tiles, col_tiles = -(-pixels // tile.pixels), -(-channels // tile.cols)
    layer_strides, align = aligned_layer_strides(*operands)
    summed, left = (w.stride(1), w.stride(2)) if adjoint else (w.stride(2), w.stride(1))
    of_filter = (summed, left, *w.stride()[3:], 0 if b is None else b.stride(1))
    numbers = (pixels, pixel_tiles, height, width, *layer_strides, *x.stride()[1:], *of_filter, align)
    options = {
        "CHANNELS": channels, "PIXELS": tile.pixels, "COLS": tile.cols, "SUMMED": tile.summed,
        "ACTIVATION": activation, "ADJOINT": adjoint, "PRECISION": precision, "STAGES": tile.stages,
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    return Launch(conv_step_kernel, (layers * pixel_tiles * col_tiles,), numbers, options)


def _gradient_of(
    d: Tensor, slope: Tensor | None, x: Tensor, dt: float, activation: str, *, from_saved: bool
) -> tuple[Tensor, Tensor]:
    """dW [K, C, C, 3, 3] and db [K, C]."""
    layers, _, channels, _, _ = d.shape
    splits = _splits(d)
    accumulator = torch.float64 if d.dtype == torch.float64 else torch.float32
    dw = d.new_empty(layers, splits, channels, 9, channels, dtype=accumulator)
    db = d.new_empty(layers, splits, channels, dtype=accumulator)
    settings = (activation, from_saved, splits, dot_precision(d.dtype))
    launch(_gradient, (d, slope, x, dw, db), settings, (dt,))
    gradient = d.new_empty(layers, channels, channels, 3, 3)
    gradient.view(layers, channels, channels, 9).copy_(dw.sum(1).transpose(2, 3))
    return gradient, db.sum(1).to(d.dtype)


def _gradient(operands: Operands, activation: str, from_saved: bool, splits: int, precision: str) -> Launch:
    d, slope, x, _, _ = operands
    layers, images, channels, height, width = d.shape
    tile = tiles.gradient_tile(channels, d.dtype)
    layer_strides, align = aligned_layer_strides(d, slope, x)
    numbers = (images * height * width, splits, height, width, *layer_strides, *d.stride()[1:], align)
    options = {
        "CHANNELS": channels, "PIXELS": tile.pixels, "ROWS": tile.rows, "COLS": tile.cols, "ACTIVATION": activation,
        "FROM_SAVED": from_saved, "PRECISION": precision, "STAGES": tile.stages, "num_warps": tile.warps,
        "num_stages": tile.stages,
    }  # fmt: skip
    return Launch(conv_gradient_kernel, (layers * splits * _gradient_tiles(channels, tile),), numbers, options)


def _splits(d: Tensor) -> int:
    """How many programs share the sum over the pixels of a layer."""
    layers, images, channels, height, width = d.shape
    tile = tiles.gradient_tile(channels, d.dtype)
    blocks = -(-images * height * width // tile.pixels)
    return max(1, min(blocks, _PROGRAMS // max(1, layers * _gradient_tiles(channels, tile))))


def _gradient_tiles(channels: int, tile: tiles.GradientTile) -> int:
    return -(-channels // tile.rows) * -(-9 * channels // tile.cols)


def _scratch(like: Tensor, layers: int, convolutions: int) -> list[Tensor]:
    """What convolutions but the last write to, in turns."""
    return [empty_ordered_like(layers, like) for _ in range(min(2, convolutions - 1))]
