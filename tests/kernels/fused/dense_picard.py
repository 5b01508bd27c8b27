"""Fused Picard steps over dense layers against the formula in fp64: shared by interpreter and GPU."""

import torch
from torch import Tensor

from lpgpu.kernels import dense_step
from lpgpu.kernels.dense_step import reference
from lpgpu.kernels.picard import Runs
from lpgpu.kernels.sweep import Sweep
from tests.kernels.fused.dense import DT, Case
from tests.kernels.fused.inputs import Launched, assert_near, doubled, guarded, like

ONE, MANY = "dense_picard_kernel", "dense_picard_sweep_kernel"


def runs(case: Case, count: int, span: int, every: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """W, b and saved of runs that begin at each `every`-th layer."""
    of_layers = Runs(slice(0, count * every, every), span)
    (w, b), saved = case.weights(of_layers.layers.stop), case.saved(of_layers.layers.stop)
    return of_layers.of(w), None if b is None else of_layers.of(b), of_layers.of(saved)


def expected(case: Case, u: Tensor, parts: tuple, order: int, *, adjoint: bool) -> Tensor:
    """v_S of one run, iteration by iteration, in fp64."""
    w, b, saved = (None if t is None else doubled(t) for t in parts)
    v = [u] * (len(w) + 1)
    for _ in range(order):
        before, v = v, [u]
        for j in range(len(w))[:: -1 if adjoint else 1]:
            anchor, phi = before[len(v) - 1], torch.empty_like(u[None])
            if adjoint:
                reference.vjp(anchor[None], saved[j][None], w[j][None], DT, case.activation, phi)
            else:
                bias = None if b is None else b[j][None]
                reference.advance(anchor[None], w[j][None], bias, DT, case.activation, phi)
            v.append(phi[0] + v[-1] - anchor)
    return v[-1]


def check_step(case: Case, count: int, span: int, order: int, *, adjoint: bool) -> None:
    """Runs that lie apart, and out of place."""
    w, b, saved = runs(case, count, span, span + 2)
    u = case.states(count)
    out = like(u, torch.full_like(u, torch.nan))
    exact = torch.stack(
        [
            expected(case, doubled(u[k]), (w[k], None if b is None else b[k], saved[k]), order, adjoint=adjoint)
            for k in range(count)
        ]
    )
    with Launched() as launched:
        if adjoint:
            dense_step.adjoint_picard(u, saved, w, DT, case.activation, order, out)
        else:
            dense_step.picard(u, w, b, DT, case.activation, order, out)
    assert launched.names == {ONE: order}
    assert_near(out, exact, "v")


def check_sweep(case: Case, span: int, order: int, sweep: Sweep, *, rhs: bool, launches: dict[str, int]) -> None:
    """In place, through a window of runs."""
    w, b, saved = runs(case, sweep.num_layers, span, span)
    u, check_ends = guarded(case.states, sweep.num_layers + 1)
    for _, _, targets in sweep.marched():
        u[targets] = torch.nan
    g = case.states(sweep.num_layers + 1) if rhs else None
    exact, g64 = doubled(u), doubled(g)
    for step in sweep.marched():
        of_step = zip(*(range(sweep.num_layers + 1)[each] for each in step), strict=False)
        for k, source, target in of_step:
            parts = w[k], None if b is None else b[k], saved[k]
            exact[target] = expected(case, exact[source], parts, order, adjoint=sweep.reverse)
            if g64 is not None:
                exact[target] += g64[target]
    with Launched() as launched:
        if sweep.reverse:
            dense_step.adjoint_picard_sweep(u, saved, w, DT, case.activation, order, sweep, g)
        else:
            dense_step.picard_sweep(u, w, b, DT, case.activation, order, sweep, g)
    assert launched.names == launches
    assert_near(u, exact, "states")
    check_ends()
