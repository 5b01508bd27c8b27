"""The states of the forward solve at which the adjoint's layers are linearised."""

import torch
from torch import Tensor

from lpgpu.mgrit import AllPoints, Grid, States
from lpgpu.mgrit.exchange import c_point_below
from lpgpu.mgrit.halo import HaloOf
from lpgpu.nn.propagators.extended import Extended


class FineStates:
    """u at the points that layers of the network start from, those of a halo included once it is taken."""

    def __init__(self, grid: Grid, u: States) -> None:
        self.grid = grid
        self.u = u
        self._below: Tensor | None = None
        self._halo: Tensor | None = None

    @property
    def num_in_halo(self) -> int:
        """How many layers beyond this rank's own there are states of."""
        return 0 if self._halo is None else len(self._halo)

    def stored(self, layers: slice) -> Tensor | None:
        """u where `layers` of the network start; None where the solve has not stored all of them."""
        if isinstance(self.u, AllPoints):
            own = self.u.u[self.grid.all_layers]
            return own[layers] if self._halo is None else Extended(own, self._halo)[layers]
        m, first = self.grid.interval, self.grid.c_points.start
        ks = range(layers.start, layers.stop, layers.step or 1)
        if any((k - first) % m for k in ks[:2]) or ks[-1] >= self.grid.local_steps:
            return None
        return self.u.c_points[(ks[0] - first) // m : (ks[-1] - first) // m + 1 : max(1, ks.step // m)]

    def at_c_points_before(self, layers: slice) -> Tensor:
        """u at the last C-point before each of `layers`: a substitute where F-points are not stored."""
        m, first, count = self.grid.interval, self.grid.c_points.start, self.grid.local_steps
        step, c_points = layers.step or 1, self.u.c_points
        own = range(layers.start, min(layers.stop, count), step)
        ks = torch.arange(own.start, own.start + step * len(own), step, device=c_points.device)
        if self._below is not None:
            c_points, first = torch.cat([self._below[None], c_points]), first - m
        at = c_points[torch.div(ks - first, m, rounding_mode="floor")]
        if self._halo is None or layers.stop <= count:
            return at
        beyond = layers.start + step * len(own) - count
        return torch.cat([at, self._halo[beyond : layers.stop - count : step]])

    def take_halo(self, halo_of: HaloOf) -> None:
        """Get the states of the layers beyond this rank's own; all ranks call together."""
        if isinstance(self.u, AllPoints):
            self._halo = halo_of(self.u.u[self.grid.all_layers])
            return
        self._below = c_point_below(halo_of.communicator, self.grid, self.u)
        self._halo = halo_of(self.at_c_points_before(slice(0, halo_of.layers_sent, 1)))
