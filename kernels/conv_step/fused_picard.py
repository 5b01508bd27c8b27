"""Launchers of Picard steps over convolutional layers: a launch for each convolution of a layer and each iteration."""

import math

from torch import Tensor

from lpgpu.kernels.conv_step import tiles
from lpgpu.kernels.conv_step.layers import Filter, Saved
from lpgpu.kernels.conv_step.triton_picard import conv_picard_kernel
from lpgpu.kernels.launch import Launch, Operands, launch
from lpgpu.kernels.layout import ordered_like
from lpgpu.kernels.picard import empty_runs, runs_ordered_like
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import Sweep

Runs = tuple[list[Filter], list[Tensor] | None]
"""The filters of the runs' layers, and for the adjoint what was saved of each convolution there."""


def picard(u: Tensor, filters: list[Filter], dt: float, activation: str, order: int, out: Tensor) -> None:
    """In one launch for each convolution and iteration."""
    _iterate((ordered_like(u, out), out, None), (filters, None), dt, activation, order)


def adjoint_picard(
    lam: Tensor, saved: Saved, filters: list[Filter], dt: float, activation: str, order: int, out: Tensor
) -> None:  # fmt: skip
    """In one launch for each convolution and iteration."""
    ordered = [runs_ordered_like(each, out) for each in saved.stacked()]
    _iterate((ordered_like(lam, out), out, None), (filters, ordered), dt, activation, order)


def picard_sweep(
    u: Tensor, filters: list[Filter], dt: float, activation: str, order: int, sweep: Sweep, g: Tensor | None = None
) -> None:
    """In one launch for each convolution, step and iteration."""
    _march(u, (filters, None), dt, activation, order, sweep, g)


def adjoint_picard_sweep(
    lam: Tensor, saved: Saved, filters: list[Filter], dt: float, activation: str, order: int, sweep: Sweep,
    g: Tensor | None = None,
) -> None:  # fmt: skip
    """In one launch for each convolution, step and iteration."""
    ordered = [runs_ordered_like(each, lam) for each in saved.stacked()]
    _march(lam, (filters, ordered), dt, activation, order, sweep, g)


def _march(
    u: Tensor, runs: Runs, dt: float, activation: str, order: int, sweep: Sweep, g: Tensor | None
) -> None:  # fmt: skip
    filters, saved = runs
    g = None if g is None else ordered_like(g, u)
    for step in sweep.marched():
        here = [each.of_layers(step.layers) for each in filters]
        saved_here = None if saved is None else [each[step.layers] for each in saved]
        states = u[step.sources], u[step.targets], None if g is None else g[step.targets]
        _iterate(states, (here, saved_here), dt, activation, order)


def _iterate(
    states: tuple[Tensor, Tensor, Tensor | None], runs: Runs, dt: float, activation: str, order: int
) -> None:  # fmt: skip
    """`states`: where the runs start, where they lead to, and g there."""
    u, out, g = states
    filters, saved = runs
    count, span = filters[0].w.shape[:2]
    scratch = [empty_runs(out, count, span) for _ in range(min(2, order - 1))]
    within = [empty_runs(out, count, span) for _ in range(min(2, len(filters) - 1))]
    before, adjoint = None, saved is not None
    for iteration in range(order):
        last = iteration + 1 == order
        following = None if last else scratch[iteration % 2]
        x = u.unsqueeze(1).expand(-1, span, *u.shape[1:]) if before is None else before
        ends = out if last else None, u, g if last else None, following
        for i, (w, b) in enumerate(reversed(filters) if adjoint else filters):
            inner = i + 1 < len(filters)
            after = (within[i % 2], None, None, None) if inner else ends
            slopes = (
                (None, None) if saved is None else (saved[-1] if i == 0 else None, saved[-2 - i] if inner else None)
            )
            operands = (x, slopes[0], w, None if adjoint else b, slopes[1], *after)
            launch(_plan, operands, (activation, adjoint, dot_precision(u.dtype)), (dt,))
            x = within[i % 2] if inner else x
        before = following


def _plan(operands: Operands, activation: str, adjoint: bool, precision: str) -> Launch:
    """See `conv_picard_kernel`."""
    x, slope, w, b, saved, out, base, rhs, following = operands
    runs, span, images, channels, height, width = x.shape
    shared = x.stride(1) == 0 and not adjoint and following is None
    tile = tiles.picard_tile(channels, x.dtype, shared)
    pixels = images * height * width
    pixel_tiles = -(-pixels // tile.pixels)
    programs = runs * pixel_tiles * -(-channels // tile.cols) * (1 if base is not None else -(-span // tile.layers))
    pairs = [_of_runs(t) for t in (x, slope, w, b, saved)]
    ends = (_of_runs(out) if base is None else (_of_run(out), 0), (_of_run(base), _of_run(rhs)), _of_runs(following))
    strides = [stride for pair in (*pairs, *ends) for stride in pair]
    align = math.gcd(16, *strides)
    w_out, w_in = (w.stride(3), w.stride(2)) if adjoint else (w.stride(2), w.stride(3))
    numbers = (
        pixels, pixel_tiles, height, width, span, *(stride // align for stride in strides),
        x.stride(2), x.stride(3), x.stride(4), x.stride(5), w_in, w_out, w.stride(4), w.stride(5),
        0 if b is None else b.stride(2), align,
    )  # fmt: skip
    options = {
        "CHANNELS": channels, "PIXELS": tile.pixels, "COLS": tile.cols, "SUMMED": tile.summed, "LAYERS": tile.layers,
        "ACTIVATION": activation, "ADJOINT": adjoint, "PRECISION": precision, "STAGES": tile.stages,
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    return Launch(conv_picard_kernel, (programs,), numbers, options)


def _of_runs(t: Tensor | None) -> tuple[int, int]:
    return (0, 0) if t is None else (t.stride(0), t.stride(1))


def _of_run(t: Tensor | None) -> int:
    return 0 if t is None else t.stride(0)
