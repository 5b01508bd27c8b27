"""Launchers of the GRU's Triton kernels: geometry becomes strides, `tiles` says which kernel runs and with what tile.

Arguments are as in the package's public functions and already checked; nothing here waits for the device.
"""

from dataclasses import replace

from torch import Tensor

from lpgpu.kernels.devices import arch_of
from lpgpu.kernels.dispatch import reasons
from lpgpu.kernels.implicit_gru import cuda_march, plans, reference, tiles
from lpgpu.kernels.implicit_gru.fused_picard import (  # noqa: F401
    adjoint_picard,
    adjoint_picard_sweep,
    picard,
    picard_sweep,
)
from lpgpu.kernels.implicit_gru.reference import Cell, Coefficients
from lpgpu.kernels.implicit_gru.tiles import Kind, Tile
from lpgpu.kernels.launch import launch
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

_BY_LIBRARY = "PyTorch's product, sooner than a tiled kernel for as wide states and as many rows"

Taken = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Where the coefficients a, c and c_n go, contiguous, where they are taken."""


def tile_of(h: Tensor, kind: Kind, steps: int | None, num_rows: int, terms: Terms = NO_TERMS) -> Tile:
    """The tile of an operation on states like `h`."""
    return tiles.tile(
        h.shape[-1], h.dtype, arch_of(h.device), precision=dot_precision(h.dtype), kind=kind, steps=steps,
        num_rows=num_rows, arrays=terms.arrays,
    )  # fmt: skip


def sweep(h: Tensor, x: Tensor, cell: Cell, sweep: Sweep, terms: Terms) -> None:
    """In one launch where W stays on chip, else in one for each step."""
    tile, implicit = tile_of(h, "forward", sweep.steps, _rows(h, sweep, terms), terms), cell.formulation == "implicit"
    w, b = cell.w, _without_gaps(cell.b)
    plan = cuda_march.plan_of("forward", h, sweep, terms, x, w, b, resident=tile.kind == "resident")
    reasons["implicit_gru.sweep"] = _reason(tile, plan)
    if plan:
        return cuda_march.sweep(h, x, replace(cell, b=b), sweep, terms, plan)
    if tile.kind == "resident":
        first, source, target = sweep.starts
        operands = (
            h[source:],
            h[target:],
            x[first:],
            w,
            b,
            *terms.of(slice(first, None), slice(target, None)).tensors(),
        )
        launch(plans.sweep, operands, (sweep, tile, dot_precision(h.dtype), implicit), (cell.dt,))
        return
    for j, step in enumerate(sweep.marched()):
        operands = (h[step.sources], h[step.targets], x[step.layers], w, b, *terms.at(step).tensors(), None, None, None)
        launch(plans.step, operands, (tile, j > 0, dot_precision(h.dtype), implicit), (cell.dt,))


def advance(
    h: Tensor, x: Tensor, cell: Cell, out: Tensor, diagonal: Tensor | None, decay: Tensor | None
) -> None:  # fmt: skip
    """In one launch for all steps; nothing is left for the adjoint."""
    a = None if decay is None else decay.contiguous()  # the kernel has no strides for it
    _step(h, x, cell, out, diagonal, (a, None, None))
    if decay is not None and a is not None and a is not decay:
        decay.copy_(a)


def linearise(h: Tensor, x: Tensor, cell: Cell) -> Coefficients:
    """In one launch for all steps."""
    steps, batch, width = h.shape
    at = Coefficients(
        h.new_empty(steps, batch, width), h.new_empty(steps, batch, 3 * width), h.new_empty(steps, batch, width)
    )
    _step(h, x, cell, None, None, (at.a, at.c, at.c_n))
    return at


def adjoint_sweep(lam: Tensor, at: Coefficients, w: Tensor, sweep: Sweep, terms: Terms) -> None:
    """In one launch where W stays on chip, else in one for each step."""
    tile = tile_of(lam, "adjoint", sweep.steps, _rows(lam, sweep, terms), terms)
    plan = cuda_march.plan_of("adjoint", lam, sweep, terms, at.a, at.c, w, resident=tile.kind == "resident")
    reasons["implicit_gru.adjoint_sweep"] = _reason(tile, plan)
    if plan:
        return cuda_march.adjoint_sweep(lam, at, w, sweep, terms, plan)
    if terms.products is None and _library_is_sooner(lam, tile, _rows(lam, sweep, terms)):
        reasons["implicit_gru.adjoint_sweep"] = f"fused: {_BY_LIBRARY}"
        return reference.adjoint_sweep(lam, at, w, sweep, terms)
    if tile.kind == "resident":
        first, source, target = sweep.starts
        here = terms.of(slice(first, None), slice(target, None)).tensors()
        operands = (lam[source:], lam[target:], at.a[first:], at.c[first:], w, *here)
        launch(plans.adjoint_sweep, operands, (sweep, tile, dot_precision(lam.dtype)))
        return
    for j, step in enumerate(sweep.marched()):
        a, c = at.a[step.layers], at.c[step.layers]
        operands = (lam[step.sources], lam[step.targets], a, c, w, *terms.at(step).tensors())
        launch(plans.adjoint_step, operands, (tile, j > 0, dot_precision(lam.dtype)))


def adjoint_sweep_recomputed(lam: Tensor, h: Tensor, x: Tensor, cell: Cell, sweep: Sweep, terms: Terms) -> None:
    """In one launch, where W stays on chip for two products; there is no other way."""
    tile = tile_of(lam, "recomputed", None, _rows(lam, sweep, terms), terms)
    first, source, target = sweep.starts
    here = terms.of(slice(first, None), slice(target, None)).tensors()
    operands = (lam[source:], lam[target:], h[first:], x[first:], cell.w, _without_gaps(cell.b), *here)
    implicit = cell.formulation == "implicit"
    launch(plans.adjoint_sweep_recomputed, operands, (sweep, tile, dot_precision(lam.dtype), implicit), (cell.dt,))


def vjp(lam: Tensor, at: Coefficients, w: Tensor, out: Tensor) -> None:
    """In one launch for all steps, but where PyTorch's product is sooner."""
    tile = tile_of(lam, "adjoint", 1, lam.shape[0] * lam.shape[1])
    if _library_is_sooner(lam, tile, lam.shape[0] * lam.shape[1]):
        reasons["implicit_gru.vjp"] = f"fused: {_BY_LIBRARY}"
        return reference.vjp(lam, at, w, out)
    operands = (lam, out, at.a, at.c, w, None, None, None, None)
    launch(plans.adjoint_step, operands, (tile, False, dot_precision(lam.dtype)))


def diagonal(at: Coefficients, w: Tensor, out: Tensor) -> None:
    """In one launch for all steps."""
    launch(plans.diagonal, (at.a, at.c, w, out))


def at_zero(x: Tensor, cell: Cell, out: Tensor, diagonal: Tensor) -> None:
    """In one launch for all steps."""
    operands = (x, cell.w, _without_gaps(cell.b), out, diagonal)
    launch(plans.at_zero, operands, (cell.formulation == "implicit",), (cell.dt,))


def gate_gradients(lam: Tensor, at: Coefficients) -> tuple[Tensor, Tensor]:
    """In one launch for all steps."""
    steps, batch, width = lam.shape
    by_x, by_q = lam.new_empty(steps, batch, 3 * width), lam.new_empty(steps, batch, width)
    launch(plans.gate_gradients, (lam, at.c, at.c_n, by_x, by_q))
    return by_x, by_q


def _library_is_sooner(lam: Tensor, tile: Tile, num_rows: int) -> bool:
    return tiles.library_is_sooner(tile, lam.shape[-1], lam.dtype, dot_precision(lam.dtype), num_rows)


def _reason(tile: Tile, plan: cuda_march.Plan | None) -> str:
    """What runs a sweep, and why, in a line."""
    if plan is not None:
        return f"fused: a march in CUDA C++, one launch of {plan.ranks} x {plan.groups} blocks"
    return f"fused: Triton, {tile.kind}: {tile.reason}"


def _step(h: Tensor, x: Tensor, cell: Cell, out: Tensor | None, diagonal: Tensor | None, taken: Taken) -> None:
    tile = tile_of(h, "forward", 1, h.shape[0] * h.shape[1])
    operands = (h, out, x, cell.w, _without_gaps(cell.b), None, None, None, diagonal, *taken)
    launch(plans.step, operands, (tile, False, dot_precision(h.dtype), cell.formulation == "implicit"), (cell.dt,))


def _rows(u: Tensor, sweep: Sweep, terms: Terms) -> int:
    return plans.intervals_written(sweep, terms.products) * u.shape[1]


def _without_gaps(b: Tensor | None) -> Tensor | None:
    """The kernels take no stride for b."""
    return None if b is None else b.contiguous()
