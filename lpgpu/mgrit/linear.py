"""The linear coarse operator: no Φ_c at all, the fine layers' own linearisation instead.

    v_{K+1} = Φ^m(u_{Km}) + P_K ⊙ (v_K − u_{Km}),   P_K = Π_j diag(∂Φ_j/∂u) over the m layers of interval K, or 1

In FAS this is Φ_c = 0 with a Δ-correction of P_K. The coarse problem is affine, so a scan solves it and no coarse layer
is evaluated: the depth of a cycle does not depend on N. One cycle with F-relaxation is one iteration of quasi-Newton
(P = 1: Picard) multiple shooting; at m = 1 it is quasi-DEER (Gonzalez et al., NeurIPS 2024).
"""

import torch
from torch import Tensor

from lpgpu.kernels.affine_scan.operators import affine_scan
from lpgpu.kernels.sweep import Sweep, Terms
from lpgpu.mgrit.delta import Delta
from lpgpu.mgrit.grid import Grid, Window
from lpgpu.mgrit.propagator import Propagator


class Linear(Propagator):
    """Φ_c = 0 on the one level below the finest, which its Δ makes affine; nothing is evaluated."""

    has_diagonal = True
    is_affine = True

    def __init__(self, fine: Propagator) -> None:
        self.work = fine.work

    def depth(self, grid: Grid) -> int:
        return 0

    def cost(self, grid: Grid) -> int:
        return 0

    def _step(
        self,
        grid: Grid,
        layers: slice,
        u: Tensor,
        out: Tensor,
        diagonal: Tensor | None = None,
        decay: Tensor | None = None,
    ) -> None:
        out.zero_()
        if diagonal is not None:
            diagonal.zero_()

    def _sweep(self, window: Window, sweep: Sweep, u: Tensor, terms: Terms) -> None:
        if terms.g is None or terms.delta is None or terms.anchors is None:
            raise ValueError("a linear coarse operator is posed by a restriction, which has not been")
        rhs = terms.g[:-1] if window.grid.reverse else terms.g[1:]
        affine_scan(u[None], rhs[None], terms.anchors[None], terms.delta[None], window.grid.reverse)


def identity_delta(like: Tensor) -> Delta:
    """Δ = 1 for layers [K, ...] whose Jacobians' diagonals have no closed formula; its anchors are yet to be taken."""
    return Delta(torch.ones((), dtype=like.dtype, device=like.device).expand_as(like), like)
