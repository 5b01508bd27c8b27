"""A solve of MGRIT, priced sweep by sweep: what `bench/model.py` adds up, and the depth that the solver would count.

One step of a level with K layers on the fullest rank, σ of the finest layers under each, is

    rediscretised    step(K)
    picard, order p  p · step(K σ): all layers of the intervals at once; from p = σ on σ · step(K)
    linear           no evaluation; the scan of all its layers is one overhead, and ⌈log₂ P⌉ + 1 messages on P ranks
"""

import math
from dataclasses import replace

from model_machines import Machine, Work

from lpgpu import MGRIT
from lpgpu.mgrit import Grid


class ModelledSolve:
    """Adds up `total` seconds of the forward or the adjoint solve, those of the fullest rank, `busy`, and the depth."""

    def __init__(self, work: Work, machine: Machine, solver: MGRIT, ranks: int, *, adjoint: bool) -> None:
        self.work = work
        self.machine = machine
        self.solver = solver
        self.adjoint = adjoint
        self.ranks = ranks
        self.grids = solver.hierarchy(work.steps).grids
        self.linear = solver.coarse_operator == "linear" and len(self.grids) > 1
        if self.linear:
            self.grids = self.grids[0], replace(self.grids[1], coarsening=None)
        self.hop = machine.latency + work.state_bytes / machine.bandwidth if ranks > 1 else 0.0
        self.total = self.busy = 0.0
        self.depth = 0

    def run(self, cycles: int) -> None:
        """The initial guess, then so many cycles."""
        self._halo()
        if len(self.grids) == 1:
            return self._coarsest()
        if self.linear or (self.adjoint and self.work.has_sources):  # the constant guess, corrected once
            self._first_sweep(0)
            self._correct(0, "V")
        else:
            for level in range(len(self.grids) - 1):
                self._first_sweep(level)
            self._coarsest()
        for _ in range(cycles):
            self._cycle(0, self.solver.cycle, entered=True)

    def _cycle(self, level: int, kind: str, *, entered: bool) -> None:
        """One cycle from `level` on; `entered`: its F-points are current."""
        if level == len(self.grids) - 1:
            return self._coarsest()
        if not entered:
            self._first_sweep(level)
        if self.solver.relaxation_per_level[level] == "FCF":
            self._steps(level, 1)
            self._message(self._is_aligned(level))
            self._sweep(level)
        self._correct(level, kind)

    def _correct(self, level: int, kind: str) -> None:
        """Residual and restriction, the coarse solve, correction and the F-sweep that follows."""
        self._steps(level, 1)
        self._steps(level + 1, 1, layers=self.grids[level + 1].num_steps, beside=True)
        self._message(not self._is_aligned(level))
        self._cycle(level + 1, kind, entered=False)
        if kind != "V" and level + 2 < len(self.grids):
            self._cycle(level + 1, "V" if kind == "F" else "W", entered=True)
        self._sweep(level)

    def _first_sweep(self, level: int) -> None:
        """An F-sweep; of an adjoint a short last interval comes first."""
        short = self.grids[level].num_steps % self.grids[level].interval if self.adjoint else 0
        self._steps(level, short, layers=1)
        self._sweep(level)

    def _sweep(self, level: int) -> None:
        self._steps(level, self.grids[level].interval - 1)
        self._message(not self._is_aligned(level))

    def _steps(self, level: int, count: int, *, layers: int | None = None, beside: bool = False) -> None:
        """`count` steps in turn, of a layer in each interval or of so many; `beside`: while a counted one runs."""
        grid = self.grids[level]
        here = math.ceil((grid.num_steps / grid.interval if layers is None else layers) / self.ranks)
        seconds = count * self._step(grid, here)
        self.total += seconds
        self.busy += seconds
        self.depth += count * max(0, self._depth(grid) - beside)

    def _step(self, grid: Grid, layers: int) -> float:
        """Seconds of one step of so many layers of a level."""
        span = grid.stride
        if grid.level == 0 or self.solver.coarse_operator in ("auto", "rediscretised"):
            return self.machine.step(layers, adjoint=self.adjoint)
        if self.linear:
            return 0.0
        wide = self.solver.picard_order < span
        return self._depth(grid) * self.machine.step(layers * span if wide else layers, adjoint=self.adjoint)

    def _depth(self, grid: Grid) -> int:
        """How many dependent evaluations one step of a level takes."""
        if grid.level == 0 or self.solver.coarse_operator in ("auto", "rediscretised"):
            return 1
        return 0 if self.linear else min(self.solver.picard_order, grid.stride)

    def _coarsest(self) -> None:
        grid = self.grids[-1]
        if self.linear:
            scan = self.machine.step(0, adjoint=self.adjoint)
            self.total += scan + (math.ceil(math.log2(self.ranks)) + (self.ranks > 1)) * self.hop
            self.busy += scan
            return
        each = self._step(grid, 1)
        self.total += grid.num_steps * each + (min(grid.num_steps, self.ranks) - 1) * self.hop
        self.busy += math.ceil(grid.num_steps / self.ranks) * each
        self.depth += grid.num_steps * self._depth(grid)

    def _halo(self) -> None:
        """Picard steps take what belongs to the layers of other ranks, where one goes through these: once a solve."""
        span = self.grids[-1].stride
        spans_ranks = self.ranks > 1 and self.work.steps % (self.ranks * span)
        if self.solver.coarse_operator == "picard" and spans_ranks:
            each = self.work.state_bytes if self.adjoint else self.work.layer_bytes
            self.total += self.machine.latency + span * each / self.machine.bandwidth

    def _message(self, due: bool) -> None:
        self.total += self.hop if due else 0.0

    def _is_aligned(self, level: int) -> bool:
        """Whether ranks meet at C-points, so that F-sweeps need no message."""
        grid = self.grids[level]
        return grid.num_steps % (self.ranks * grid.interval) == 0
