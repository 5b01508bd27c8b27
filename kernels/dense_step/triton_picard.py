"""Picard iterations over dense layers as Triton kernels: one iteration of many runs, and a whole march of order 1.

    forward:  v_{j+1} = v_j + Δt g(W_j v⁰_j + b_j)            adjoint:  v_j = v_{j+1} + Δt W_jᵀ (g′_j ⊙ v⁰_{j+1})

Where all v⁰_j are the same (the first iteration), LAYERS layers enter one product: forward their outputs side by side,
in the adjoint their inputs, which it sums over. Arguments as in `triton_kernels`; each tensor of layers has a stride
from run to run (`_layer`) and one from layer to layer within a run (`_step`), both in units of ALIGN elements.
"""

# pyright: reportInvalidTypeForm=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

import triton
import triton.language as tl

from lpgpu.kernels.activations_fused import pull_back, value
from lpgpu.kernels.products_fused import product

_STRIDES = [
    "u_layer", "out_layer", "rhs_layer", "w_layer", "w_step", "b_layer", "b_step", "saved_layer", "saved_step",
    "before_layer", "before_step", "following_layer", "following_step",
]  # fmt: skip


@triton.jit
def _products(
    z, source, w, saved, row, row_inside, unit, layer_of_unit, col, layer_of_col, span,
    w_step, saved_step, stride_row, stride_unit, w_in, w_out,
    ALIGN: tl.constexpr, WIDTH: tl.constexpr, ACTIVATION: tl.constexpr, ADJOINT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """z + x W over these units: of all layers the same x, or in the adjoint g′ ⊙ x of each."""
    there = row_inside[:, None] & (unit < WIDTH)[None, :]
    operand_at = row[:, None] * stride_row + unit[None, :] * stride_unit
    operand = tl.load(source + operand_at, mask=there, other=0)
    weight_at = unit[:, None] * w_in + col[None, :] * w_out
    weight_there = (unit < WIDTH)[:, None] & (col < WIDTH)[None, :]
    if ADJOINT:
        slope_at = operand_at + layer_of_unit[None, :] * saved_step * ALIGN
        slope = tl.load(saved + slope_at, mask=there & (layer_of_unit < span)[None, :], other=0).to(z.dtype)
        operand = pull_back(operand.to(z.dtype), slope, ACTIVATION)
        weight_at += layer_of_unit[:, None] * w_step * ALIGN
        weight_there &= (layer_of_unit < span)[:, None]
    else:
        weight_at += layer_of_col[None, :] * w_step * ALIGN
        weight_there &= (layer_of_col < span)[None, :]
    return product(operand, tl.load(w + weight_at, mask=weight_there, other=0), z, PRECISION)


@triton.jit
def _summed_change(
    z, b, col, layer_of_col, span, b_step, b_unit,
    ALIGN: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, LAYERS: tl.constexpr,
    ACTIVATION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Σ g(z + b) over LAYERS layers, as far as there are such."""
    if b is not None:
        bias_at = layer_of_col * b_step * ALIGN + col * b_unit
        z += tl.load(b + bias_at, mask=(col < WIDTH) & (layer_of_col < span), other=0).to(z.dtype)[None, :]
    change = value(z, ACTIVATION, EXACT)
    if LAYERS > 1:
        change = tl.where((layer_of_col < span)[None, :], change, 0)
        change = tl.sum(tl.reshape(change, (ROWS, LAYERS, COLS)), 1)
    return change


@triton.jit(do_not_specialize=["batch", "row_tiles", "span", *_STRIDES])
def dense_picard_kernel(
    u, out, w, b, saved, rhs, before, following,
    dt: tl.float64,
    batch, row_tiles, span,
    u_layer, out_layer, w_layer, w_step, b_layer, b_step, saved_layer, saved_step, rhs_layer, before_layer, before_step,
    following_layer, following_step,
    stride_row: tl.constexpr, stride_unit: tl.constexpr, w_in: tl.constexpr, w_out: tl.constexpr,
    b_unit: tl.constexpr, ALIGN: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, SUMMED: tl.constexpr, LAYERS: tl.constexpr,
    ACTIVATION: tl.constexpr, ADJOINT: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One iteration of a tile of rows and units of one run.

    v⁰ is `before`, [run, layer, ...], or u for all layers where that is absent. Stores the state that each layer starts
    from to `following`, for the next iteration, and with the right-hand side the last one to `out`, where given.
    """
    acc: tl.constexpr = tl.float64 if w.dtype.element_ty == tl.float64 else tl.float32
    col_tiles: tl.constexpr = (WIDTH + COLS - 1) // COLS
    unit_blocks: tl.constexpr = (WIDTH + SUMMED - 1) // SUMMED
    products: tl.constexpr = COLS if ADJOINT else LAYERS * COLS
    depth: tl.constexpr = LAYERS * SUMMED if ADJOINT else SUMMED
    tile = tl.program_id(0)
    k = tl.cast(tile // (col_tiles * row_tiles), tl.int64) * ALIGN
    row = (tile // col_tiles % row_tiles) * ROWS + tl.arange(0, ROWS)
    first_col = (tile % col_tiles) * COLS
    col = first_col + tl.arange(0, COLS)
    inside = (row < batch)[:, None] & (col < WIDTH)[None, :]
    at = row[:, None] * stride_row + col[None, :] * stride_unit
    step_size = tl.full((1, 1), dt, acc)
    summed = tl.arange(0, depth)
    side_by_side = tl.arange(0, products)
    z_col = first_col + side_by_side % COLS

    w += k * w_layer
    if b is not None:
        b += k * b_layer
    if saved is not None:
        saved += k * saved_layer
    state = tl.load(u + k * u_layer + at, mask=inside, other=0).to(acc)
    for block in tl.range(0, (span + LAYERS - 1) // LAYERS, num_stages=STAGES if unit_blocks == 1 else 1):
        layer = tl.cast(span - 1 - block if ADJOINT and LAYERS == 1 else block * LAYERS, tl.int64)
        if following is not None:
            following_at = k * following_layer + layer * following_step * ALIGN + at
            tl.store(following + following_at, state.to(u.dtype.element_ty), mask=inside)
        source = u + k * u_layer
        if before is not None:
            source = before + k * before_layer + layer * before_step * ALIGN
        z = tl.full((ROWS, products), 0, acc)
        if unit_blocks == 1:
            z = _products(
                z, source, w, saved, row, row < batch, summed % SUMMED, layer + summed // SUMMED,
                z_col, layer + side_by_side // COLS, span, w_step, saved_step, stride_row, stride_unit, w_in, w_out,
                ALIGN, WIDTH, ACTIVATION, ADJOINT, PRECISION,
            )  # fmt: skip
        else:
            for unit_block in tl.range(0, unit_blocks, num_stages=STAGES):
                z = _products(
                    z, source, w, saved, row, row < batch, unit_block * SUMMED + summed % SUMMED,
                    layer + summed // SUMMED, z_col, layer + side_by_side // COLS, span, w_step, saved_step,
                    stride_row, stride_unit, w_in, w_out, ALIGN, WIDTH, ACTIVATION, ADJOINT, PRECISION,
                )  # fmt: skip
        if not ADJOINT:
            z = _summed_change(
                z, b, z_col, layer + side_by_side // COLS, span, b_step, b_unit,
                ALIGN, WIDTH, ROWS, COLS, LAYERS, ACTIVATION, w.dtype.element_ty.primitive_bitwidth > 16,
            )  # fmt: skip
        state += step_size * z
    if out is not None:
        if rhs is not None:
            state += tl.load(rhs + k * rhs_layer + at, mask=inside, other=0).to(acc)
        tl.store(out + k * out_layer + at, state.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["batch", "row_tiles", "span", "num_layers", "first", "interval", "steps", *_STRIDES])
def dense_picard_sweep_kernel(
    u, w, b, saved, rhs,
    dt: tl.float64,
    batch, row_tiles, span, num_layers, first, interval, steps,
    u_layer, w_layer, w_step, b_layer, b_step, saved_layer, saved_step, rhs_layer,
    stride_row: tl.constexpr, stride_unit: tl.constexpr, w_in: tl.constexpr, w_out: tl.constexpr,
    b_unit: tl.constexpr, ALIGN: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, LAYERS: tl.constexpr,
    ACTIVATION: tl.constexpr, ADJOINT: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """All steps, of order 1, of a tile of rows of one interval of runs: the state stays on chip, W_j streams by."""
    acc: tl.constexpr = tl.float64 if u.dtype.element_ty == tl.float64 else tl.float32
    i = tl.program_id(0) // row_tiles
    row = (tl.program_id(0) % row_tiles) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, COLS)
    n = tl.arange(0, LAYERS * COLS)  # the units of LAYERS layers side by side
    unit, layer_of = n % COLS, n // COLS
    inside = (row < batch)[:, None] & (col < WIDTH)[None, :]
    at = row[:, None] * stride_row + col[None, :] * stride_unit
    step_size = tl.full((1, 1), dt, acc)

    k0 = first + i * interval
    count = steps if ADJOINT else tl.minimum(steps, num_layers - k0)
    source = k0 + 1 if ADJOINT else k0
    state = tl.load(u + tl.cast(source, tl.int64) * ALIGN * u_layer + at, mask=inside, other=0).to(acc)
    for t in tl.range(0, count, num_stages=1):
        k = tl.cast(k0 - t if ADJOINT else k0 + t, tl.int64) * ALIGN
        change = tl.full((ROWS, COLS), 0, acc)
        if ADJOINT:
            spread = tl.reshape(tl.broadcast_to(state[:, None, :], (ROWS, LAYERS, COLS)), (ROWS, LAYERS * COLS))
            slope_inside = (row < batch)[:, None] & (unit < WIDTH)[None, :]
            slope_at = row[:, None] * stride_row + unit[None, :] * stride_unit
        for block in tl.range(0, (span + LAYERS - 1) // LAYERS, num_stages=STAGES):
            layer = tl.cast(block * LAYERS, tl.int64) + layer_of
            there = (layer < span) & (unit < WIDTH)
            if ADJOINT:
                weight_at = (layer * w_step * ALIGN + unit * w_in)[:, None] + col[None, :] * w_out
                weights = tl.load(
                    w + k * w_layer + weight_at, mask=there[:, None] & (col < WIDTH)[None, :], other=0
                )  # fmt: skip
                of_layer = slope_at + (layer * saved_step * ALIGN)[None, :]
                slope = tl.load(saved + k * saved_layer + of_layer, mask=slope_inside & there[None, :], other=0)
                change = product(pull_back(spread, slope.to(acc), ACTIVATION), weights, change, PRECISION)
            else:
                weight_at = col[:, None] * w_in + (layer * w_step * ALIGN + unit * w_out)[None, :]
                weights = tl.load(
                    w + k * w_layer + weight_at, mask=(col < WIDTH)[:, None] & there[None, :], other=0
                )  # fmt: skip
                z = product(state, weights, tl.full((ROWS, LAYERS * COLS), 0, acc), PRECISION)
                of_run = None if b is None else b + k * b_layer
                change += _summed_change(
                    z, of_run, unit, layer, span, b_step, b_unit,
                    ALIGN, WIDTH, ROWS, COLS, LAYERS, ACTIVATION, w.dtype.element_ty.primitive_bitwidth > 16,
                )  # fmt: skip
        state += step_size * change
        target = k if ADJOINT else k + ALIGN
        if rhs is not None:
            state += tl.load(rhs + target * rhs_layer + at, mask=inside, other=0).to(acc)
        tl.store(u + target * u_layer + at, state.to(u.dtype.element_ty), mask=inside)
