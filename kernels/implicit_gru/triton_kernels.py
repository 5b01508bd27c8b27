"""Forward Triton kernels: a whole sweep with W on chip, and one tiled step for widths where W does not fit.

Rows are those of all intervals: row r is batch row r mod B of interval r // B, at layer `first` + interval·(r // B) at
the sweep's start. Every tensor comes as its pointer there with two strides, from layer to layer and from batch row to
batch row; units are contiguous. `limit` bounds interval·(r // B) + j, so that a short last interval ends early.
"""

# pyright: reportInvalidTypeForm=false, reportArgumentType=false, reportPossiblyUnboundVariable=false

import triton
import triton.language as tl

from lpgpu.kernels.implicit_gru.triton_cell import (
    RUNTIME,
    added,
    after,
    bias,
    linearised,
    loaded,
    next_state,
    offsets_of,
    product,
    tanh,
    weight_diagonal,
    weights,
)


@triton.jit(do_not_specialize=RUNTIME)
def gru_sweep(
    h, out, x, w, b, g, delta, anchors, products, dt: tl.float64,
    h_layer, h_row, out_layer, out_row, x_layer, x_row, w_row, g_layer, g_row, delta_layer, delta_row,
    anchors_layer, anchors_row, products_layer, products_row,
    num_rows, swept_rows, batch, num_steps, interval, limit, direction,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr, ALIGNED: tl.constexpr,
    IMPLICIT: tl.constexpr, ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All steps of `ROWS` rows: W on chip, h in registers, each state stored.

    `h` is read once, at the first step's sources; `out` is the first step's targets, in the same tensor or another.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.arange(0, PADDED)
    i, row = (rows // batch).to(tl.int64), (rows % batch).to(tl.int64)
    swept, position = rows < swept_rows, i * interval
    columns = (units < WIDTH)[None, :]
    dt = tl.full([1, 1], dt, ACC)

    mask = (swept & (position < limit))[:, None] & columns
    h += offsets_of(position, row, h_layer, h_row, ALIGNED)
    h = tl.load(h + units[None, :], mask=mask, other=0).to(ACC)
    w_r = tl.trans(weights(w, 0, units, w_row, DOT, WIDTH, ALIGNED))
    w_z = tl.trans(weights(w, 1, units, w_row, DOT, WIDTH, ALIGNED))
    w_n = tl.trans(weights(w, 2, units, w_row, DOT, WIDTH, ALIGNED))
    b_r, b_z, b_n = bias(b, 0, units, h, WIDTH), bias(b, 1, units, h, WIDTH), bias(b, 2, units, h, WIDTH)
    if products is not None:
        total = tl.full([ROWS, PADDED], 1, ACC)
        diagonal_r = weight_diagonal(w, 0, units, w_row, h, WIDTH)
        diagonal_z = weight_diagonal(w, 1, units, w_row, h, WIDTH)
        diagonal_n = weight_diagonal(w, 2, units, w_row, h, WIDTH)

    out_offsets = offsets_of(position, row, out_layer, out_row, ALIGNED) + units[None, :]
    x_offsets = offsets_of(position, row, x_layer, x_row, ALIGNED) + units[None, :]
    g_offsets = offsets_of(position, row, g_layer, g_row, ALIGNED) + units[None, :]
    delta_offsets = offsets_of(position, row, delta_layer, delta_row, ALIGNED) + units[None, :]
    anchors_offsets = offsets_of(position, row, anchors_layer, anchors_row, ALIGNED) + units[None, :]
    for j in tl.range(0, num_steps, num_stages=STAGES):
        active = (swept & (position + j < limit))[:, None]
        mask = active & columns
        k = (direction * j).to(tl.int64)
        x_k = after(x, k, x_layer, ALIGNED)
        r = tl.sigmoid(loaded(x_k, x_offsets, mask, h) + b_r + product(h, w_r, DOT, PRECISION))
        q = product(h, w_n, DOT, PRECISION) + b_n
        n = tanh(loaded(x_k, x_offsets + 2 * WIDTH, mask, h) + r * q, DOT)
        z = tl.sigmoid(loaded(x_k, x_offsets + WIDTH, mask, h) + b_z + product(h, w_z, DOT, PRECISION))
        if delta is not None:
            delta_k = loaded(after(delta, k, delta_layer, ALIGNED), delta_offsets, mask, h)
        if products is not None:
            a, c_r, c_z, c_q, _ = linearised(h, r, z, n, q, dt, IMPLICIT)
            a += c_r * diagonal_r + c_z * diagonal_z + c_q * diagonal_n
            if delta is not None:
                a += delta_k
            total *= tl.where(active, a, 1)
        h_next = next_state(h, z, n, dt, IMPLICIT)
        if delta is not None:
            h_next += delta_k * (h - loaded(after(anchors, k, anchors_layer, ALIGNED), anchors_offsets, mask, h))
        if g is not None:
            h_next += loaded(after(g, k, g_layer, ALIGNED), g_offsets, mask, h)
        h = h_next
        tl.store(after(out, k, out_layer, ALIGNED) + out_offsets, h.to(out.dtype.element_ty), mask=mask)
    if products is not None:
        offsets = offsets_of(i, row, products_layer, products_row, ALIGNED) + units[None, :]
        mask = (rows < num_rows)[:, None] & columns
        tl.store(products + offsets, total.to(products.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def gru_step_tiled(
    h, out, x, w, b, g, delta, anchors, products, a_out, c_out, c_n_out, dt: tl.float64,
    h_layer, h_row, out_layer, out_row, x_layer, x_row, w_row, g_layer, g_row, delta_layer, delta_row,
    anchors_layer, anchors_row, products_layer, products_row,
    num_rows, swept_rows, batch, accumulates,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr,
    ALIGNED: tl.constexpr, IMPLICIT: tl.constexpr, ACC: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One step of `ROWS` rows in `COLUMNS` units: a product over all of W's inputs, the gates as its epilogue.

    Stores what is asked for: the next states `out`, `products` (times what was there, if it `accumulates`), and,
    contiguous, the decay `a_out`, alone or with the adjoint's other coefficients.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inputs = tl.arange(0, DEPTH)
    i, row = (rows // batch).to(tl.int64), (rows % batch).to(tl.int64)
    swept = (rows < swept_rows)[:, None]
    columns = (units < WIDTH)[None, :]
    dt = tl.full([1, 1], dt, ACC)

    h_rows = h + offsets_of(i, row, h_layer, h_row, ALIGNED)
    w_columns = w + tl.multiple_of(units.to(tl.int64)[None, :] * w_row, [ALIGNED, ALIGNED])
    gate = tl.multiple_of(tl.cast(WIDTH, tl.int64) * w_row, ALIGNED)
    y_r, y_z, q = tl.zeros([ROWS, COLUMNS], ACC), tl.zeros([ROWS, COLUMNS], ACC), tl.zeros([ROWS, COLUMNS], ACC)
    for start in tl.range(0, WIDTH, DEPTH, num_stages=STAGES):
        inner = start + inputs
        v = tl.load(h_rows + inner[None, :], mask=swept & (inner < WIDTH)[None, :], other=0)
        mask = (inner < WIDTH)[:, None] & columns
        w_block = w_columns + inner[:, None]
        y_r = added(y_r, v, tl.load(w_block, mask=mask, other=0), DOT, PRECISION)
        y_z = added(y_z, v, tl.load(w_block + gate, mask=mask, other=0), DOT, PRECISION)
        q = added(q, v, tl.load(w_block + 2 * gate, mask=mask, other=0), DOT, PRECISION)

    mask = swept & columns
    x_offsets = offsets_of(i, row, x_layer, x_row, ALIGNED) + units[None, :]
    r = tl.sigmoid(loaded(x, x_offsets, mask, q) + y_r + bias(b, 0, units, q, WIDTH))
    q += bias(b, 2, units, q, WIDTH)
    n = tanh(loaded(x, x_offsets + 2 * WIDTH, mask, q) + r * q, DOT)
    z = tl.sigmoid(loaded(x, x_offsets + WIDTH, mask, q) + y_z + bias(b, 1, units, q, WIDTH))
    state = loaded(h_rows, units[None, :], mask, q)
    if delta is not None:
        delta_k = loaded(delta, offsets_of(i, row, delta_layer, delta_row, ALIGNED) + units[None, :], mask, q)
    if products is not None or a_out is not None:
        a, c_r, c_z, c_q, c_n = linearised(state, r, z, n, q, dt, IMPLICIT)
    if a_out is not None:
        flat = rows.to(tl.int64)[:, None] * WIDTH + units[None, :]
        tl.store(a_out + flat, a.to(a_out.dtype.element_ty), mask=mask)
    if c_out is not None:
        flat_c = rows.to(tl.int64)[:, None] * (3 * WIDTH) + units[None, :]
        tl.store(c_n_out + flat, c_n.to(a_out.dtype.element_ty), mask=mask)
        tl.store(c_out + flat_c, c_r.to(a_out.dtype.element_ty), mask=mask)
        tl.store(c_out + flat_c + WIDTH, c_z.to(a_out.dtype.element_ty), mask=mask)
        tl.store(c_out + flat_c + 2 * WIDTH, c_q.to(a_out.dtype.element_ty), mask=mask)
    if products is not None:
        a += c_r * weight_diagonal(w, 0, units, w_row, q, WIDTH)
        a += c_z * weight_diagonal(w, 1, units, w_row, q, WIDTH)
        a += c_q * weight_diagonal(w, 2, units, w_row, q, WIDTH)
        if delta is not None:
            a += delta_k
        at = products + offsets_of(i, row, products_layer, products_row, ALIGNED) + units[None, :]
        within = (rows < num_rows)[:, None] & columns
        before = tl.load(at, mask=within & (accumulates != 0), other=1).to(ACC)
        tl.store(at, (before * tl.where(swept, a, 1)).to(products.dtype.element_ty), mask=within)
    if out is not None:
        anchors_offsets = offsets_of(i, row, anchors_layer, anchors_row, ALIGNED) + units[None, :]
        g_offsets = offsets_of(i, row, g_layer, g_row, ALIGNED) + units[None, :]
        out_offsets = offsets_of(i, row, out_layer, out_row, ALIGNED) + units[None, :]
        h_next = next_state(state, z, n, dt, IMPLICIT)
        if delta is not None:
            h_next += delta_k * (state - loaded(anchors, anchors_offsets, mask, q))
        if g is not None:
            h_next += loaded(g, g_offsets, mask, q)
        tl.store(out + out_offsets, h_next.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=[*RUNTIME, "diagonal_layer", "diagonal_row"])
def gru_at_zero(
    x, w, b, out, diagonal, dt: tl.float64,
    x_layer, x_row, w_row, out_layer, out_row, diagonal_layer, diagonal_row,
    num_rows, batch,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, ALIGNED: tl.constexpr, IMPLICIT: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """h⁺ and diag ∂h⁺/∂h at h = 0, where W h is nothing. A row is one step's batch row."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * PADDED + tl.arange(0, PADDED)
    i, row = (rows // batch).to(tl.int64), (rows % batch).to(tl.int64)
    mask = (rows < num_rows)[:, None] & (units < WIDTH)[None, :]
    zero = tl.zeros([ROWS, PADDED], ACC)
    dt = tl.full([1, 1], dt, ACC)
    x_offsets = offsets_of(i, row, x_layer, x_row, ALIGNED) + units[None, :]
    r = tl.sigmoid(loaded(x, x_offsets, mask, zero) + bias(b, 0, units, zero, WIDTH))
    z = tl.sigmoid(loaded(x, x_offsets + WIDTH, mask, zero) + bias(b, 1, units, zero, WIDTH))
    q = zero + bias(b, 2, units, zero, WIDTH)
    n = tanh(loaded(x, x_offsets + 2 * WIDTH, mask, zero) + r * q, ACC)
    a, c_r, c_z, c_q, _ = linearised(zero, r, z, n, q, dt, IMPLICIT)
    a += c_r * weight_diagonal(w, 0, units, w_row, zero, WIDTH)
    a += c_z * weight_diagonal(w, 1, units, w_row, zero, WIDTH)
    a += c_q * weight_diagonal(w, 2, units, w_row, zero, WIDTH)
    at = offsets_of(i, row, out_layer, out_row, ALIGNED) + units[None, :]
    tl.store(out + at, next_state(zero, z, n, dt, IMPLICIT).to(out.dtype.element_ty), mask=mask)
    at = offsets_of(i, row, diagonal_layer, diagonal_row, ALIGNED) + units[None, :]
    tl.store(diagonal + at, a.to(diagonal.dtype.element_ty), mask=mask)
