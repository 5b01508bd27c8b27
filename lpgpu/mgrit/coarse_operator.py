"""Which coarse operator Φ_c a solve takes: what the options say, or "auto": what these layers converge best with.

rediscretised   Φ of the interval's first layer with the step m Δt, and a Δ-correction where that pays (delta.py)
picard          Picard iterations over all layers of the interval (picard.py)
linear          the fine layers' linearisation, solved by a scan (linear.py)
"""

from dataclasses import dataclass, replace
from typing import Self

from lpgpu.mgrit.grid import Grid
from lpgpu.mgrit.hierarchy import Hierarchy
from lpgpu.mgrit.linear import Linear
from lpgpu.mgrit.options import MGRIT
from lpgpu.mgrit.picard import Picard
from lpgpu.mgrit.propagator import Propagator


@dataclass(frozen=True)
class CoarseOperator:
    """The operator of a solve, its order (Picard), and whether it takes the Jacobians' diagonals."""

    name: str
    order: int
    takes_diagonals: bool

    @classmethod
    def of(cls, options: MGRIT, propagator: Propagator) -> Self:
        """What `options` mean for these layers.

        Raises:
            ValueError: for `delta="diagonal"` where the propagator has no diagonal to offer.
        """
        if options.delta == "diagonal" and not propagator.has_diagonal:
            raise ValueError('delta is "diagonal", which these layers do not offer; use "auto" or "none"')
        name, order = options.coarse_operator, options.picard_order
        if name == "auto":
            name, order = propagator.preferred
            if options.delta == "diagonal" or (name == "picard" and options.store == "c_points"):
                name, order = "rediscretised", 1  # which takes Δ, and no states of all fine layers at once
        if name == "picard":
            return cls(name, order, False)
        wanted = options.delta == "diagonal" or (
            options.delta == "auto" and (propagator.has_diagonal if name == "linear" else propagator.prefers_delta)
        )
        return cls(name, order, wanted)

    @property
    def is_linear(self) -> bool:
        """Whether the coarse problem is affine, and so solved on one level."""
        return self.name == "linear"

    @property
    def spans_layers(self) -> bool:
        """Whether a coarse step goes through the finest layers that it spans, which may lie on other ranks."""
        return self.name == "picard"

    def grids(self, hierarchy: Hierarchy) -> tuple[Grid, ...]:
        """The grids that are solved on: a scan solves any number of coarse steps, so it takes two."""
        if not self.is_linear or len(hierarchy.grids) < 2:
            return hierarchy.grids
        return hierarchy.grids[0], replace(hierarchy.grids[1], coarsening=None)

    def propagator(self, fine: Propagator, finest: Grid, chunk: int | None = None) -> Propagator:
        """What propagates the levels below the finest; Picard `chunk` coarse layers at a time."""
        if self.name == "picard":
            return Picard(fine, finest, self.order, chunk)
        return Linear(fine) if self.is_linear else fine
