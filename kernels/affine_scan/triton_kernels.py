"""The affine scan as a Triton kernel: the state stays in registers, and each array is read or written once."""

# pyright: reportInvalidTypeForm=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["size", "blocks_per_interval", "steps"])
def affine_scan_kernel(
    v, phi, anchors, decay,
    size, blocks_per_interval, steps,
    v_interval, v_step, phi_interval, phi_step, anchor_interval, anchor_step, decay_interval, decay_step,
    BLOCK: tl.constexpr, REVERSE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """All steps of BLOCK entries of one interval. `decay` is absent for D = 1."""
    acc: tl.constexpr = tl.float64 if v.dtype.element_ty == tl.float64 else tl.float32
    interval = tl.cast(tl.program_id(0) // blocks_per_interval, tl.int64)
    at = (tl.program_id(0) % blocks_per_interval) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    v += interval * v_interval + at
    phi += interval * phi_interval + at
    anchors += interval * anchor_interval + at
    if decay is not None:
        decay += interval * decay_interval + at
    start = tl.cast(steps if REVERSE else 0, tl.int64)
    state = tl.load(v + start * v_step, mask=inside, other=0).to(acc)
    for i in tl.range(0, steps, num_stages=STAGES):
        j = tl.cast(steps - 1 - i if REVERSE else i, tl.int64)
        change = state - tl.load(anchors + j * anchor_step, mask=inside, other=0).to(acc)
        if decay is not None:
            change *= tl.load(decay + j * decay_step, mask=inside, other=0).to(acc)
        state = tl.load(phi + j * phi_step, mask=inside, other=0).to(acc) + change
        target = j if REVERSE else j + 1
        tl.store(v + target * v_step, state.to(v.dtype.element_ty), mask=inside)
