"""Solve: cycles until done."""

from dataclasses import replace

from torch import Tensor

from lpgpu.comm import Communicator, SingleProcess
from lpgpu.mgrit.coarse_operator import CoarseOperator
from lpgpu.mgrit.convergence import Stopping, diagnose
from lpgpu.mgrit.cycle import CYCLES
from lpgpu.mgrit.exchange import HaloExchange
from lpgpu.mgrit.fas import residual_norm
from lpgpu.mgrit.grid import Grid
from lpgpu.mgrit.guess import initial_guess
from lpgpu.mgrit.halo import Halo
from lpgpu.mgrit.hierarchy import Hierarchy
from lpgpu.mgrit.level import Level
from lpgpu.mgrit.linear import identity_delta
from lpgpu.mgrit.options import MGRIT, Serial, Solver
from lpgpu.mgrit.propagator import Propagator
from lpgpu.mgrit.result import SolveResult
from lpgpu.mgrit.states import AllPoints, CPointsOnly, States
from lpgpu.profiling import nvtx_range


def solve(
    propagator: Propagator,
    hierarchy: Hierarchy,
    states: States,
    options: Solver,
    *,
    g: Tensor | None = None,
    communicator: Communicator | None = None,
) -> SolveResult:
    """Fill `states` from their start: u_target = Φ_k(u_source) + g_target for every layer k, in marching order.

    `hierarchy` is `options.hierarchy(N)`, or its transpose for the adjoint problem, which takes the options' adjoint
    iterations and tolerance. `g` is [N + 1, ...] or None (zero). On one level the solve is serial: exact, no cycles.
    Of a hierarchy that ranks share, `states` and `g` are this rank's points, and only where `grid.begins` is the start
    looked at; all ranks call together.

    Raises:
        ValueError: for `delta="diagonal"` where the propagator has no diagonal to offer.
        DivergenceError: see `MGRIT.on_divergence`.
        Exception: whatever the propagator raises, with a note naming level and layers.
    """
    adjoint = hierarchy.grids[0].reverse
    mgrit = MGRIT(levels=1) if isinstance(options, Serial) else options
    iterations = mgrit.adjoint_iterations if adjoint else mgrit.iterations
    communicator = communicator or SingleProcess()
    stopping = Stopping(mgrit.adjoint_tolerance if adjoint else mgrit.tolerance, communicator)
    levels = _levels(propagator, hierarchy, states, mgrit, g, communicator)

    what = "adjoint" if adjoint else "forward"
    completed = 0
    with nvtx_range(f"{what} solve"):
        initial_guess(levels, mgrit.initial_guess)
        while len(levels) > 1 and completed < iterations:
            with nvtx_range("cycle"):
                CYCLES[mgrit.cycle](levels, f_points_current=True, satisfied=stopping)
            if stopping.converged:
                break
            completed += 1
        final = [_final_residual(levels[0], stopping)] if mgrit.final_residual and len(levels) > 1 else []

    history = [*stopping.squared_norms, *final]
    work = replace(propagator.work, evaluations=propagator.work.evaluations[: len(levels)])
    squared_norms = diagnose(history, states, communicator, what=what, on_divergence=mgrit.on_divergence, g=g)
    return SolveResult.of(completed, stopping.converged, squared_norms, work, with_final=bool(final))


def _final_residual(finest: Level, stopping: Stopping) -> Tensor:
    """‖r‖² as the last cycle left it: one that met the tolerance ended with its residual, and corrected nothing."""
    return stopping.squared_norms[-1] if stopping.converged else residual_norm(finest)


def _levels(propagator, hierarchy, states, mgrit: MGRIT, g, communicator) -> list[Level]:
    operator = CoarseOperator.of(mgrit, propagator)
    grids = operator.grids(hierarchy)
    coarse = operator.propagator(propagator, grids[0], states.chunk) if len(grids) > 1 else propagator
    if operator.spans_layers and len(grids) > 1 and communicator.size > 1:
        propagator.take_halo(HaloExchange(communicator, Halo.of(grids), propagator.work))
    levels = []
    for grid in grids:
        if grid.level > 0:
            states, g = _coarse_states(states, grid), None
        relaxation = None if grid.coarsening is None else mgrit.relaxation_per_level[grid.level]
        level = Level(grid, states, coarse if grid.level else propagator, communicator, relaxation, g)
        if operator.takes_diagonals and not level.is_coarsest:
            level.products = _empty_like(states, grid.num_pieces)
        elif operator.is_linear and grid.level > 0:
            level.delta = identity_delta(_empty_like(states, grid.local_steps))
        levels.append(level)
    return levels


def _coarse_states(fine: States, grid: Grid) -> States:
    """v. Where C-points are stored alone they serve as v themselves: neither injection nor correction has to copy."""
    if isinstance(fine, CPointsOnly) and len(fine.c_points) == grid.local_points and grid.partition is None:
        return AllPoints(grid, fine.c_points)
    return AllPoints(grid, _empty_like(fine, grid.local_points))


def _empty_like(states: States, count: int) -> Tensor:
    """Uninitialised states [count, ...], in the memory order of those that there are."""
    u = states.u
    return u.new_empty_strided((count, *u.shape[1:]), u.stride())
