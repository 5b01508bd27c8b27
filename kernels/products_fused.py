"""Matrix products in Triton kernels, by the one knob of `precision`."""

import triton
import triton.language as tl


@triton.jit
def product(a, b, accumulator, precision: tl.constexpr):
    """accumulator + a b; `a` is rounded to the dtype of `b`, and both to bf16 where `precision` says so."""
    if precision == "bf16":
        c = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), accumulator)
    else:
        c = tl.dot(a.to(b.dtype), b, accumulator, input_precision=precision, out_dtype=accumulator.dtype)
    return c
