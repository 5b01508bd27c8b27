"""One level of a solve: its grid, its states, its right-hand side, and what propagates it."""

from dataclasses import dataclass

from torch import Tensor

from lpgpu.comm import Communicator
from lpgpu.kernels.sweep import Terms
from lpgpu.mgrit.delta import Delta
from lpgpu.mgrit.grid import Grid, Window
from lpgpu.mgrit.options import Relaxation
from lpgpu.mgrit.propagator import Propagator
from lpgpu.mgrit.states import States


@dataclass
class Level:
    """What a cycle works on.

    `g` is [n + 1, ...] or None (zero); `relaxation` is None on the coarsest level. Where the next level is Δ-corrected,
    `products` [intervals or more, ...] are those of the Jacobians' diagonals over each interval's layers to its
    F-points, as of the latest F-sweep; where this one is, `delta` is its correction.
    """

    grid: Grid
    states: States
    propagator: Propagator
    communicator: Communicator
    relaxation: Relaxation | None
    g: Tensor | None = None
    products: Tensor | None = None
    delta: Delta | None = None

    @property
    def is_coarsest(self) -> bool:
        """Whether this level is solved serially."""
        return self.grid.coarsening is None

    def terms(self, window: Window, *, take_products: bool = False) -> Terms:
        """What a sweep of `window` adds to Φ: the right-hand side and Δ there, and `products` where these are taken."""
        delta = self.delta
        values, anchors = (None, None) if delta is None else (delta.values, delta.anchors)
        products = self.products[window.intervals] if take_products and self.products is not None else None
        return Terms(self.g, values, anchors, products).of(window.own_layers, window.points)

    def deepen(self, steps: int) -> None:
        """Count `steps` more dependent steps of this level."""
        self.propagator.work.sequential_depth += steps * self.propagator.depth(self.grid)
