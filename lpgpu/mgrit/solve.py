"""Solve: cycles until done."""

import torch
from torch import Tensor

from lpgpu.comm import Communicator, SingleProcess
from lpgpu.mgrit.convergence import Stopping, diagnose
from lpgpu.mgrit.cycle import CYCLES
from lpgpu.mgrit.guess import initial_guess
from lpgpu.mgrit.hierarchy import Hierarchy
from lpgpu.mgrit.level import Level
from lpgpu.mgrit.options import MGRIT, Serial, Solver
from lpgpu.mgrit.propagator import Propagator
from lpgpu.mgrit.result import SolveResult
from lpgpu.mgrit.states import AllPoints, States


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

    Raises:
        ValueError: for `delta="diagonal"` where the propagator has no diagonal to offer.
        DivergenceError: see `MGRIT.on_divergence`.
        Exception: whatever the propagator raises, with a note naming level and layers.
    """
    adjoint = hierarchy.grids[0].reverse
    mgrit = MGRIT(levels=1) if isinstance(options, Serial) else options
    iterations = mgrit.adjoint_iterations if adjoint else mgrit.iterations
    stopping = Stopping(mgrit.adjoint_tolerance if adjoint else mgrit.tolerance)
    levels = _levels(propagator, hierarchy, states, mgrit, g, communicator or SingleProcess())

    initial_guess(levels, mgrit.initial_guess)
    completed = 0
    while len(levels) > 1 and completed < iterations:
        CYCLES[mgrit.cycle](levels, f_points_current=True, satisfied=stopping)
        if stopping.converged:
            break
        completed += 1

    what = "adjoint" if adjoint else "forward"
    diagnose(stopping.squared_norms, states, what=what, on_divergence=mgrit.on_divergence)
    return SolveResult.of(completed, stopping.converged, stopping.squared_norms, propagator.work)


def _levels(propagator, hierarchy, states, mgrit: MGRIT, g, communicator) -> list[Level]:
    if mgrit.delta == "diagonal" and not propagator.has_diagonal:
        raise ValueError('delta is "diagonal", which these layers do not offer; use "auto" or "none"')
    delta = mgrit.delta == "diagonal" or (mgrit.delta == "auto" and propagator.prefers_delta)
    levels = []
    for grid in hierarchy.grids:
        if grid.level > 0:
            states, g = AllPoints(grid, torch.empty_like(states.c_points)), None
        relaxation = None if grid.coarsening is None else mgrit.relaxation_per_level[grid.level]
        level = Level(grid, states, propagator, communicator, relaxation, g)
        if delta and not level.is_coarsest:
            level.products = torch.empty_like(states.c_points)
        levels.append(level)
    return levels
