"""Launchers of Picard steps of a GRU: one launch an iteration, or forward one for a whole march of order 1.

The adjoint's march is a launch a step: its S products of a step differ, and a program that took them one after the
other would be no faster than propagation itself. Forward they are one product, at order 1.
"""

from dataclasses import replace

from torch import Tensor

from lpgpu.kernels.devices import arch_of
from lpgpu.kernels.implicit_gru import plans_picard, tiles
from lpgpu.kernels.implicit_gru.reference import Cell, Coefficients
from lpgpu.kernels.launch import Operands, launch
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import Sweep


def picard(h: Tensor, x: Tensor, cell: Cell, order: int, out: Tensor) -> None:
    """In one launch an iteration, for all runs."""
    cell = _without_gaps(cell)
    _iterate((h, out, x, cell.w, cell.b, None), order, cell)


def adjoint_picard(lam: Tensor, at: Coefficients, w: Tensor, order: int, out: Tensor) -> None:
    """In one launch an iteration, for all runs."""
    _iterate((lam, out, at.a, at.c, w, None), order)


def picard_sweep(
    h: Tensor, x: Tensor, cell: Cell, order: int, sweep: Sweep, g: Tensor | None = None
) -> None:  # fmt: skip
    """In one launch for order 1 where W stays on chip, else in one for each step and iteration."""
    cell = _without_gaps(cell)
    precision, rows = dot_precision(h.dtype), sweep.num_intervals * h.shape[1]
    tile = tiles.tile(h.shape[-1], h.dtype, arch_of(h.device), precision=precision, num_rows=rows)
    if order == 1 and tile.kind == "resident":
        first, source, target = sweep.starts
        operands = (h[source:], h[target:], x[first:], cell.w, cell.b, None if g is None else g[target:])
        launch(plans_picard.sweep, operands, (sweep, tile, precision, cell.formulation == "implicit"), (cell.dt,))
        return
    for step in sweep.marched():
        g_here = None if g is None else g[step.targets]
        _iterate((h[step.sources], h[step.targets], x[step.layers], cell.w, cell.b, g_here), order, cell)


def adjoint_picard_sweep(
    lam: Tensor, at: Coefficients, w: Tensor, order: int, sweep: Sweep, g: Tensor | None = None
) -> None:  # fmt: skip
    """In one launch for each step and iteration."""
    for step in sweep.marched():
        here, g_here = at[step.layers], None if g is None else g[step.targets]
        _iterate((lam[step.sources], lam[step.targets], here.a, here.c, w, g_here), order)


def _iterate(operands: Operands, order: int, cell: Cell | None = None) -> None:
    """`operands`: states, where the runs lead to, x, W and b, or a, c and W, and g there. The adjoint has no cell."""
    h, out, *rest, g = operands
    runs, span = rest[0].shape[:2]
    scratch = [h.new_empty(runs, span, *h.shape[1:]) for _ in range(min(2, order - 1))]
    before, precision = None, dot_precision(h.dtype)
    for iteration in range(order):
        last = iteration + 1 == order
        following = None if last else scratch[iteration % 2]
        tensors = (h, out if last else None, *rest, g if last else None, before, following)
        if cell is None:
            launch(plans_picard.adjoint, tensors, (precision,))
        else:
            launch(plans_picard.forward, tensors, (precision, cell.formulation == "implicit"), (cell.dt,))
        before = following


def _without_gaps(cell: Cell) -> Cell:
    """The kernels take no stride for b."""
    return cell if cell.b is None else replace(cell, b=cell.b.contiguous())
