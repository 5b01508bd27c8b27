"""The Picard coarse operator: the fine layers that a coarse layer spans, all evaluated at once, p times.

    v⁰_j = u;   p times:  v_0 = u,  v_{j+1} = Φ_j(v⁰_j) + D_j ⊙ (v_j − v⁰_j),  v⁰ ← v;   Φ_c(u) = v_σ

j = 0 … σ−1 are the finest layers of the interval, in marching order. Order 1 is u + Σ_j (Φ_j(u) − u) for D = 1: it sees
the parameters of every layer. Order 2 evaluates each layer at the state that order 1 predicts for it. Order σ is the
composition of the σ layers itself. A Picard iteration is parallel over j, so a coarse step is p evaluations deep.

D_j is 1, or for gated cells the decay of the cell (implicit: 1/(1 + Δt (1 − z)), classic: z), which is then composed
exactly, and the gates are what is frozen. The adjoint is the same iteration on the transposed layers, linearised at the
states of the forward solve: D_j is then the decay's part of ∂Φ_j/∂u.

Gonzalez et al., "Predictability enables parallelization of nonlinear state space models" and arXiv:2509.21716 (Picard,
Jacobi and Newton iterations as linear dynamical systems) have the iteration for whole sequences.
"""

from torch import Tensor

from lpgpu.kernels.affine_scan.operators import affine_scan
from lpgpu.kernels.picard import Runs, empty_runs, iterate
from lpgpu.kernels.sweep import Sweep, Terms
from lpgpu.mgrit.grid import Grid, Window
from lpgpu.mgrit.propagator import Propagator


class Picard(Propagator):
    """Φ_c of every level below the finest, by `order` Picard iterations over the layers of `fine` on the grid `finest`.

    From order σ on the layers are composed one after the other, which is what the iteration converges to. `chunk`: how
    many coarse layers to step at a time at most (None: all that are asked for), as all layers under them are evaluated
    at once.
    """

    def __init__(self, fine: Propagator, finest: Grid, order: int, chunk: int | None = None) -> None:
        fine.expect_runs()
        self.work = fine.work
        self.fine = fine
        self.finest = finest
        self.order = order
        self.chunk = chunk

    def depth(self, grid: Grid) -> int:
        return min(self.order, grid.stride)

    def cost(self, grid: Grid) -> int:
        return self.depth(grid) * grid.stride if self.order < grid.stride else grid.stride

    def _step(
        self,
        grid: Grid,
        layers: slice,
        u: Tensor,
        out: Tensor,
        diagonal: Tensor | None = None,
        decay: Tensor | None = None,
    ) -> None:
        runs = Runs(grid.of_network(layers), grid.stride)
        for part in runs.parts(self.chunk):
            self._step_through(runs[part], u[part], out[part])

    def _sweep(self, window: Window, sweep: Sweep, u: Tensor, terms: Terms) -> None:
        grid = window.grid
        at_once = self.chunk is None or sweep.num_intervals <= self.chunk
        if self.order >= grid.stride or not at_once or not self.fine.fuses_picard(u):
            return super()._sweep(window, sweep, u, terms)
        runs = Runs(grid.of_network(window.own_layers), grid.stride)
        self.fine.picard_sweep(runs, self.order, u, sweep, terms.g)

    def _step_through(self, runs: Runs, u: Tensor, out: Tensor) -> None:
        if self.order >= runs.span:
            self._compose(runs, u, out)
        elif self.fine.fuses_picard(u):
            self.fine.picard_step(runs, self.order, u, out)
        else:
            reverse = self.finest.reverse

            def evaluate(states: Tensor) -> tuple[Tensor, Tensor | None]:
                return self._evaluate(runs, states)

            out.copy_(iterate(evaluate, u, runs.span, self.order, reverse=reverse, scan=affine_scan))

    def _compose(self, runs: Runs, u: Tensor, out: Tensor) -> None:
        """out = Φ_{σ−1} ∘ … ∘ Φ_0 (u), in marching order."""
        positions = range(runs.span)[:: -1 if self.finest.reverse else 1]
        for j in positions:
            source = u if j == positions[0] else out.clone()
            self.fine._step(self.finest, runs.at(j), source, out, None)

    def _evaluate(self, runs: Runs, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Φ_j of `states` [K, σ, ...] at every position j, and the decays D_j where the layers have any."""
        count, span = states.shape[:2]
        like = states[:, 0]
        phi = empty_runs(like, count, span)
        decay = empty_runs(like, count, span) if self.fine.has_decay else None
        if runs.begins.step == span and (count == 1 or self.fine.prefers_wide_steps(like)):
            of_decay = None if decay is None else decay.flatten(0, 1)
            self.fine._step(self.finest, runs.layers, states.flatten(0, 1), phi.flatten(0, 1), None, of_decay)
            return phi, decay
        for j in range(span):
            of_decay = None if decay is None else decay[:, j]
            self.fine._step(self.finest, runs.at(j), states[:, j], phi[:, j], None, of_decay)
        return phi, decay
