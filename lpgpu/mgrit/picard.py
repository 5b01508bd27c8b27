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

import torch
from torch import Tensor

from lpgpu.kernels.affine_scan.operators import affine_scan
from lpgpu.mgrit.hierarchy import Grid
from lpgpu.mgrit.propagator import Propagator


class Picard(Propagator):
    """Φ_c of every level below the finest, by `order` Picard iterations over the layers of `fine` on the grid `finest`.

    From order σ on the layers are composed one after the other, which is what the iteration converges to.
    """

    def __init__(self, fine: Propagator, finest: Grid, order: int) -> None:
        fine.expect_runs()
        self.work = fine.work
        self.fine = fine
        self.finest = finest
        self.order = order

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
        interval = _Interval(self.fine, self.finest, grid, layers)
        if self.order >= grid.stride:
            interval.compose(u, out)
        else:
            out.copy_(interval.iterate(u, self.order))


class _Interval:
    """The σ finest layers under each of K coarse layers: slices `at(j)` of the finest grid, one for each position j."""

    def __init__(self, fine: Propagator, finest: Grid, grid: Grid, layers: slice) -> None:
        self.fine = fine
        self.finest = finest
        self.span = grid.stride
        self.reverse = grid.reverse
        self.first = grid.of_network(layers)

    def at(self, j: int) -> slice:
        """The layers at position j of the K intervals."""
        return slice(self.first.start + j, self.first.stop + j, self.first.step)

    def compose(self, u: Tensor, out: Tensor) -> None:
        """out = Φ_{σ−1} ∘ … ∘ Φ_0 (u), in marching order."""
        positions = range(self.span)[:: -1 if self.reverse else 1]
        for j in positions:
            source = u if j == positions[0] else out.clone()
            self.fine._step(self.finest, self.at(j), source, out, None)

    def iterate(self, u: Tensor, order: int) -> Tensor:
        """v_σ [K, ...] after `order` iterations from u [K, ...]."""
        start, end = (self.span, 0) if self.reverse else (0, self.span)
        v = _empty(u, len(u), self.span + 1)
        v[:, start] = u
        anchors = u.unsqueeze(1).expand(-1, self.span, *u.shape[1:])
        for iteration in range(order):
            phi, decay = self._evaluate(anchors)
            affine_scan(v, phi, anchors, decay, self.reverse)
            if iteration + 1 < order:
                anchors = (v[:, 1:] if self.reverse else v[:, :-1]).clone()
        return v[:, end]

    def _evaluate(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Φ_j of `states` [K, σ, ...] at every position j, and the decays D_j where the layers have any."""
        count = len(states)
        like = states[:, 0]
        phi = _empty(like, count, self.span)
        decay = _empty(like, count, self.span) if self.fine.has_decay else None
        if self.first.step == self.span and (count == 1 or self.fine.prefers_wide_steps(like)):
            layers = slice(self.first.start, self.first.start + count * self.span, 1)
            of_decay = None if decay is None else decay.flatten(0, 1)
            self.fine._step(self.finest, layers, states.flatten(0, 1), phi.flatten(0, 1), None, of_decay)
            return phi, decay
        for j in range(self.span):
            of_decay = None if decay is None else decay[:, j]
            self.fine._step(self.finest, self.at(j), states[:, j], phi[:, j], None, of_decay)
        return phi, decay


def _empty(like: Tensor, *counts: int) -> Tensor:
    """Uninitialised states [*counts, ...], each in the memory order of one of `like` [K, ...]."""
    inner = like.shape[1:]
    flat = like.new_empty_strided((torch.Size(counts).numel(), *inner), (inner.numel(), *like.stride()[1:]))
    return flat.unflatten(0, counts)
