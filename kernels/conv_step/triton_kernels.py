"""Convolutions of the ODE step as Triton kernels: implicit products of pixels with taps × channels.

States are [layers, images, channels, rows, columns] in any memory order, best with the channels innermost. Pixels of
all images of a layer are counted through; n = tap · C + channel counts the nine taps' channels. Layer strides come in
units of ALIGN elements, so that the compiler knows what they are multiples of.
"""

# pyright: reportInvalidTypeForm=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

import triton
import triton.language as tl

from lpgpu.kernels.activations_fused import pull_back, saved_of, value, value_of_saved
from lpgpu.kernels.products_fused import product


@triton.jit
def offsets_of_pixels(pixel, height, width, stride_image, stride_row, stride_col):
    """Row and column of each pixel in its image, and where it lies in its layer."""
    y = pixel // width % height
    x = pixel % width
    return y, x, pixel // (width * height) * stride_image + y * stride_row + x * stride_col


@triton.jit
def taps_of(
    n, y, x, height, width, stride_channel, stride_row, stride_col, CHANNELS: tl.constexpr, SIGN: tl.constexpr
):  # fmt: skip
    """Where, from each pixel, the operand of each n lies, and whether that is within the image."""
    tap = n // CHANNELS
    dy = SIGN * (tap // 3 - 1)
    dx = SIGN * (tap % 3 - 1)
    to_y = y[:, None] + dy[None, :]
    to_x = x[:, None] + dx[None, :]
    inside = (to_y >= 0) & (to_y < height) & (to_x >= 0) & (to_x < width) & (n < 9 * CHANNELS)[None, :]
    return dy * stride_row + dx * stride_col + n % CHANNELS * stride_channel, inside


_LAYER_STRIDES = ["x_layer", "slope_layer", "w_layer", "b_layer", "saved_layer", "base_layer", "out_layer"]
_LAYER_STRIDES += ["rhs_layer", "delta_layer", "anchor_layer"]


@triton.jit(do_not_specialize=["pixels", "pixel_tiles", "height", "width", *_LAYER_STRIDES])
def conv_step_kernel(
    x, slope, w, b, saved, base, out, rhs, delta, anchors,
    dt: tl.float64,
    pixels, pixel_tiles, height, width,
    x_layer, slope_layer, w_layer, b_layer, saved_layer, base_layer, out_layer, rhs_layer, delta_layer, anchor_layer,
    stride_image: tl.constexpr, stride_channel: tl.constexpr, stride_row: tl.constexpr, stride_col: tl.constexpr,
    w_in: tl.constexpr, w_out: tl.constexpr, w_row: tl.constexpr, w_col: tl.constexpr, b_channel: tl.constexpr,
    ALIGN: tl.constexpr,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr, COLS: tl.constexpr, SUMMED: tl.constexpr,
    ACTIVATION: tl.constexpr, ADJOINT: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One tile of pixels × channels of one convolution of one layer, with what comes before and after it.

    forward:  a = g(K ∗ x + b), `saved` written where given;
    adjoint:  a = g′ ⊙ Kᵀ(g′ ⊙ x), the inner slope from `slope`, the outer from `saved`, each where given;
    then, where there is a `base` u:  out = u + Δt a + δ ⊙ (u − anchor) + right-hand side;  else out = a.
    """
    acc: tl.constexpr = tl.float64 if w.dtype.element_ty == tl.float64 else tl.float32
    sign: tl.constexpr = -1 if ADJOINT else 1
    col_tiles: tl.constexpr = (CHANNELS + COLS - 1) // COLS
    tile = tl.program_id(0)
    k = tl.cast(tile // (col_tiles * pixel_tiles), tl.int64) * ALIGN
    pixel = (tile // col_tiles % pixel_tiles) * PIXELS + tl.arange(0, PIXELS)
    c = (tile % col_tiles) * COLS + tl.arange(0, COLS)
    row, col, at_pixel = offsets_of_pixels(pixel, height, width, stride_image, stride_row, stride_col)
    x += k * x_layer
    w += k * w_layer

    a = tl.full((PIXELS, COLS), 0, acc)
    for block in tl.range(0, (9 * CHANNELS + SUMMED - 1) // SUMMED, num_stages=STAGES):
        n = block * SUMMED + tl.arange(0, SUMMED)
        to, there = taps_of(n, row, col, height, width, stride_channel, stride_row, stride_col, CHANNELS, sign)
        there &= (pixel < pixels)[:, None]
        operand_at = at_pixel[:, None] + to[None, :]
        operand = tl.load(x + operand_at, mask=there, other=0)
        if slope is not None:
            slope_there = tl.load(slope + k * slope_layer + operand_at, mask=there, other=0).to(acc)
            operand = pull_back(operand.to(acc), slope_there, ACTIVATION)
        tap = n // CHANNELS
        weight_at = n % CHANNELS * w_in + tap // 3 * w_row + tap % 3 * w_col
        weight_there = (n < 9 * CHANNELS)[:, None] & (c < CHANNELS)[None, :]
        weights = tl.load(w + weight_at[:, None] + c[None, :] * w_out, mask=weight_there, other=0)
        a = product(operand, weights, a, PRECISION)

    inside = (pixel < pixels)[:, None] & (c < CHANNELS)[None, :]
    at = at_pixel[:, None] + c[None, :] * stride_channel
    if ADJOINT:
        if saved is not None:
            a = pull_back(a, tl.load(saved + k * saved_layer + at, mask=inside, other=0).to(acc), ACTIVATION)
    else:
        if b is not None:
            a += tl.load(b + k * b_layer + c * b_channel, mask=c < CHANNELS, other=0).to(acc)[None, :]
        z = a
        a = value(z, ACTIVATION, w.dtype.element_ty.primitive_bitwidth > 16)
        if saved is not None:
            saved_here = saved_of(z, a, ACTIVATION).to(saved.dtype.element_ty)
            tl.store(saved + k * saved_layer + at, saved_here, mask=inside)
    if base is not None:
        state = tl.load(base + k * base_layer + at, mask=inside, other=0).to(acc)
        a = state + tl.full((1, 1), dt, acc) * a
        if delta is not None:
            d = tl.load(delta + k * delta_layer + at, mask=inside, other=0).to(acc)
            a += d * (state - tl.load(anchors + k * anchor_layer + at, mask=inside, other=0).to(acc))
        if rhs is not None:
            a += tl.load(rhs + k * rhs_layer + at, mask=inside, other=0).to(acc)
    if out is not None:
        tl.store(out + k * out_layer + at, a.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["pixels", "splits", "height", "width", "d_layer", "slope_layer", "x_layer"])
def conv_gradient_kernel(
    d, slope, x, dw, db,
    dt: tl.float64,
    pixels, splits, height, width,
    d_layer, slope_layer, x_layer,
    stride_image: tl.constexpr, stride_channel: tl.constexpr, stride_row: tl.constexpr, stride_col: tl.constexpr,
    ALIGN: tl.constexpr,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    ACTIVATION: tl.constexpr, FROM_SAVED: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Δt Σ_pixels d[pixel, c] x[pixel + tap, channel] over every `splits`-th block of pixels, and Δt Σ_pixels d.

    d is pulled back through g where `slope` is given; with FROM_SAVED `x` is what was saved of g, of which g is taken.
    `dw` is [layers, splits, C, 9 C], `db` [layers, splits, C], contiguous, in the accumulator's precision.
    """
    acc: tl.constexpr = tl.float64 if d.dtype.element_ty == tl.float64 else tl.float32
    row_tiles: tl.constexpr = (CHANNELS + ROWS - 1) // ROWS
    col_tiles: tl.constexpr = (9 * CHANNELS + COLS - 1) // COLS
    tile = tl.program_id(0) % (row_tiles * col_tiles)
    part = tl.program_id(0) // (row_tiles * col_tiles)  # layer · splits + split
    split = part % splits
    k = tl.cast(part // splits, tl.int64) * ALIGN
    c = (tile // col_tiles) * ROWS + tl.arange(0, ROWS)
    n = (tile % col_tiles) * COLS + tl.arange(0, COLS)
    d += k * d_layer
    x += k * x_layer

    total = tl.full((ROWS, COLS), 0, acc)
    bias_total = tl.full((ROWS,), 0, acc)
    for block in tl.range(split, (pixels + PIXELS - 1) // PIXELS, splits, num_stages=STAGES):
        pixel = block * PIXELS + tl.arange(0, PIXELS)
        row, col, at_pixel = offsets_of_pixels(pixel, height, width, stride_image, stride_row, stride_col)
        d_at = at_pixel[:, None] + c[None, :] * stride_channel
        d_there = (pixel < pixels)[:, None] & (c < CHANNELS)[None, :]
        d_here = tl.load(d + d_at, mask=d_there, other=0).to(acc)
        if slope is not None:
            slope_here = tl.load(slope + k * slope_layer + d_at, mask=d_there, other=0).to(acc)
            d_here = pull_back(d_here, slope_here, ACTIVATION)
        to, there = taps_of(n, row, col, height, width, stride_channel, stride_row, stride_col, CHANNELS, 1)
        there &= (pixel < pixels)[:, None]
        source = tl.load(x + at_pixel[:, None] + to[None, :], mask=there, other=0)
        if FROM_SAVED:  # outside the image it is 0, and so is g of it
            source = value_of_saved(source.to(acc), ACTIVATION).to(x.dtype.element_ty)
        total = product(tl.trans(d_here), source, total, PRECISION)
        bias_total += tl.sum(d_here, 0)
    step_size = tl.full((1,), dt, acc)
    dw += tl.cast(part, tl.int64) * CHANNELS * 9 * CHANNELS
    at = c[:, None] * (9 * CHANNELS) + n[None, :]
    tl.store(dw + at, total * step_size[:, None], mask=(c < CHANNELS)[:, None] & (n < 9 * CHANNELS)[None, :])
    if tile % col_tiles == 0:
        tl.store(db + tl.cast(part, tl.int64) * CHANNELS + c, bias_total * step_size, mask=c < CHANNELS)
