"""Fused Picard steps over convolutional layers against the formula in fp64: shared by interpreter and GPU."""

import torch
from torch import Tensor

from lpgpu.kernels import conv_step
from lpgpu.kernels.conv_step import Filter, Saved, reference
from lpgpu.kernels.picard import Runs
from lpgpu.kernels.sweep import Sweep
from tests.kernels.fused.conv import DT, Case, doubled_filters, doubled_saved
from tests.kernels.fused.inputs import Launched, assert_near, doubled, guarded, like

KERNEL = "conv_picard_kernel"


def runs(case: Case, count: int, span: int, every: int) -> tuple[list[Filter], Saved]:
    """Filters and saved of runs that begin at each `every`-th layer."""
    of_layers = Runs(slice(0, count * every, every), span)
    filters = case.filters(of_layers.layers.stop)
    saved = Saved([of_layers.of(each) for each in case.saved(filters).stacked()])
    return [each.of_runs(of_layers) for each in filters], saved


def expected(case: Case, u: Tensor, filters: list[Filter], saved: Saved, order: int, *, adjoint: bool) -> Tensor:
    """v_S of one run, iteration by iteration, in fp64."""
    filters, saved = doubled_filters(filters), doubled_saved(saved)
    span = len(filters[0].w)
    v = [u] * (span + 1)
    for _ in range(order):
        before, v = v, [u]
        for j in range(span)[:: -1 if adjoint else 1]:
            anchor, layer, phi = before[len(v) - 1], slice(j, j + 1), torch.empty_like(u[None])
            here = [each.of_layers(layer) for each in filters]
            if adjoint:
                reference.vjp(anchor[None], saved[layer], here, DT, case.activation, phi)
            else:
                reference.advance(anchor[None], here, DT, case.activation, phi)
            v.append(phi[0] + v[-1] - anchor)
    return v[-1]


def of_run(filters: list[Filter], saved: Saved, k: int) -> tuple[list[Filter], Saved]:
    return [Filter(*each.layer(k)) for each in filters], Saved([each[k] for each in saved.stacked()])


def check_step(case: Case, count: int, span: int, order: int, *, adjoint: bool) -> None:
    """Runs that lie apart, and out of place; one launch for each convolution and iteration."""
    filters, saved = runs(case, count, span, span + 2)
    u = case.states(count)
    out = like(u, torch.full_like(u, torch.nan))
    each = (expected(case, doubled(u[k]), *of_run(filters, saved, k), order, adjoint=adjoint) for k in range(count))  # pyright: ignore
    exact = torch.stack(list(each))
    with Launched() as launched:
        if adjoint:
            conv_step.adjoint_picard(u, saved, filters, DT, case.activation, order, out)
        else:
            conv_step.picard(u, filters, DT, case.activation, order, out)
    assert launched.names == {KERNEL: order * case.convolutions}
    assert_near(out, exact, "v")


def check_sweep(case: Case, span: int, order: int, sweep: Sweep, *, rhs: bool) -> None:
    """In place, through a window of runs; in reverse the adjoint."""
    filters, saved = runs(case, sweep.num_layers, span, span)
    u, check_ends = guarded(case.states, sweep.num_layers + 1)
    for _, _, targets in sweep.marched():
        u[targets] = torch.nan
    g = case.states(sweep.num_layers + 1) if rhs else None
    exact, g64 = doubled(u), doubled(g)
    for step in sweep.marched():
        for k, source, target in zip(*(range(sweep.num_layers + 1)[each] for each in step), strict=False):
            v = expected(case, exact[source], *of_run(filters, saved, k), order, adjoint=sweep.reverse)  # pyright: ignore
            exact[target] = v if g64 is None else v + g64[target]
    with Launched() as launched:
        if sweep.reverse:
            conv_step.adjoint_picard_sweep(u, saved, filters, DT, case.activation, order, sweep, g)
        else:
            conv_step.picard_sweep(u, filters, DT, case.activation, order, sweep, g)
    assert launched.names == {KERNEL: order * case.convolutions * len(list(sweep.marched()))}
    assert_near(u, exact, "states")
    check_ends()
