"""Fused Picard steps of a GRU against the formula in fp64: shared by interpreter and GPU."""

import torch
from torch import Tensor

from lpgpu.kernels import implicit_gru
from lpgpu.kernels.implicit_gru import Cell, Coefficients, reference
from lpgpu.kernels.picard import Runs
from lpgpu.kernels.sweep import Sweep
from tests.kernels.fused.gru import Case, doubled_cell
from tests.kernels.fused.inputs import Launched, assert_near, doubled, like

FORWARD, ADJOINT, MARCH = "gru_picard", "gru_adjoint_picard", "gru_picard_sweep"


def runs(case: Case, count: int, span: int, every: int) -> tuple[Tensor, Coefficients]:
    """x and the coefficients of runs that begin at each `every`-th step."""
    of_steps = Runs(slice(0, count * every, every), span)
    x, at = case.inputs(of_steps.layers.stop), case.coefficients(of_steps.layers.stop)
    return of_steps.of(x), Coefficients(*map(of_steps.of, at.tensors()))


def expected(u: Tensor, x: Tensor, at: Coefficients, cell: Cell, order: int, *, adjoint: bool) -> Tensor:
    """v_S of one run, iteration by iteration, in fp64."""
    x64, cell64 = doubled(x), doubled_cell(cell)
    at64 = Coefficients(*(doubled(t) for t in at.tensors()))  # pyright: ignore
    v = [u] * (len(x) + 1)
    for _ in range(order):
        before, v = v, [u]
        for j in range(len(x))[:: -1 if adjoint else 1]:
            anchor, step = before[len(v) - 1], slice(j, j + 1)
            phi, decay = torch.empty_like(u[None]), torch.empty_like(u[None])
            if adjoint:
                reference.vjp(anchor[None], at64[step], cell64.w, phi)
                decay = at64[step].a
            else:
                reference.advance(anchor[None], x64[step], cell64, phi, decay_out=decay)
            v.append(phi[0] + decay[0] * (v[-1] - anchor))
    return v[-1]


def check_step(case: Case, count: int, span: int, order: int, *, adjoint: bool) -> None:
    """Runs that lie apart, and out of place."""
    x, at = runs(case, count, span, span + 2)
    cell, u = case.cell(), case.states(count)
    out = like(u, torch.full_like(u, torch.nan))
    each = (expected(doubled(u[k]), x[k], at[k], cell, order, adjoint=adjoint) for k in range(count))  # pyright: ignore
    exact = torch.stack(list(each))
    with Launched() as launched:
        if adjoint:
            implicit_gru.adjoint_picard(u, at, cell.w, order, out)
        else:
            implicit_gru.picard(u, x, cell, order, out)
    assert launched.names == {ADJOINT if adjoint else FORWARD: order}
    assert_near(out, exact, "v", factor=10)


def check_sweep(case: Case, span: int, order: int, sweep: Sweep, *, rhs: bool, launches: dict[str, int]) -> None:
    """In place, through a window of runs; in reverse the adjoint."""
    x, at = runs(case, sweep.num_layers, span, span)
    cell, u = case.cell(), case.states(sweep.num_layers + 1)
    for _, _, targets in sweep.marched():
        u[targets] = torch.nan
    g = case.states(sweep.num_layers + 1) if rhs else None
    exact, g64 = doubled(u), doubled(g)
    for step in sweep.marched():
        for k, source, target in zip(*(range(sweep.num_layers + 1)[each] for each in step), strict=False):
            exact[target] = expected(exact[source], x[k], at[k], cell, order, adjoint=sweep.reverse)  # pyright: ignore
            if g64 is not None:
                exact[target] += g64[target]
    with Launched() as launched:
        if sweep.reverse:
            implicit_gru.adjoint_picard_sweep(u, at, cell.w, order, sweep, g)
        else:
            implicit_gru.picard_sweep(u, x, cell, order, sweep, g)
    assert launched.names == launches
    assert_near(u, exact, "states", factor=10)
    if case.order == "spread":
        assert u._base is not None and u._base[0::2].isnan().all()
