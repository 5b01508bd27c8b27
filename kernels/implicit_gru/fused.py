"""Launchers of the GRU's Triton kernels: geometry becomes strides, the capacity rule picks tier and tiles.

Arguments are as in the package's public functions and already checked; nothing here waits for the device.
"""

import math
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from lpgpu.kernels.devices import arch_of
from lpgpu.kernels.dispatch import launch
from lpgpu.kernels.implicit_gru import fused_adjoint, fused_forward
from lpgpu.kernels.implicit_gru.capacity import Kind, Tier, tier
from lpgpu.kernels.implicit_gru.fused_arguments import (
    dot_operands,
    marching,
    rows_of,
    starts_of,
    strided,
    strided_terms,
)
from lpgpu.kernels.implicit_gru.fused_configurations import configurations
from lpgpu.kernels.implicit_gru.reference import Coefficients
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

__all__ = [
    "adjoint_sweep",
    "adjoint_sweep_recomputed",
    "advance",
    "configurations",
    "diagonal",
    "gate_gradients",
    "linearise",
    "sweep",
    "tier_of",
    "vjp",
]


def tier_of(h: Tensor, kind: Kind, steps: int | None, num_rows: int, terms: Terms = NO_TERMS) -> Tier:
    """The tier that an operation on states like `h` runs in."""
    return tier(
        h.shape[-1], h.dtype, arch_of(h.device), precision=dot_precision(h.dtype), kind=kind, steps=steps,
        num_rows=num_rows, corrected=terms.delta is not None, right_hand_side=terms.g is not None,
    )  # fmt: skip


def sweep(
    h: Tensor,
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    dt: float,
    formulation: str,
    geometry: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """One launch in the resident tier, one per step in the tiled tier."""
    num_rows, swept_rows = rows_of(h, geometry, terms)
    chosen = tier_of(h, "forward", geometry.steps, num_rows, terms)
    if chosen.kind == "resident":
        first, source, target = starts_of(geometry)
        _launch(
            fused_forward.gru_sweep, (_tiles(num_rows, chosen.rows),), h.shape[-1],
            *strided(h[source:]), *strided(h[target:]), *strided(x[first:]), w, w.stride(0), b,
            *strided_terms(geometry, terms), num_rows, swept_rows, h.shape[1], *marching(geometry), dt,
            **_resident(chosen, h), IMPLICIT=formulation == "implicit",
        )  # fmt: skip
        return
    for j, step in enumerate(geometry.marched()):
        _step_tiled(
            h[step.sources], x[step.layers], w, b, dt, formulation, chosen, out=h[step.targets],
            terms=terms.at(step), accumulates=j > 0,
        )  # fmt: skip


def advance(
    h: Tensor,
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    dt: float,
    formulation: str,
    out: Tensor,
    diagonal: Tensor | None,
    decay: Tensor | None,
) -> None:
    """One launch."""
    chosen = tier_of(h, "forward", 1, h.shape[0] * h.shape[1])
    a = None if decay is None else decay.contiguous()  # the kernel has no strides for it
    _step_tiled(
        h, x, w, b, dt, formulation, chosen, out=out, coefficients=(a, None, None), terms=Terms(products=diagonal)
    )
    if decay is not None and a is not None and a is not decay:
        decay.copy_(a)


def linearise(h: Tensor, x: Tensor, w: Tensor, b: Tensor | None, dt: float, formulation: str) -> Coefficients:
    """One launch."""
    steps, batch, width = h.shape
    at = Coefficients(
        h.new_empty(steps, batch, width), h.new_empty(steps, batch, 3 * width), h.new_empty(steps, batch, width)
    )
    chosen = tier_of(h, "forward", 1, steps * batch)
    _step_tiled(h, x, w, b, dt, formulation, chosen, coefficients=at.tensors())
    return at


def adjoint_sweep(
    lam: Tensor,
    at: Coefficients,
    w: Tensor,
    geometry: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """One launch in the resident tier, one per step in the tiled tier."""
    num_rows, swept_rows = rows_of(lam, geometry, terms)
    chosen = tier_of(lam, "adjoint", geometry.steps, num_rows, terms)
    if chosen.kind == "resident":
        first, source, target = starts_of(geometry)
        _launch(
            fused_adjoint.gru_adjoint_sweep, (_tiles(num_rows, chosen.rows),), lam.shape[-1],
            *strided(lam[source:]), *strided(lam[target:]), *strided(at.a[first:]), *strided(at.c[first:]),
            w, w.stride(0), *strided_terms(geometry, terms),
            num_rows, swept_rows, lam.shape[1], *marching(geometry), **_resident(chosen, lam),
        )  # fmt: skip
        return
    for j, step in enumerate(geometry.marched()):
        _adjoint_tiled(lam[step.sources], at[step.layers], w, lam[step.targets], chosen, terms.at(step), j > 0)


def adjoint_sweep_recomputed(
    lam: Tensor,
    h: Tensor,
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    dt: float,
    formulation: str,
    geometry: Sweep,
    terms: Terms = NO_TERMS,
) -> None:
    """One launch; resident only."""
    num_rows, swept_rows = rows_of(lam, geometry, terms)
    chosen = tier_of(lam, "recomputed", None, num_rows, terms)
    first, source, target = starts_of(geometry)
    _launch(
        fused_adjoint.gru_adjoint_recomputed, (_tiles(num_rows, chosen.rows),), lam.shape[-1],
        *strided(lam[source:]), *strided(lam[target:]), *strided(h[first:]), *strided(x[first:]),
        w, w.stride(0), b, *strided_terms(geometry, terms),
        num_rows, swept_rows, lam.shape[1], *marching(geometry), dt,
        **_resident(chosen, lam), IMPLICIT=formulation == "implicit",
    )  # fmt: skip


def vjp(lam: Tensor, at: Coefficients, w: Tensor, out: Tensor) -> None:
    """One launch."""
    chosen = tier_of(lam, "adjoint", 1, lam.shape[0] * lam.shape[1])
    _adjoint_tiled(lam, at, w, out, chosen, NO_TERMS, accumulates=False)


def diagonal(at: Coefficients, w: Tensor, out: Tensor) -> None:
    """One launch."""
    steps, batch, width = out.shape
    _launch(
        fused_adjoint.gru_diagonal, (_tiles(steps * batch, 4), _tiles(width, 256)), width,
        *strided(at.a), *strided(at.c), w, w.stride(0), *strided(out), steps * batch, batch,
        PADDED=256, ROWS=4, ACC=_accumulator(out), num_warps=4,
    )  # fmt: skip


def gate_gradients(lam: Tensor, at: Coefficients) -> tuple[Tensor, Tensor]:
    """One launch."""
    steps, batch, width = lam.shape
    by_x, by_q = lam.new_empty(steps, batch, 3 * width), lam.new_empty(steps, batch, width)
    _launch(
        fused_adjoint.gru_gate_gradients, (_tiles(steps * batch, 4), _tiles(width, 256)), width,
        *strided(lam), *strided(at.c), *strided(at.c_n), by_x, by_q, steps * batch, batch,
        PADDED=256, ROWS=4, num_warps=4,
    )  # fmt: skip
    return by_x, by_q


def _launch(kernel: Any, grid: tuple[int, ...], width: int, *arguments: Any, **options: Any) -> None:
    """Nothing where there is no row. A kernel may load as many units at once as all strides are multiples of.

    It takes no stride for b, the only vector: of that it gets a copy without gaps.
    """
    if 0 in grid:
        return
    arguments = tuple(a.contiguous() if isinstance(a, Tensor) and a.ndim == 1 else a for a in arguments)
    tensors = [each for each in arguments if isinstance(each, Tensor) and each.ndim > 1]
    aligned = math.gcd(16, width, *(stride for each in tensors for stride in each.stride()[:-1]))
    launch(kernel, grid, *arguments, WIDTH=width, ALIGNED=aligned, **options)


def _step_tiled(
    h: Tensor,
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    dt: float,
    formulation: str,
    chosen: Tier,
    *,
    out: Tensor | None = None,
    coefficients: tuple[Tensor | None, ...] = (None, None, None),
    terms: Terms = NO_TERMS,
    accumulates: bool = False,
) -> None:
    batch, swept_rows = h.shape[1], h.shape[0] * h.shape[1]
    num_rows = swept_rows if terms.products is None else len(terms.products) * batch
    _launch(
        fused_forward.gru_step_tiled, _grid(num_rows, h, chosen), h.shape[-1],
        *strided(h), *strided(out), *strided(x), w, w.stride(0), b, *(s for t in terms.tensors() for s in strided(t)),
        *coefficients, num_rows, swept_rows, batch, int(accumulates),
        dt, **_tiled(chosen, h), IMPLICIT=formulation == "implicit",
    )  # fmt: skip


def _adjoint_tiled(
    lam: Tensor,
    at: Coefficients,
    w: Tensor,
    out: Tensor,
    chosen: Tier,
    terms: Terms,
    accumulates: bool,
) -> None:
    batch, swept_rows = lam.shape[1], lam.shape[0] * lam.shape[1]
    num_rows = swept_rows if terms.products is None else len(terms.products) * batch
    _launch(
        fused_adjoint.gru_adjoint_tiled, _grid(num_rows, lam, chosen), lam.shape[-1],
        *strided(lam), *strided(out), *strided(at.a), *strided(at.c), w, w.stride(0),
        *(s for t in terms.tensors() for s in strided(t)), num_rows, swept_rows, batch, int(accumulates),
        **_tiled(chosen, lam),
    )  # fmt: skip


def _accumulator(like: Tensor) -> Any:
    return tl.float64 if like.dtype == torch.float64 else tl.float32


def _arithmetic(like: Tensor) -> dict[str, Any]:
    return {"ACC": _accumulator(like), **dot_operands(like.dtype, dot_precision(like.dtype))}


def _resident(chosen: Tier, like: Tensor) -> dict[str, Any]:
    return {
        "PADDED": chosen.padded_width, "ROWS": chosen.rows, "STAGES": chosen.num_stages,
        "num_warps": chosen.num_warps, "num_stages": chosen.num_stages, **_arithmetic(like),
    }  # fmt: skip


def _tiled(chosen: Tier, like: Tensor) -> dict[str, Any]:
    return {
        "ROWS": chosen.rows, "COLUMNS": chosen.columns, "DEPTH": chosen.depth,
        "STAGES": chosen.num_stages, "num_warps": chosen.num_warps, "num_stages": chosen.num_stages,
        **_arithmetic(like),
    }  # fmt: skip


def _grid(num_rows: int, like: Tensor, chosen: Tier) -> tuple[int, int]:
    return _tiles(num_rows, chosen.rows), _tiles(like.shape[-1], chosen.columns)


def _tiles(extent: int, tile: int) -> int:
    return -(-extent // tile)
