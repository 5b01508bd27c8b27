"""The dense ODE step as Triton kernels: a resident sweep of many steps, and one tiled step of many layers.

    forward:  x = u,             u⁺ = u + Δt g(W x + b)   (+ δ ⊙ (u − anchor) + right-hand side)
    adjoint:  x = g′(z) ⊙ λ,     λ⁺ = λ + Δt Wᵀ x         (likewise)

The two differ in what goes into the product and in what comes out of it; `w` is addressed by the strides of the index
summed over (`in`) and of the one that remains (`out`), which the adjoint exchanges. States are [layers, rows, width].

Layer strides come in units of ALIGN elements, so that the compiler knows what they are multiples of.
"""

# pyright: reportInvalidTypeForm=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

import triton
import triton.language as tl

from lpgpu.kernels.activations_fused import pull_back, saved_of, value
from lpgpu.kernels.products_fused import product

_LAYER_STRIDES = ["b_layer", "delta_layer", "anchor_layer", "saved_layer", "rhs_layer", "w_layer"]


@triton.jit(
    do_not_specialize=[
        *("batch", "tiles", "num_layers", "first", "interval", "steps", "u_layer", "products_layer"),
        *_LAYER_STRIDES,
    ]
)
def dense_sweep_kernel(
    u, w, b, saved, rhs, delta, anchors, products,
    dt: tl.float64,
    batch, tiles, num_layers, first, interval, steps,
    u_layer, w_layer, b_layer, saved_layer, rhs_layer, delta_layer, anchor_layer, products_layer,
    stride_row: tl.constexpr, stride_unit: tl.constexpr, w_in: tl.constexpr, w_out: tl.constexpr,
    b_unit: tl.constexpr, ALIGN: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, ACTIVATION: tl.constexpr, ADJOINT: tl.constexpr,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """All steps of a tile of rows of one interval: the state stays on chip, in the accumulator's precision."""
    acc: tl.constexpr = tl.float64 if u.dtype.element_ty == tl.float64 else tl.float32
    i = tl.program_id(0) // tiles
    row = (tl.program_id(0) % tiles) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, COLS)
    inside = (row < batch)[:, None] & (col < WIDTH)[None, :]
    at = row[:, None] * stride_row + col[None, :] * stride_unit
    weight_at = col[:, None] * w_in + col[None, :] * w_out
    weight_inside = (col < WIDTH)[:, None] & (col < WIDTH)[None, :]
    step_size = tl.full((1, 1), dt, acc)

    k0 = first + i * interval
    count = steps if REVERSE else tl.minimum(steps, num_layers - k0)
    source = k0 + 1 if REVERSE else k0
    state = tl.load(u + tl.cast(source, tl.int64) * ALIGN * u_layer + at, mask=inside, other=0).to(acc)
    if products is not None:
        diagonals = tl.full((ROWS, COLS), 1, acc)
    for j in tl.range(0, count, num_stages=STAGES):
        k = tl.cast(k0 - j if REVERSE else k0 + j, tl.int64) * ALIGN
        target = k if REVERSE else k + ALIGN
        weights = tl.load(w + k * w_layer + weight_at, mask=weight_inside, other=0)
        zero = tl.full((ROWS, COLS), 0, acc)
        if ADJOINT:
            slope_at = tl.load(saved + k * saved_layer + at, mask=inside, other=0).to(acc)
            change = product(pull_back(state, slope_at, ACTIVATION), weights, zero, PRECISION)
        else:
            z = product(state, weights, zero, PRECISION)
            if b is not None:
                z += tl.load(b + k * b_layer + col * b_unit, mask=col < WIDTH, other=0).to(acc)[None, :]
            change = value(z, ACTIVATION, w.dtype.element_ty.primitive_bitwidth > 16)
            slope_at = saved_of(z, change, ACTIVATION)
        if products is not None:
            own = tl.load(w + k * w_layer + col * (w_in + w_out), mask=col < WIDTH, other=0).to(acc)
            diagonal = 1 + step_size * pull_back(tl.broadcast_to(own[None, :], (ROWS, COLS)), slope_at, ACTIVATION)
        following = state + step_size * change
        if delta is not None:
            d = tl.load(delta + k * delta_layer + at, mask=inside, other=0).to(acc)
            following += d * (state - tl.load(anchors + k * anchor_layer + at, mask=inside, other=0).to(acc))
            if products is not None:
                diagonal += d
        if rhs is not None:
            following += tl.load(rhs + target * rhs_layer + at, mask=inside, other=0).to(acc)
        if products is not None:
            diagonals *= diagonal
        tl.store(u + target * u_layer + at, following.to(u.dtype.element_ty), mask=inside)
        state = following
    if products is not None:
        products += tl.cast(i, tl.int64) * ALIGN * products_layer
        tl.store(products + at, diagonals.to(products.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["batch", "row_tiles", "x_layer", "out_layer", "diagonal_layer", *_LAYER_STRIDES])
def dense_step_kernel(
    x, out, w, b, saved, rhs, delta, anchors, diagonal,
    dt: tl.float64,
    batch, row_tiles,
    x_layer, out_layer, w_layer, b_layer, saved_layer, rhs_layer, delta_layer, anchor_layer, diagonal_layer,
    stride_row: tl.constexpr, stride_unit: tl.constexpr, w_in: tl.constexpr, w_out: tl.constexpr,
    b_unit: tl.constexpr, ALIGN: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, SUMMED: tl.constexpr, ACTIVATION: tl.constexpr,
    ADJOINT: tl.constexpr, MULTIPLY: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One tile of one step of one layer.

    Forward, `saved` is written where given, `out` likewise; the adjoint reads `saved`, and without `out` only takes the
    diagonal. `diagonal` becomes that of the Jacobian plus δ, or with MULTIPLY is multiplied by it.
    """
    acc: tl.constexpr = tl.float64 if w.dtype.element_ty == tl.float64 else tl.float32
    col_tiles: tl.constexpr = (WIDTH + COLS - 1) // COLS
    tile = tl.program_id(
        0
    )  # the columns of a row tile side by side, then the row tiles of a layer: they share operands
    k = tl.cast(tile // (col_tiles * row_tiles), tl.int64) * ALIGN
    row = (tile // col_tiles % row_tiles) * ROWS + tl.arange(0, ROWS)
    col = (tile % col_tiles) * COLS + tl.arange(0, COLS)
    inside = (row < batch)[:, None] & (col < WIDTH)[None, :]
    at = row[:, None] * stride_row + col[None, :] * stride_unit
    step_size = tl.full((1, 1), dt, acc)
    w += k * w_layer

    if out is not None or not ADJOINT:
        z = tl.full((ROWS, COLS), 0, acc)
        for block in tl.range(0, (WIDTH + SUMMED - 1) // SUMMED, num_stages=STAGES):
            unit = block * SUMMED + tl.arange(0, SUMMED)
            there = (row < batch)[:, None] & (unit < WIDTH)[None, :]
            operand_at = row[:, None] * stride_row + unit[None, :] * stride_unit
            operand = tl.load(x + k * x_layer + operand_at, mask=there, other=0)
            if ADJOINT:
                slope = tl.load(saved + k * saved_layer + operand_at, mask=there, other=0).to(acc)
                operand = pull_back(operand.to(acc), slope, ACTIVATION)
            weight_inside = (unit < WIDTH)[:, None] & (col < WIDTH)[None, :]
            weights = tl.load(w + unit[:, None] * w_in + col[None, :] * w_out, mask=weight_inside, other=0)
            z = product(operand, weights, z, PRECISION)
    if ADJOINT:
        if diagonal is not None:
            slope_at = tl.load(saved + k * saved_layer + at, mask=inside, other=0).to(acc)
        if out is not None:
            change = z
    else:
        if b is not None:
            z += tl.load(b + k * b_layer + col * b_unit, mask=col < WIDTH, other=0).to(acc)[None, :]
        change = value(z, ACTIVATION, w.dtype.element_ty.primitive_bitwidth > 16)
        slope_at = saved_of(z, change, ACTIVATION)
        if saved is not None:
            tl.store(saved + k * saved_layer + at, slope_at.to(saved.dtype.element_ty), mask=inside)
    if delta is not None:
        d = tl.load(delta + k * delta_layer + at, mask=inside, other=0).to(acc)
    if out is not None:
        state = tl.load(x + k * x_layer + at, mask=inside, other=0).to(acc)
        following = state + step_size * change
        if delta is not None:
            following += d * (state - tl.load(anchors + k * anchor_layer + at, mask=inside, other=0).to(acc))
        if rhs is not None:
            following += tl.load(rhs + k * rhs_layer + at, mask=inside, other=0).to(acc)
        tl.store(out + k * out_layer + at, following.to(out.dtype.element_ty), mask=inside)
    if diagonal is not None:
        own = tl.load(w + col * (w_in + w_out), mask=col < WIDTH, other=0).to(acc)
        own_diagonal = 1 + step_size * pull_back(tl.broadcast_to(own[None, :], (ROWS, COLS)), slope_at, ACTIVATION)
        if delta is not None:
            own_diagonal += d
        diagonal += k * diagonal_layer
        if MULTIPLY:
            own_diagonal *= tl.load(diagonal + at, mask=inside, other=0).to(acc)
        tl.store(diagonal + at, own_diagonal.to(diagonal.dtype.element_ty), mask=inside)
