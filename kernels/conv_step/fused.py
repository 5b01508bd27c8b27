"""Launchers of the convolution kernels: one launch for a convolution of all layers of a step, images and pixels."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lpgpu.kernels.activations import activation_named
from lpgpu.kernels.conv_step import capacity
from lpgpu.kernels.conv_step.configurations import configurations
from lpgpu.kernels.conv_step.layers import Kernel
from lpgpu.kernels.conv_step.triton_kernels import conv_gradient_kernel, conv_step_kernel
from lpgpu.kernels.dispatch import launch
from lpgpu.kernels.layout import aligned_layer_strides, empty_ordered_like, ordered_like
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

__all__ = ["adjoint_sweep", "advance", "configurations", "kept", "parameter_gradient", "sweep", "vjp"]

Corrections = tuple[Tensor | None, Tensor | None, Tensor | None]  # right-hand side, δ and anchors, where given
_NOTHING: Corrections = (None, None, None)
_PROGRAMS = 528  # four for each of an H100's multiprocessors: as many as a gradient is split into


def sweep(
    u: Tensor, kernels: list[Kernel], dt: float, activation: str, sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:  # fmt: skip
    """One launch per step and convolution, over all intervals."""
    scratch = _scratch(u, sweep.num_intervals, len(kernels))
    for layers, sources, targets, corrections in _marched(u, sweep, terms):
        here = [kernel.layers(layers) for kernel in kernels]
        _forward(u[sources], here, dt, activation, u[targets], scratch, corrections)


def adjoint_sweep(
    lam: Tensor, kept: list[Tensor], kernels: list[Kernel], dt: float, activation: str, sweep: Sweep,
    terms: Terms = NO_TERMS,
) -> None:  # fmt: skip
    """One launch per step and convolution, over all intervals."""
    scratch = _scratch(lam, sweep.num_intervals, len(kernels))
    kept = [ordered_like(each, lam) for each in kept]
    for layers, sources, targets, corrections in _marched(lam, sweep, terms):
        here, kept_here = [kernel.layers(layers) for kernel in kernels], [each[layers] for each in kept]
        _backward(lam[sources], kept_here, here, dt, activation, lam[targets], scratch, corrections)


def advance(u: Tensor, kernels: list[Kernel], dt: float, activation: str, out: Tensor) -> None:
    """One launch per convolution, over all layers."""
    _forward(ordered_like(u, out), kernels, dt, activation, out, _scratch(out, len(u), len(kernels)))


def kept(u: Tensor, kernels: list[Kernel], activation: str) -> list[Tensor]:
    """One launch per convolution, over all layers; a tensor like `u` for each."""
    everything = [torch.empty_like(u) for _ in kernels]
    like = everything[0]
    scratch = _scratch(like, len(u), len(kernels))
    keeps_input = activation_named(activation).keeps_input
    x = ordered_like(u, like)
    for i, (kernel, kept_i) in enumerate(zip(kernels, everything, strict=True)):
        if not keeps_input:
            a = kept_i
            _launch(x, kernel, 0.0, activation, out=a)
        else:
            a = scratch[i % 2] if i + 1 < len(kernels) else None
            _launch(x, kernel, 0.0, activation, out=a, kept=kept_i)
        x = kept_i if a is None else a
    return everything


def vjp(lam: Tensor, kept: list[Tensor], kernels: list[Kernel], dt: float, activation: str, out: Tensor) -> None:
    """One launch per convolution, over all layers."""
    kept = [ordered_like(each, out) for each in kept]
    _backward(ordered_like(lam, out), kept, kernels, dt, activation, out, _scratch(out, len(lam), len(kernels)))


def parameter_gradient(
    lam: Tensor, kept: list[Tensor], u: Tensor, kernels: list[Kernel], dt: float, activation: str
) -> list[tuple[Tensor, Tensor]]:
    """For each convolution a launch, and one to pull back through it; sums in two stages, in the same order always."""
    like = kept[0]
    lam, u, kept = ordered_like(lam, like), ordered_like(u, like), [ordered_like(each, like) for each in kept]
    scratch = _scratch(like, len(lam), len(kernels))
    gradients, d, slope = [], lam, kept[-1]
    for i in reversed(range(len(kernels))):
        source = kept[i - 1] if i > 0 else u
        gradients.append(_gradient(d, slope, source, dt, activation, from_kept=i > 0))
        if i > 0:
            following = scratch[(i - 1) % 2]
            _launch(d, kernels[i], dt, activation, out=following, adjoint=True, slope=slope, kept=kept[i - 1])
            d, slope = following, None
    return gradients[::-1]


def _marched(u: Tensor, sweep: Sweep, terms: Terms) -> Iterator[tuple[slice, slice, slice, Corrections]]:
    """Layers, sources and targets of each step, and what corrects it."""
    g, delta, anchors = (None if t is None else ordered_like(t, u) for t in terms.tensors()[:3])
    for layers, sources, targets in sweep.marched():
        yield layers, sources, targets, (_at(g, targets), _at(delta, layers), _at(anchors, layers))


def _at(t: Tensor | None, where: slice) -> Tensor | None:
    return None if t is None else t[where]


def _forward(
    u: Tensor, kernels: list[Kernel], dt: float, activation: str, out: Tensor, scratch: list[Tensor],
    corrections: Corrections = _NOTHING,
) -> None:  # fmt: skip
    x = u
    for i, kernel in enumerate(kernels[:-1]):
        a = scratch[i % 2][: len(u)]
        _launch(x, kernel, dt, activation, out=a)
        x = a
    _launch(x, kernels[-1], dt, activation, out=out, base=u, corrections=corrections)


def _backward(
    lam: Tensor, kept: list[Tensor], kernels: list[Kernel], dt: float, activation: str, out: Tensor,
    scratch: list[Tensor], corrections: Corrections = _NOTHING,
) -> None:  # fmt: skip
    d, slope = lam, kept[-1]
    for i in reversed(range(1, len(kernels))):
        following = scratch[(i - 1) % 2][: len(lam)]
        _launch(d, kernels[i], dt, activation, out=following, adjoint=True, slope=slope, kept=kept[i - 1])
        d, slope = following, None
    _launch(d, kernels[0], dt, activation, out=out, base=lam, adjoint=True, slope=slope, corrections=corrections)


def _launch(
    x: Tensor, kernel: Kernel, dt: float, activation: str, *, out: Tensor | None, base: Tensor | None = None,
    kept: Tensor | None = None, slope: Tensor | None = None, adjoint: bool = False,
    corrections: Corrections = _NOTHING,
) -> None:  # fmt: skip
    """See `conv_step_kernel`; every tensor of states is in the memory order of `x`."""
    if not x.numel():
        return
    layers, images, channels, height, width = x.shape
    w, b = kernel
    tile = capacity.step_tile(channels, x.dtype)
    pixels = images * height * width
    tiles, col_tiles = -(-pixels // tile.pixels), -(-channels // tile.cols)
    tensors = (x, slope, w, None if adjoint else b, kept, base, out, *corrections)
    layer_strides, align = aligned_layer_strides(*tensors)
    summed, left = (w.stride(1), w.stride(2)) if adjoint else (w.stride(2), w.stride(1))
    # fmt: off
    launch(
        conv_step_kernel, (layers * tiles * col_tiles,), *tensors, dt,
        pixels, tiles, height, width, *layer_strides, *x.stride()[1:], summed, left, *w.stride()[3:],
        0 if b is None else b.stride(1), align,
        CHANNELS=channels, PIXELS=tile.pixels, COLS=tile.cols, SUMMED=tile.summed, ACTIVATION=activation,
        ADJOINT=adjoint, PRECISION=dot_precision(x.dtype), STAGES=tile.stages, num_warps=tile.warps,
        num_stages=tile.stages,
    )
    # fmt: on


def _gradient(
    d: Tensor, slope: Tensor | None, x: Tensor, dt: float, activation: str, *, from_kept: bool
) -> tuple[Tensor, Tensor]:
    """dW [K, C, C, 3, 3] and db [K, C]."""
    layers, images, channels, height, width = d.shape
    tile = capacity.gradient_tile(channels, d.dtype)
    pixels = images * height * width
    tiles = -(-channels // tile.rows) * -(-9 * channels // tile.cols)
    splits = max(1, min(-(-pixels // tile.pixels), _PROGRAMS // max(1, layers * tiles)))
    accumulator = torch.float64 if d.dtype == torch.float64 else torch.float32
    dw = d.new_empty(layers, splits, channels, 9, channels, dtype=accumulator)
    db = d.new_empty(layers, splits, channels, dtype=accumulator)
    layer_strides, align = aligned_layer_strides(d, slope, x)
    # fmt: off
    launch(
        conv_gradient_kernel, (layers * splits * tiles,), d, slope, x, dw, db, dt,
        pixels, splits, height, width, *layer_strides, *d.stride()[1:], align,
        CHANNELS=channels, PIXELS=tile.pixels, ROWS=tile.rows, COLS=tile.cols, ACTIVATION=activation,
        FROM_KEPT=from_kept, PRECISION=dot_precision(d.dtype), STAGES=tile.stages, num_warps=tile.warps,
        num_stages=tile.stages,
    )
    # fmt: on
    gradient = d.new_empty(layers, channels, channels, 3, 3)
    gradient.view(layers, channels, channels, 9).copy_(dw.sum(1).transpose(2, 3))
    return gradient, db.sum(1).to(d.dtype)


def _scratch(like: Tensor, layers: int, convolutions: int) -> list[Tensor]:
    """What convolutions but the last write to, in turns."""
    return [empty_ordered_like(layers, like) for _ in range(min(2, convolutions - 1))]
