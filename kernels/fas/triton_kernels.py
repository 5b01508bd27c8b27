"""FAS arithmetic as Triton kernels: one pass over the states each. Within a layer all tensors are contiguous."""

# pyright: reportInvalidTypeForm=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["blocks_per_layer", "blocks", "u_layers", "first", "stop"])
def fas_residual_kernel(
    phi, u, coarse_phi, partial_sums,
    size, blocks_per_layer, blocks, u_layers, first, stop,
    phi_layer, u_layer, coarse_layer,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Σ (φ − u)² over the layers of u, of every P-th block in fp64, P programs.

    Where `coarse_phi` is given, its layers are `first` … `stop` − 1 of φ's, and it becomes φ − coarse_phi.
    """
    acc: tl.constexpr = tl.float64 if phi.dtype.element_ty == tl.float64 else tl.float32
    total = tl.full((BLOCK,), 0, tl.float64)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        k = tl.cast(block // blocks_per_layer, tl.int64)
        at = (block % blocks_per_layer) * BLOCK + tl.arange(0, BLOCK)
        phi_here = tl.load(phi + k * phi_layer + at, mask=at < size, other=0)
        u_here = tl.load(u + k * u_layer + at, mask=(at < size) & (k < u_layers), other=0)
        r = phi_here.to(tl.float64) - u_here.to(tl.float64)
        total += tl.where(k < u_layers, r * r, 0)
        if coarse_phi is not None:
            there = (at < size) & (k >= first) & (k < stop)
            to = coarse_phi + (k - first) * coarse_layer + at
            difference = phi_here.to(acc) - tl.load(to, mask=there, other=0).to(acc)
            tl.store(to, difference.to(coarse_phi.dtype.element_ty), mask=there)
    tl.store(partial_sums + tl.program_id(0), tl.sum(total, 0))


@triton.jit(do_not_specialize=["count"])
def fas_sum_kernel(partial_sums, out, count, BLOCK: tl.constexpr):
    """The sum of up to BLOCK numbers, in one program."""
    at = tl.arange(0, BLOCK)
    tl.store(out, tl.sum(tl.load(partial_sums + at, mask=at < count, other=0), 0))


@triton.jit(do_not_specialize=["blocks_per_layer"])
def fas_right_hand_side_kernel(
    coarse_phi, phi, size, blocks_per_layer, coarse_layer, phi_layer, BLOCK: tl.constexpr
):  # fmt: skip
    """coarse_phi becomes φ − coarse_phi."""
    acc: tl.constexpr = tl.float64 if phi.dtype.element_ty == tl.float64 else tl.float32
    k = tl.cast(tl.program_id(0) // blocks_per_layer, tl.int64)
    at = (tl.program_id(0) % blocks_per_layer) * BLOCK + tl.arange(0, BLOCK)
    to = coarse_phi + k * coarse_layer + at
    phi_here = tl.load(phi + k * phi_layer + at, mask=at < size, other=0).to(acc)
    difference = phi_here - tl.load(to, mask=at < size, other=0).to(acc)
    tl.store(to, difference.to(coarse_phi.dtype.element_ty), mask=at < size)
