"""Adjoint Triton kernels: λ_target = a ⊙ λ + Wᵀ (c ⊙ λ) + …, geometry and addressing as in `triton_kernels`.

The sweeps hold W on chip. The linear one reads the coefficients a, c_r, c_z, c_q of every layer; the other computes
them from the states h that the layers started from, which takes a second product per gate and no stored arrays.
"""

# pyright: reportInvalidTypeForm=false, reportArgumentType=false, reportPossiblyUnboundVariable=false

import triton
import triton.language as tl

from lpgpu.kernels.implicit_gru.triton_cell import (
    RUNTIME,
    after,
    bias,
    linearised,
    loaded,
    offsets_of,
    product,
    tanh,
    transposed,
    weight_diagonal,
    weights,
)


@triton.jit(do_not_specialize=RUNTIME)
def gru_adjoint_sweep(
    lam, out, a, c, w, g, delta, anchors, products,
    lam_layer, lam_row, out_layer, out_row, a_layer, a_row, c_layer, c_row, w_row, g_layer, g_row, delta_layer,
    delta_row, anchors_layer, anchors_row, products_layer, products_row,
    num_rows, swept_rows, batch, num_steps, interval, limit, direction,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr, ALIGNED: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All steps of `ROWS` rows from stored coefficients: W on chip, λ in registers, each λ stored."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.arange(0, PADDED)
    i, row = (rows // batch).to(tl.int64), (rows % batch).to(tl.int64)
    swept, position = rows < swept_rows, i * interval
    columns = (units < WIDTH)[None, :]

    mask = (swept & (position < limit))[:, None] & columns
    lam = tl.load(lam + offsets_of(position, row, lam_layer, lam_row, ALIGNED) + units[None, :], mask=mask, other=0).to(
        ACC
    )
    w_r = weights(w, 0, units, w_row, DOT, WIDTH, ALIGNED)
    w_z = weights(w, 1, units, w_row, DOT, WIDTH, ALIGNED)
    w_n = weights(w, 2, units, w_row, DOT, WIDTH, ALIGNED)
    if products is not None:
        total = tl.full([ROWS, PADDED], 1, ACC)
        diagonal_r = weight_diagonal(w, 0, units, w_row, lam, WIDTH)
        diagonal_z = weight_diagonal(w, 1, units, w_row, lam, WIDTH)
        diagonal_n = weight_diagonal(w, 2, units, w_row, lam, WIDTH)

    out_offsets = offsets_of(position, row, out_layer, out_row, ALIGNED) + units[None, :]
    a_offsets = offsets_of(position, row, a_layer, a_row, ALIGNED) + units[None, :]
    c_offsets = offsets_of(position, row, c_layer, c_row, ALIGNED) + units[None, :]
    g_offsets = offsets_of(position, row, g_layer, g_row, ALIGNED) + units[None, :]
    delta_offsets = offsets_of(position, row, delta_layer, delta_row, ALIGNED) + units[None, :]
    anchors_offsets = offsets_of(position, row, anchors_layer, anchors_row, ALIGNED) + units[None, :]
    for j in tl.range(0, num_steps, num_stages=STAGES):
        active = (swept & (position + j < limit))[:, None]
        mask = active & columns
        k = (direction * j).to(tl.int64)
        c_k = after(c, k, c_layer, ALIGNED)
        c_r = loaded(c_k, c_offsets, mask, lam)
        c_z = loaded(c_k, c_offsets + WIDTH, mask, lam)
        c_q = loaded(c_k, c_offsets + 2 * WIDTH, mask, lam)
        a_k = loaded(after(a, k, a_layer, ALIGNED), a_offsets, mask, lam)
        if delta is not None:
            delta_k = loaded(after(delta, k, delta_layer, ALIGNED), delta_offsets, mask, lam)
        if products is not None:
            diagonal = a_k + c_r * diagonal_r + c_z * diagonal_z + c_q * diagonal_n
            if delta is not None:
                diagonal += delta_k
            total *= tl.where(active, diagonal, 1)
        lam_next = transposed(a_k * lam, c_r, c_z, c_q, lam, w_r, w_z, w_n, False, DOT, PRECISION)
        if delta is not None:
            lam_next += delta_k * (lam - loaded(after(anchors, k, anchors_layer, ALIGNED), anchors_offsets, mask, lam))
        if g is not None:
            lam_next += loaded(after(g, k, g_layer, ALIGNED), g_offsets, mask, lam)
        lam = lam_next
        tl.store(after(out, k, out_layer, ALIGNED) + out_offsets, lam.to(out.dtype.element_ty), mask=mask)
    if products is not None:
        offsets = offsets_of(i, row, products_layer, products_row, ALIGNED) + units[None, :]
        mask = (rows < num_rows)[:, None] & columns
        tl.store(products + offsets, total.to(products.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def gru_adjoint_recomputed(
    lam, out, h, x, w, b, g, delta, anchors, products, dt: tl.float64,
    lam_layer, lam_row, out_layer, out_row, h_layer, h_row, x_layer, x_row, w_row, g_layer, g_row, delta_layer,
    delta_row, anchors_layer, anchors_row, products_layer, products_row,
    num_rows, swept_rows, batch, num_steps, interval, limit, direction,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr, ALIGNED: tl.constexpr,
    IMPLICIT: tl.constexpr, ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All steps of `ROWS` rows from the states `h` that the layers started from: the gates are computed again."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.arange(0, PADDED)
    i, row = (rows // batch).to(tl.int64), (rows % batch).to(tl.int64)
    swept, position = rows < swept_rows, i * interval
    columns = (units < WIDTH)[None, :]
    dt = tl.full([1, 1], dt, ACC)

    mask = (swept & (position < limit))[:, None] & columns
    lam = tl.load(lam + offsets_of(position, row, lam_layer, lam_row, ALIGNED) + units[None, :], mask=mask, other=0).to(
        ACC
    )
    w_r = weights(w, 0, units, w_row, DOT, WIDTH, ALIGNED)
    w_z = weights(w, 1, units, w_row, DOT, WIDTH, ALIGNED)
    w_n = weights(w, 2, units, w_row, DOT, WIDTH, ALIGNED)
    b_r, b_z, b_n = bias(b, 0, units, lam, WIDTH), bias(b, 1, units, lam, WIDTH), bias(b, 2, units, lam, WIDTH)
    if products is not None:
        total = tl.full([ROWS, PADDED], 1, ACC)
        diagonal_r = weight_diagonal(w, 0, units, w_row, lam, WIDTH)
        diagonal_z = weight_diagonal(w, 1, units, w_row, lam, WIDTH)
        diagonal_n = weight_diagonal(w, 2, units, w_row, lam, WIDTH)

    out_offsets = offsets_of(position, row, out_layer, out_row, ALIGNED) + units[None, :]
    h_offsets = offsets_of(position, row, h_layer, h_row, ALIGNED) + units[None, :]
    x_offsets = offsets_of(position, row, x_layer, x_row, ALIGNED) + units[None, :]
    g_offsets = offsets_of(position, row, g_layer, g_row, ALIGNED) + units[None, :]
    delta_offsets = offsets_of(position, row, delta_layer, delta_row, ALIGNED) + units[None, :]
    anchors_offsets = offsets_of(position, row, anchors_layer, anchors_row, ALIGNED) + units[None, :]
    for j in tl.range(0, num_steps, num_stages=STAGES):
        active = (swept & (position + j < limit))[:, None]
        mask = active & columns
        k = (direction * j).to(tl.int64)
        x_k = after(x, k, x_layer, ALIGNED)
        state = loaded(after(h, k, h_layer, ALIGNED), h_offsets, mask, lam)
        r = tl.sigmoid(loaded(x_k, x_offsets, mask, lam) + b_r + product(state, tl.trans(w_r), DOT, PRECISION))
        q = product(state, tl.trans(w_n), DOT, PRECISION) + b_n
        n = tanh(loaded(x_k, x_offsets + 2 * WIDTH, mask, lam) + r * q, DOT)
        y_z = product(state, tl.trans(w_z), DOT, PRECISION) + b_z
        z = tl.sigmoid(loaded(x_k, x_offsets + WIDTH, mask, lam) + y_z)
        a, c_r, c_z, c_q, _ = linearised(state, r, z, n, q, dt, IMPLICIT)
        if delta is not None:
            delta_k = loaded(after(delta, k, delta_layer, ALIGNED), delta_offsets, mask, lam)
        if products is not None:
            diagonal = a + c_r * diagonal_r + c_z * diagonal_z + c_q * diagonal_n
            if delta is not None:
                diagonal += delta_k
            total *= tl.where(active, diagonal, 1)
        lam_next = transposed(a * lam, c_r, c_z, c_q, lam, w_r, w_z, w_n, False, DOT, PRECISION)
        if delta is not None:
            lam_next += delta_k * (lam - loaded(after(anchors, k, anchors_layer, ALIGNED), anchors_offsets, mask, lam))
        if g is not None:
            lam_next += loaded(after(g, k, g_layer, ALIGNED), g_offsets, mask, lam)
        lam = lam_next
        tl.store(after(out, k, out_layer, ALIGNED) + out_offsets, lam.to(out.dtype.element_ty), mask=mask)
    if products is not None:
        offsets = offsets_of(i, row, products_layer, products_row, ALIGNED) + units[None, :]
        mask = (rows < num_rows)[:, None] & columns
        tl.store(products + offsets, total.to(products.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def gru_adjoint_tiled(
    lam, out, a, c, w, g, delta, anchors, products,
    lam_layer, lam_row, out_layer, out_row, a_layer, a_row, c_layer, c_row, w_row, g_layer, g_row, delta_layer,
    delta_row, anchors_layer, anchors_row, products_layer, products_row,
    num_rows, swept_rows, batch, accumulates,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr,
    ALIGNED: tl.constexpr, ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One step of `ROWS` rows in `COLUMNS` units: a product over the units of all gates, the rest as its epilogue."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    outputs = tl.arange(0, DEPTH)
    i, row = (rows // batch).to(tl.int64), (rows % batch).to(tl.int64)
    swept = (rows < swept_rows)[:, None]
    columns = (units < WIDTH)[None, :]

    lam_rows = lam + offsets_of(i, row, lam_layer, lam_row, ALIGNED)
    c_rows = c + offsets_of(i, row, c_layer, c_row, ALIGNED)
    gate = tl.multiple_of(tl.cast(WIDTH, tl.int64) * w_row, ALIGNED)
    lam_next = tl.zeros([ROWS, COLUMNS], ACC)
    for start in tl.range(0, WIDTH, DEPTH, num_stages=STAGES):
        inner = start + outputs
        row_mask = swept & (inner < WIDTH)[None, :]
        w_mask = (inner < WIDTH)[:, None] & columns
        v = tl.load(lam_rows + inner[None, :], mask=row_mask, other=0).to(ACC)
        c_block = c_rows + inner[None, :]
        w_block = w + tl.multiple_of(inner.to(tl.int64)[:, None] * w_row, [ALIGNED, ALIGNED]) + units[None, :]
        c_r = tl.load(c_block, mask=row_mask, other=0).to(ACC)
        c_z = tl.load(c_block + WIDTH, mask=row_mask, other=0).to(ACC)
        c_q = tl.load(c_block + 2 * WIDTH, mask=row_mask, other=0).to(ACC)
        w_r = tl.load(w_block, mask=w_mask, other=0)
        w_z = tl.load(w_block + gate, mask=w_mask, other=0)
        w_n = tl.load(w_block + 2 * gate, mask=w_mask, other=0)
        lam_next = transposed(lam_next, c_r, c_z, c_q, v, w_r, w_z, w_n, True, DOT, PRECISION)

    mask = swept & columns
    state = loaded(lam_rows, units[None, :], mask, lam_next)
    a_k = loaded(a, offsets_of(i, row, a_layer, a_row, ALIGNED) + units[None, :], mask, lam_next)
    if delta is not None:
        delta_k = loaded(delta, offsets_of(i, row, delta_layer, delta_row, ALIGNED) + units[None, :], mask, state)
    if products is not None:
        at = c_rows + units[None, :]
        diagonal = a_k + loaded(at, 0, mask, state) * weight_diagonal(w, 0, units, w_row, state, WIDTH)
        diagonal += loaded(at, WIDTH, mask, state) * weight_diagonal(w, 1, units, w_row, state, WIDTH)
        diagonal += loaded(at, 2 * WIDTH, mask, state) * weight_diagonal(w, 2, units, w_row, state, WIDTH)
        if delta is not None:
            diagonal += delta_k
        at = products + offsets_of(i, row, products_layer, products_row, ALIGNED) + units[None, :]
        within = (rows < num_rows)[:, None] & columns
        before = tl.load(at, mask=within & (accumulates != 0), other=1).to(ACC)
        tl.store(at, (before * tl.where(swept, diagonal, 1)).to(products.dtype.element_ty), mask=within)
    if out is not None:
        anchors_offsets = offsets_of(i, row, anchors_layer, anchors_row, ALIGNED) + units[None, :]
        g_offsets = offsets_of(i, row, g_layer, g_row, ALIGNED) + units[None, :]
        out_offsets = offsets_of(i, row, out_layer, out_row, ALIGNED) + units[None, :]
        lam_next += a_k * state
        if delta is not None:
            lam_next += delta_k * (state - loaded(anchors, anchors_offsets, mask, state))
        if g is not None:
            lam_next += loaded(g, g_offsets, mask, state)
        tl.store(out + out_offsets, lam_next.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def gru_gate_gradients(
    lam, c, c_n, by_x, by_q,
    lam_layer, lam_row, c_layer, c_row, c_n_layer, c_n_row,
    num_rows, batch,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """c ⊙ λ with c_n ⊙ λ in the n gate's place, and c_q ⊙ λ; both contiguous. A row is one step's batch row."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * PADDED + tl.arange(0, PADDED)
    i, row = (rows // batch).to(tl.int64), (rows % batch).to(tl.int64)
    mask = (rows < num_rows)[:, None] & (units < WIDTH)[None, :]
    lam_value = tl.load(lam + offsets_of(i, row, lam_layer, lam_row, ALIGNED) + units[None, :], mask=mask, other=0)
    at_c = c + offsets_of(i, row, c_layer, c_row, ALIGNED) + units[None, :]
    at_c_n = c_n + offsets_of(i, row, c_n_layer, c_n_row, ALIGNED) + units[None, :]
    at_x = by_x + rows.to(tl.int64)[:, None] * (3 * WIDTH) + units[None, :]
    at_q = by_q + rows.to(tl.int64)[:, None] * WIDTH + units[None, :]
    tl.store(at_x, tl.load(at_c, mask=mask, other=0) * lam_value, mask=mask)
    tl.store(at_x + WIDTH, tl.load(at_c + WIDTH, mask=mask, other=0) * lam_value, mask=mask)
    tl.store(at_q, tl.load(at_c + 2 * WIDTH, mask=mask, other=0) * lam_value, mask=mask)
    tl.store(at_x + 2 * WIDTH, tl.load(at_c_n, mask=mask, other=0) * lam_value, mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def gru_diagonal(
    a, c, w, out,
    a_layer, a_row, c_layer, c_row, w_row, out_layer, out_row,
    num_rows, batch,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, ALIGNED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """a + Σ over the gates of c ⊙ diag W. A row is one step's batch row."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * PADDED + tl.arange(0, PADDED)
    i, row = (rows // batch).to(tl.int64), (rows % batch).to(tl.int64)
    mask = (rows < num_rows)[:, None] & (units < WIDTH)[None, :]
    at_c = c + offsets_of(i, row, c_layer, c_row, ALIGNED) + units[None, :]
    at_a = a + offsets_of(i, row, a_layer, a_row, ALIGNED) + units[None, :]
    diagonal = tl.load(at_a, mask=mask, other=0).to(ACC)
    for gate in tl.static_range(3):  # pyright: ignore[reportGeneralTypeIssues]
        c_g = tl.load(at_c + gate * WIDTH, mask=mask, other=0).to(ACC)
        diagonal += c_g * weight_diagonal(w, gate, units, w_row, diagonal, WIDTH)
    at = out + offsets_of(i, row, out_layer, out_row, ALIGNED) + units[None, :]
    tl.store(at, diagonal.to(out.dtype.element_ty), mask=mask)
