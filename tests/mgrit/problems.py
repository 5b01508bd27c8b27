"""A small nonlinear problem for the solver alone, without modules.

u_target = u_source + Δt sin(θ_k u_source) + g_target
"""

from collections import Counter

import torch
from torch import Tensor

from lpgpu.comm import Communicator
from lpgpu.mgrit import MGRIT, AllPoints, CPointsOnly, Grid, Partition, Propagator, Serial, SolveResult, States, solve
from lpgpu.mgrit.halo import HaloOf


class Sines(Propagator):
    """Φ_k(u) = u + σΔt sin(θ_k u); notes every layer it is really asked for. θ is [N, 3], of this rank, Δt = 1/N."""

    has_diagonal = True

    def __init__(self, theta: Tensor, num_levels: int = 16, dt: float | None = None) -> None:
        super().__init__(num_levels)
        self.theta = theta
        self.dt = 1 / len(theta) if dt is None else dt
        self.layers_called: Counter[int] = Counter()
        self.batches_called: Counter[int] = Counter()

    def take_halo(self, halo_of: HaloOf) -> None:
        self.theta = torch.cat([self.theta, halo_of(self.theta)])

    def _step(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal=None, decay=None) -> None:
        self.layers_called[grid.level] += len(u)
        self.batches_called[grid.level] += 1
        theta = self.theta[grid.of_network(layers)]
        out.copy_(u + grid.stride * self.dt * torch.sin(theta * u))
        if diagonal is not None:
            diagonal.copy_(1 + grid.stride * self.dt * theta * torch.cos(theta * u))


class Problem:
    """N random layers, a random given state, and random sources g if asked for; marched forward or in reverse."""

    def __init__(self, num_steps: int, *, reverse: bool = False, sources: bool = False) -> None:
        self.num_steps = num_steps
        self.reverse = reverse
        self.theta = 1 + torch.rand(num_steps, 3, dtype=torch.float64)
        self.given = 0.5 + torch.rand(3, dtype=torch.float64)
        self.g = 0.1 * torch.randn(num_steps + 1, 3, dtype=torch.float64) if sources else None

    def serial(self) -> Tensor:
        """All states, one layer after the other: the oracle."""
        u = torch.empty(self.num_steps + 1, 3, dtype=torch.float64)
        order = range(self.num_steps)
        u[self.num_steps if self.reverse else 0] = self.given
        for k in reversed(order) if self.reverse else order:
            source, target = (k + 1, k) if self.reverse else (k, k + 1)
            u[target] = u[source] + 1 / self.num_steps * torch.sin(self.theta[k] * u[source])
            if self.g is not None:
                u[target] += self.g[target]
        return u

    def solve(self, solver: MGRIT | Serial) -> tuple[States, SolveResult, Sines]:
        """The states the solver ends with, its result and the propagator that it used."""
        hierarchy = solver.hierarchy(self.num_steps)
        hierarchy = hierarchy.transpose() if self.reverse else hierarchy
        states = self._states(hierarchy.grids[0], solver)
        states.start.copy_(self.given)
        propagator = Sines(self.theta, len(hierarchy.grids))
        return states, solve(propagator, hierarchy, states, solver, g=self.g), propagator

    def solve_here(
        self, solver: MGRIT | Serial, blocks: list[int], communicator: Communicator
    ) -> tuple[States, SolveResult]:
        """As `solve`, of one rank of those that share the layers."""
        partition = Partition.of_blocks(blocks, communicator.rank)
        hierarchy = solver.hierarchy(self.num_steps, partition)
        hierarchy = hierarchy.transpose() if self.reverse else hierarchy
        grid = hierarchy.grids[0]
        states = self._states(grid, solver)
        if grid.begins:
            states.start.copy_(self.given)
        here = slice(grid.first, grid.first + grid.local_steps)
        propagator = Sines(self.theta[here], len(hierarchy.grids), 1 / self.num_steps)
        g = None if self.g is None else self.g[here.start : here.stop + 1]
        return states, solve(propagator, hierarchy, states, solver, g=g, communicator=communicator)

    @staticmethod
    def _states(grid: Grid, solver: MGRIT | Serial) -> States:
        def poisoned(points: int) -> Tensor:
            return torch.full((points, 3), torch.nan, dtype=torch.float64)

        if isinstance(solver, MGRIT) and solver.store == "c_points":
            return CPointsOnly(grid, poisoned, solver.chunk)
        return AllPoints(grid, poisoned(grid.local_points), solver.chunk if isinstance(solver, MGRIT) else None)
