"""The work of a solver, counted without doing any: the cycles run on states without elements."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms
from lpgpu.mgrit.grid import Grid, Window
from lpgpu.mgrit.options import Solver
from lpgpu.mgrit.propagator import Propagator
from lpgpu.mgrit.solve import solve
from lpgpu.mgrit.states import AllPoints


@dataclass(frozen=True)
class Counts:
    """Of one forward and one adjoint solve: sequential depths, and Φ evaluations on all levels together."""

    forward_depth: int
    adjoint_depth: int
    evaluations: int

    @property
    def depth(self) -> int:
        """Forward and adjoint, one after the other."""
        return self.forward_depth + self.adjoint_depth


class Uncomputed(Propagator):
    """Counts steps and sweeps and computes nothing. The flags are those of `Propagator`, which the work depends on."""

    def __init__(
        self,
        num_levels: int,
        *,
        preferred: tuple[str, int] = ("rediscretised", 1),
        has_diagonal: bool = False,
        prefers_delta: bool = False,
    ) -> None:
        super().__init__(num_levels)
        self.preferred = preferred
        self.has_diagonal = has_diagonal
        self.prefers_delta = prefers_delta

    def _step(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal=None, decay=None) -> None:
        pass

    def _sweep(self, window: Window, sweep: Sweep, u: Tensor, terms: Terms = NO_TERMS) -> None:
        pass


def count_work(solver: Solver, num_steps: int, *, sources: bool = False, **flags) -> Counts:
    """What `solver` does on a network of `num_steps` layers, forward and adjoint; `flags` as for `Uncomputed`.

    `sources`: whether the loss sees the states between, as that of a recurrent network's output does.

    >>> from lpgpu import MGRIT
    >>> count_work(MGRIT(levels=1), 64)
    Counts(forward_depth=64, adjoint_depth=64, evaluations=128)
    """
    results = []
    for reverse in (False, True):
        hierarchy = solver.hierarchy(num_steps)
        hierarchy = hierarchy.transpose() if reverse else hierarchy
        grid = hierarchy.grids[0]
        propagator = Uncomputed(len(hierarchy.grids), **flags)
        g = torch.zeros(num_steps + 1, 0) if reverse and sources else None
        results.append(solve(propagator, hierarchy, AllPoints(grid, torch.zeros(num_steps + 1, 0)), solver, g=g))
    forward, adjoint = results
    evaluations = sum(forward.evaluations) + sum(adjoint.evaluations)
    return Counts(forward.sequential_depth, adjoint.sequential_depth, evaluations)
