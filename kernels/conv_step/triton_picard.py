"""Picard iterations over convolutional layers as a Triton kernel.

    forward:  v_{j+1} = v_j + Δt g(K_j ∗ x_j + b_j)            adjoint:  v_j = v_{j+1} + Δt K_jᵀ (g′_j ⊙ x_j)

x_j is v⁰_j, or what an inner convolution made of it, which the same kernel takes for all layers side by side. Where all
x_j are the same (forward, first iteration), LAYERS layers enter one product, their channels side by side. Arguments as
in `triton_kernels`; each tensor of layers has a stride from run to run (`_layer`) and one from layer to layer within a
run (`_step`), both in units of ALIGN elements.
"""

# pyright: reportInvalidTypeForm=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

import triton
import triton.language as tl

from lpgpu.kernels.activations_fused import pull_back, value
from lpgpu.kernels.conv_step.triton_kernels import offsets_of_pixels, taps_of
from lpgpu.kernels.products_fused import product

_STRIDES = [
    "x_layer", "x_step", "slope_layer", "slope_step", "w_layer", "w_step", "b_layer", "b_step", "saved_layer",
    "saved_step", "out_layer", "out_step", "base_layer", "rhs_layer", "following_layer", "following_step",
]  # fmt: skip


@triton.jit
def _convolved(
    x, slope, w, b, pixel_inside, y, at_col, at_pixel, layer, c, span, height, width, w_step, b_step,
    stride_channel, stride_row, stride_col, w_in, w_out, w_row, w_col, b_channel,
    ALIGN: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr, COLS: tl.constexpr, SUMMED: tl.constexpr,
    ACTIVATION: tl.constexpr, ADJOINT: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """g(K ∗ x + b), or Kᵀ (g′ ⊙ x), in the channels c of the layers beside each of them."""
    a = tl.full((PIXELS, COLS), 0, ACC)
    for block in tl.range(0, (9 * CHANNELS + SUMMED - 1) // SUMMED, num_stages=STAGES):
        n = block * SUMMED + tl.arange(0, SUMMED)
        sign: tl.constexpr = -1 if ADJOINT else 1
        to, there = taps_of(n, y, at_col, height, width, stride_channel, stride_row, stride_col, CHANNELS, sign)
        there &= pixel_inside[:, None]
        operand_at = at_pixel[:, None] + to[None, :]
        operand = tl.load(x + operand_at, mask=there, other=0)
        if slope is not None:
            operand = pull_back(operand.to(ACC), tl.load(slope + operand_at, mask=there, other=0).to(ACC), ACTIVATION)
        tap = n // CHANNELS
        weight_at = (n % CHANNELS * w_in + tap // 3 * w_row + tap % 3 * w_col)[:, None] + c[None, :] * w_out
        weight_there = (n < 9 * CHANNELS)[:, None] & ((c < CHANNELS) & (layer < span))[None, :]
        weights = tl.load(w + weight_at + (layer * w_step * ALIGN)[None, :], mask=weight_there, other=0)
        a = product(operand, weights, a, PRECISION)
    if not ADJOINT:
        if b is not None:
            bias_at = layer * b_step * ALIGN + c * b_channel
            a += tl.load(b + bias_at, mask=(c < CHANNELS) & (layer < span), other=0).to(ACC)[None, :]
        a = value(a, ACTIVATION, w.dtype.element_ty.primitive_bitwidth > 16)
    return a


@triton.jit(do_not_specialize=["pixels", "pixel_tiles", "height", "width", "span", *_STRIDES])
def conv_picard_kernel(
    x, slope, w, b, saved, out, base, rhs, following,
    dt: tl.float64,
    pixels, pixel_tiles, height, width, span,
    x_layer, x_step, slope_layer, slope_step, w_layer, w_step, b_layer, b_step, saved_layer, saved_step,
    out_layer, out_step, base_layer, rhs_layer, following_layer, following_step,
    stride_image: tl.constexpr, stride_channel: tl.constexpr, stride_row: tl.constexpr, stride_col: tl.constexpr,
    w_in: tl.constexpr, w_out: tl.constexpr, w_row: tl.constexpr, w_col: tl.constexpr, b_channel: tl.constexpr,
    ALIGN: tl.constexpr,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr, COLS: tl.constexpr, SUMMED: tl.constexpr, LAYERS: tl.constexpr,
    ACTIVATION: tl.constexpr, ADJOINT: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One convolution of a tile of pixels and channels of one run.

    With a `base` u it ends an iteration: adds up all layers of the run, stores the state that each starts from to
    `following`, and with the right-hand side the last one to `out`, each where given. Else it is an inner convolution
    of LAYERS layers, to `out`, and in the adjoint times the slope that `saved` has.
    """
    acc: tl.constexpr = tl.float64 if w.dtype.element_ty == tl.float64 else tl.float32
    col_tiles: tl.constexpr = (CHANNELS + COLS - 1) // COLS
    layer_tiles = (span + LAYERS - 1) // LAYERS
    tile = tl.program_id(0)
    first_col = (tile % col_tiles) * COLS
    pixel = (tile // col_tiles % pixel_tiles) * PIXELS + tl.arange(0, PIXELS)
    run = tile // (col_tiles * pixel_tiles)
    if base is None:
        first_block, blocks = run % layer_tiles, 1
        run = run // layer_tiles
    else:
        first_block, blocks = 0, layer_tiles
    k = tl.cast(run, tl.int64) * ALIGN
    side_by_side = tl.arange(0, LAYERS * COLS)
    c_all, layer_of = first_col + side_by_side % COLS, side_by_side // COLS
    c = first_col + tl.arange(0, COLS)
    y, at_col, at_pixel = offsets_of_pixels(pixel, height, width, stride_image, stride_row, stride_col)
    inside = (pixel < pixels)[:, None] & (c < CHANNELS)[None, :]
    at = at_pixel[:, None] + c[None, :] * stride_channel
    step_size = tl.full((1, 1), dt, acc)

    w += k * w_layer
    bias = None if b is None else b + k * b_layer
    if base is not None:
        state = tl.load(base + k * base_layer + at, mask=inside, other=0).to(acc)
    for block in range(first_block, first_block + blocks):
        layer = tl.cast(span - 1 - block if ADJOINT and LAYERS == 1 else block * LAYERS, tl.int64)
        if following is not None:
            following_at = k * following_layer + layer * following_step * ALIGN + at
            tl.store(following + following_at, state.to(following.dtype.element_ty), mask=inside)
        layers = layer + layer_of
        slopes = None if slope is None else slope + k * slope_layer + layer * slope_step * ALIGN
        a = _convolved(
            x + k * x_layer + layer * x_step * ALIGN, slopes, w, bias, pixel < pixels, y, at_col, at_pixel, layers,
            c_all, span, height, width, w_step, b_step,
            stride_channel, stride_row, stride_col, w_in, w_out, w_row, w_col, b_channel,
            ALIGN, CHANNELS, PIXELS, LAYERS * COLS, SUMMED, ACTIVATION, ADJOINT, PRECISION, STAGES, acc,
        )  # fmt: skip
        if base is not None:
            if LAYERS > 1:
                a = tl.where((layers < span)[None, :], a, 0)
                a = tl.sum(tl.reshape(a, (PIXELS, LAYERS, COLS)), 1)
            state += step_size * a
        else:
            all_at = at_pixel[:, None] + c_all[None, :] * stride_channel
            all_inside = (pixel < pixels)[:, None] & ((c_all < CHANNELS) & (layers < span))[None, :]
            if saved is not None:
                of_layers = k * saved_layer + (layers * saved_step * ALIGN)[None, :]
                slope_here = tl.load(saved + of_layers + all_at, mask=all_inside, other=0).to(acc)
                a = pull_back(a, slope_here, ACTIVATION)
            of_layers = k * out_layer + (layers * out_step * ALIGN)[None, :]
            tl.store(out + of_layers + all_at, a.to(out.dtype.element_ty), mask=all_inside)
    if base is not None and out is not None:
        if rhs is not None:
            state += tl.load(rhs + k * rhs_layer + at, mask=inside, other=0).to(acc)
        tl.store(out + k * out_layer + at, state.to(out.dtype.element_ty), mask=inside)
