"""The cell's arithmetic on tiles held in registers, shared by all of the GRU's Triton kernels.

Tiles are [rows, units] in the accumulator's dtype: fp32, or fp64 where the tensors are. Units beyond the width hold
zeros: their inputs and weights are masked to zero, so every formula below stays finite there.
"""

# pyright: reportInvalidTypeForm=false, reportArgumentType=false, reportPossiblyUnboundVariable=false

import triton
import triton.language as tl

from lpgpu.kernels.activations_fused import tanh as exact_tanh

_OPERANDS = ["h", "lam", "out", "x", "a", "c", "c_n", "g", "delta", "anchors", "products"]
RUNTIME = [
    *(f"{name}_{stride}" for name in _OPERANDS for stride in ("layer", "row")), "w_row",
    "num_rows", "swept_rows", "batch", "num_steps", "interval", "limit", "direction", "accumulates",
]  # fmt: skip
"""Arguments whose values a kernel is not specialised for; what the strides have in common it is told as `ALIGNED`."""


@triton.jit
def tanh(x, DOT: tl.constexpr):
    """tanh x; with 16-bit operands 2σ(2x) − 1, off by 1e-7 at most, is as good and takes half the instructions."""
    if DOT.primitive_bitwidth == 16:  # pyright: ignore[reportAttributeAccessIssue]
        return 2 * tl.sigmoid(2 * x) - 1
    return exact_tanh(x, True)


@triton.jit
def next_state(h, z, n, dt, IMPLICIT: tl.constexpr):
    """h⁺. Where z is exactly 1, d is 0 and h⁺ exactly h."""
    d = dt * (1 - z)
    return (h + d * n) / (1 + d) if IMPLICIT else h + d * (n - h)


@triton.jit
def linearised(h, r, z, n, q, dt, IMPLICIT: tl.constexpr):
    """∂h⁺ by h past the gates, a; by W h + b in each gate, c_r, c_z, c_q; by n's pre-activation, c_n."""
    d = dt * (1 - z)
    if IMPLICIT:
        a = 1 / (1 + d)
        c_z = (h - n) * z * d * a * a
        c_n = d * a * (1 - n * n)
    else:
        a = 1 - d
        c_z = (h - n) * z * d
        c_n = d * (1 - n * n)
    return a, c_n * q * r * (1 - r), c_z, c_n * r, c_n


@triton.jit
def product(v, w, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """v w, summed in fp32 (in fp64 where the operands are)."""
    return tl.dot(v.to(DOT), w, input_precision=PRECISION)


@triton.jit
def added(y, v, w, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """y + v w."""
    return tl.dot(v.to(DOT), w.to(DOT), y, input_precision=PRECISION, out_dtype=y.dtype)


@triton.jit
def scaled(v_r, v_z, v_q):
    """The power of two that brings each row's largest magnitude into [1, 2), and its inverse, as columns."""
    largest = tl.maximum(tl.maximum(tl.abs(v_r), tl.abs(v_z)), tl.abs(v_q))
    exponent = tl.max(largest, 1)[:, None].to(tl.int32, bitcast=True) & 0x7F800000
    return (0x7F000000 - exponent).to(tl.float32, bitcast=True), exponent.to(tl.float32, bitcast=True)


@triton.jit
def transposed(y, c_r, c_z, c_q, lam, w_r, w_z, w_n, CHAINED: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """y + Wᵀ (c ⊙ λ), all gates. CHAINED: summed up in the matrix unit.

    c ⊙ λ has no bound: as an fp16 operand each row is scaled by a power of two, so that none becomes ∞ or 0.
    """
    if DOT == tl.float16:  # noqa: SIM300
        up, down = scaled(c_r * lam, c_z * lam, c_q * lam)  # pyright: ignore[reportGeneralTypeIssues]
        products = added(tl.zeros_like(y), c_r * lam * up, w_r, DOT, PRECISION)
        products = added(products, c_z * lam * up, w_z, DOT, PRECISION)
        y += down * added(products, c_q * lam * up, w_n, DOT, PRECISION)
    elif CHAINED:
        y = added(y, c_r * lam, w_r, DOT, PRECISION)
        y = added(y, c_z * lam, w_z, DOT, PRECISION)
        y = added(y, c_q * lam, w_n, DOT, PRECISION)
    else:
        y += product(c_r * lam, w_r, DOT, PRECISION)
        y += product(c_z * lam, w_z, DOT, PRECISION)
        y += product(c_q * lam, w_n, DOT, PRECISION)
    return y


@triton.jit
def offsets_of(layer, row, layer_stride, row_stride, ALIGNED: tl.constexpr):
    """Where these rows start, as a column; every stride is a multiple of `ALIGNED`."""
    return tl.multiple_of((layer * layer_stride + row * row_stride)[:, None], [ALIGNED, ALIGNED])


@triton.jit
def after(base, layers, layer_stride, ALIGNED: tl.constexpr):
    """`base` moved on by so many layers."""
    return base + tl.multiple_of(layers * layer_stride, ALIGNED)


@triton.jit
def loaded(base, offsets, mask, like):
    """The tile at `base` + `offsets`, zero where masked, in the dtype of `like`."""
    return tl.load(base + offsets, mask=mask, other=0).to(like.dtype)


@triton.jit
def bias(b, gate, units, like, WIDTH: tl.constexpr):
    """A gate's part of b as a row, zero where there is no bias."""
    if b is None:
        row = tl.zeros_like(units)[None, :].to(like.dtype)
    else:
        row = loaded(b, gate * WIDTH + units, units < WIDTH, like)[None, :]
    return row


@triton.jit
def weight_diagonal(w, gate, units, w_row, like, WIDTH: tl.constexpr):
    """The diagonal of a gate's W as a row."""
    offsets = (gate * WIDTH + units).to(tl.int64) * w_row + units
    return loaded(w, offsets, units < WIDTH, like)[None, :]


@triton.jit
def weights(w, gate, units, w_row, DOT: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr):
    """All of a gate's W, [out, in]."""
    rows = tl.multiple_of((gate * WIDTH + units).to(tl.int64)[:, None] * w_row, [ALIGNED, ALIGNED])
    offsets = rows + units[None, :]
    mask = (units < WIDTH)[:, None] & (units < WIDTH)[None, :]
    return tl.load(w + offsets, mask=mask, other=0).to(DOT)
