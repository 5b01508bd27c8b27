"""Picard iterations over steps of a GRU as Triton kernels: one iteration of many runs, and a whole march of order 1.

    forward:  v_{j+1} = a_j ⊙ v_j + (1 − a_j) ⊙ n_j,  the gates at v⁰_j
    adjoint:  v_j = a_j ⊙ v_{j+1} + Wᵀ (c_j ⊙ v⁰_{j+1})

In the first iteration all v⁰_j are the same state: forward one product W v⁰ then serves all S steps of a run. Rows and
addressing are as in `triton_kernels`, with a third stride, from step to step of a run (`_step`); `before` and
`following` are contiguous, [run, step, batch, width].
"""

# pyright: reportInvalidTypeForm=false, reportArgumentType=false, reportPossiblyUnboundVariable=false
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from lpgpu.kernels.implicit_gru.triton_cell import (
    RUNTIME,
    added,
    after,
    bias,
    loaded,
    next_state,
    offsets_of,
    product,
    tanh,
    weights,
)

_RUNTIME = [*RUNTIME, "x_step", "a_step", "c_step", "span"]


@triton.jit
def _gates(x, x_offsets, mask, y_r, y_z, q, like, DOT: tl.constexpr, WIDTH: tl.constexpr):
    """z and n."""
    r = tl.sigmoid(loaded(x, x_offsets, mask, like) + y_r)
    n = tanh(loaded(x, x_offsets + 2 * WIDTH, mask, like) + r * q, DOT)
    return tl.sigmoid(loaded(x, x_offsets + WIDTH, mask, like) + y_z), n


@triton.jit
def _gate_products(
    v, swept, units, w, w_row, y_r, y_z, q,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr, ALIGNED: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """W v of each gate in these units, from the rows at v."""
    inputs = tl.arange(0, DEPTH)
    columns = (units < WIDTH)[None, :]
    w_columns = w + tl.multiple_of(units.to(tl.int64)[None, :] * w_row, [ALIGNED, ALIGNED])
    gate = tl.multiple_of(tl.cast(WIDTH, tl.int64) * w_row, ALIGNED)
    for start in tl.range(0, WIDTH, DEPTH, num_stages=STAGES):
        inner = start + inputs
        v_block = tl.load(v + inner[None, :], mask=swept & (inner < WIDTH)[None, :], other=0)
        mask = (inner < WIDTH)[:, None] & columns
        w_block = w_columns + inner[:, None]
        y_r = added(y_r, v_block, tl.load(w_block, mask=mask, other=0), DOT, PRECISION)
        y_z = added(y_z, v_block, tl.load(w_block + gate, mask=mask, other=0), DOT, PRECISION)
        q = added(q, v_block, tl.load(w_block + 2 * gate, mask=mask, other=0), DOT, PRECISION)
    return y_r, y_z, q


@triton.jit(do_not_specialize=_RUNTIME)
def gru_picard(
    h, out, x, w, b, g, before, following, dt: tl.float64,
    h_layer, h_row, out_layer, out_row, x_layer, x_row, x_step, w_row, g_layer, g_row,
    num_rows, batch, span,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr,
    ALIGNED: tl.constexpr, IMPLICIT: tl.constexpr, ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One iteration of `ROWS` rows in `COLUMNS` units, through all steps of their run.

    v⁰ is `before`, or h for all steps where that is absent. Stores the state that each step starts from to `following`,
    and with g the last one to `out`, where given.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    i, row = (rows // batch).to(tl.int64), (rows % batch).to(tl.int64)
    swept = (rows < num_rows)[:, None]
    mask = swept & (units < WIDTH)[None, :]
    dt = tl.full([1, 1], dt, ACC)
    h_rows = h + offsets_of(i, row, h_layer, h_row, ALIGNED)
    x_offsets = offsets_of(i, row, x_layer, x_row, ALIGNED) + units[None, :]
    scratch = ((i * span * batch + row) * WIDTH)[:, None]
    zero = tl.zeros([ROWS, COLUMNS], ACC)
    b_r, b_z, b_n = zero + bias(b, 0, units, zero, WIDTH), zero + bias(b, 1, units, zero, WIDTH), zero
    b_n += bias(b, 2, units, zero, WIDTH)
    if before is None:
        y_r, y_z, q = _gate_products(
            h_rows, swept, units, w, w_row, b_r, b_z, b_n, WIDTH, DEPTH, STAGES, ALIGNED, DOT, PRECISION
        )  # fmt: skip
    state = loaded(h_rows, units[None, :], mask, zero)
    for j in tl.range(0, span, num_stages=STAGES if before is None else 1):
        at_step = tl.cast(j, tl.int64) * batch * WIDTH + scratch
        if before is not None:
            y_r, y_z, q = _gate_products(
                before + at_step, swept, units, w, w_row, b_r, b_z, b_n,
                WIDTH, DEPTH, STAGES, ALIGNED, DOT, PRECISION,
            )  # fmt: skip
        if following is not None:
            tl.store(following + at_step + units[None, :], state.to(following.dtype.element_ty), mask=mask)
        x_j = after(x, tl.cast(j, tl.int64), x_step, ALIGNED)
        z, n = _gates(x_j, x_offsets, mask, y_r, y_z, q, state, DOT, WIDTH)
        state = next_state(state, z, n, dt, IMPLICIT)
    if out is not None:
        if g is not None:
            state += loaded(g, offsets_of(i, row, g_layer, g_row, ALIGNED) + units[None, :], mask, state)
        out_offsets = offsets_of(i, row, out_layer, out_row, ALIGNED) + units[None, :]
        tl.store(out + out_offsets, state.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_RUNTIME)
def gru_picard_sweep(
    h, out, x, w, b, g, dt: tl.float64,
    h_layer, h_row, out_layer, out_row, x_layer, x_row, x_step, w_row, g_layer, g_row,
    num_rows, batch, span, num_steps, interval, limit, direction,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr, ALIGNED: tl.constexpr,
    IMPLICIT: tl.constexpr, ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All Picard steps, of order 1, of `ROWS` rows: W on chip, h in registers, the state after each run stored."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.arange(0, PADDED)
    i, row = (rows // batch).to(tl.int64), (rows % batch).to(tl.int64)
    swept, position = rows < num_rows, i * interval
    columns = (units < WIDTH)[None, :]
    dt = tl.full([1, 1], dt, ACC)

    mask = (swept & (position < limit))[:, None] & columns
    h += offsets_of(position, row, h_layer, h_row, ALIGNED)
    h = tl.load(h + units[None, :], mask=mask, other=0).to(ACC)
    w_r = tl.trans(weights(w, 0, units, w_row, DOT, WIDTH, ALIGNED))
    w_z = tl.trans(weights(w, 1, units, w_row, DOT, WIDTH, ALIGNED))
    w_n = tl.trans(weights(w, 2, units, w_row, DOT, WIDTH, ALIGNED))
    b_r, b_z, b_n = bias(b, 0, units, h, WIDTH), bias(b, 1, units, h, WIDTH), bias(b, 2, units, h, WIDTH)

    out_offsets = offsets_of(position, row, out_layer, out_row, ALIGNED) + units[None, :]
    x_offsets = offsets_of(position, row, x_layer, x_row, ALIGNED) + units[None, :]
    g_offsets = offsets_of(position, row, g_layer, g_row, ALIGNED) + units[None, :]
    for t in tl.range(0, num_steps, num_stages=1):
        mask = (swept & (position + t < limit))[:, None] & columns
        k = (direction * t).to(tl.int64)
        x_k = after(x, k, x_layer, ALIGNED)
        y_r = product(h, w_r, DOT, PRECISION) + b_r
        y_z = product(h, w_z, DOT, PRECISION) + b_z
        q = product(h, w_n, DOT, PRECISION) + b_n
        for j in tl.range(0, span, num_stages=STAGES):
            x_j = after(x_k, tl.cast(j, tl.int64), x_step, ALIGNED)
            z, n = _gates(x_j, x_offsets, mask, y_r, y_z, q, h, DOT, WIDTH)
            h = next_state(h, z, n, dt, IMPLICIT)
        if g is not None:
            h += loaded(after(g, k, g_layer, ALIGNED), g_offsets, mask, h)
        tl.store(after(out, k, out_layer, ALIGNED) + out_offsets, h.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_RUNTIME)
def gru_adjoint_picard(
    lam, out, a, c, w, g, before, following,
    lam_layer, lam_row, out_layer, out_row, a_layer, a_row, a_step, c_layer, c_row, c_step, w_row, g_layer, g_row,
    num_rows, batch, span,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr,
    ALIGNED: tl.constexpr, ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `gru_picard`, by the transposed Jacobians from the last step of the run to its first."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inputs = tl.arange(0, DEPTH)
    i, row = (rows // batch).to(tl.int64), (rows % batch).to(tl.int64)
    swept = (rows < num_rows)[:, None]
    columns = (units < WIDTH)[None, :]
    mask = swept & columns
    lam_rows = lam + offsets_of(i, row, lam_layer, lam_row, ALIGNED)
    a_offsets = offsets_of(i, row, a_layer, a_row, ALIGNED) + units[None, :]
    c_offsets = offsets_of(i, row, c_layer, c_row, ALIGNED)
    scratch = ((i * span * batch + row) * WIDTH)[:, None]
    w_rows = w + units[None, :]
    gate = tl.multiple_of(tl.cast(WIDTH, tl.int64) * w_row, ALIGNED)
    if DEPTH >= WIDTH:  # W's columns stay on chip
        w_block = w_rows + tl.multiple_of(inputs.to(tl.int64)[:, None] * w_row, [ALIGNED, ALIGNED])
        there, w_there = swept & (inputs < WIDTH)[None, :], (inputs < WIDTH)[:, None] & columns
        w_r = tl.load(w_block, mask=w_there, other=0)
        w_z = tl.load(w_block + gate, mask=w_there, other=0)
        w_n = tl.load(w_block + 2 * gate, mask=w_there, other=0)
    state = loaded(lam_rows, units[None, :], mask, tl.zeros([ROWS, COLUMNS], ACC))
    for back in tl.range(0, span, num_stages=STAGES if DEPTH >= WIDTH else 1):
        j = tl.cast(span - 1 - back, tl.int64)
        at_step = j * batch * WIDTH + scratch
        if following is not None:
            tl.store(following + at_step + units[None, :], state.to(following.dtype.element_ty), mask=mask)
        v = lam_rows
        if before is not None:
            v = before + at_step
        c_j = after(c, j, c_step, ALIGNED) + c_offsets
        state *= loaded(after(a, j, a_step, ALIGNED), a_offsets, mask, state)
        if DEPTH >= WIDTH:
            v_block = loaded(v, inputs[None, :], there, state)
            at_c = inputs[None, :]
            state = added(state, loaded(c_j, at_c, there, state) * v_block, w_r, DOT, PRECISION)
            state = added(state, loaded(c_j, at_c + WIDTH, there, state) * v_block, w_z, DOT, PRECISION)
            state = added(state, loaded(c_j, at_c + 2 * WIDTH, there, state) * v_block, w_n, DOT, PRECISION)
        else:
            for start in tl.range(0, WIDTH, DEPTH, num_stages=STAGES):
                inner = start + inputs
                within, w_within = swept & (inner < WIDTH)[None, :], (inner < WIDTH)[:, None] & columns
                v_block = loaded(v, inner[None, :], within, state)
                w_block = w_rows + tl.multiple_of(inner.to(tl.int64)[:, None] * w_row, [ALIGNED, ALIGNED])
                for of_gate in tl.static_range(3):
                    c_g = loaded(c_j, inner[None, :] + of_gate * WIDTH, within, state)
                    w_g = tl.load(w_block + of_gate * gate, mask=w_within, other=0)
                    state = added(state, c_g * v_block, w_g, DOT, PRECISION)
    if out is not None:
        if g is not None:
            state += loaded(g, offsets_of(i, row, g_layer, g_row, ALIGNED) + units[None, :], mask, state)
        out_offsets = offsets_of(i, row, out_layer, out_row, ALIGNED) + units[None, :]
        tl.store(out + out_offsets, state.to(out.dtype.element_ty), mask=mask)
