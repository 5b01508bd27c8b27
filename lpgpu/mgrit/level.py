"""One level of a solve: its grid, its states, its right-hand side, and the propagator that all levels share."""

from dataclasses import dataclass

from torch import Tensor

from lpgpu.comm import Communicator
from lpgpu.mgrit.delta import Delta
from lpgpu.mgrit.hierarchy import Grid
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

    def deepen(self, steps: int) -> None:
        """Count `steps` more dependent Φ evaluations."""
        self.propagator.work.sequential_depth += steps
