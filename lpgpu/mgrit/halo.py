"""The halo of a rank: the finest layers beyond its own that the last Picard step it owns goes through.

A coarse layer belongs to the rank that owns the point it starts from; the finest layers that it spans may lie on the
ranks above. Their parameters, and for the adjoint the states that they start from, are sent down once a solve. Pure
arithmetic: which layers go where; no message is sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from torch import Tensor

from lpgpu.comm import Communicator
from lpgpu.mgrit.grid import Grid


@dataclass(frozen=True)
class Halo:
    """How many of its first finest layers each rank above sends here, and how many of this rank's go below.

    `sources` and `targets` are pairs of a rank and a number of layers, nearest rank first.
    """

    sources: tuple[tuple[int, int], ...] = ()
    targets: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, grids: Sequence[Grid]) -> Self:
        """The halo of this rank for Picard steps on all grids below the finest."""
        partition = grids[0].partition
        if partition is None:
            return cls()
        here, cuts, num_layers = partition.rank, partition.cuts, partition.num_layers

        def sent(to: int, by: int) -> int:
            return max(0, min(_end(grids, to), cuts[by + 1], num_layers) - cuts[by])

        above, below = range(here + 1, len(cuts) - 1), range(here - 1, -1, -1)
        return cls(
            tuple((rank, sent(here, rank)) for rank in above if sent(here, rank)),
            tuple((rank, sent(rank, here)) for rank in below if sent(rank, here)),
        )


class HaloOf(Protocol):
    """What gets a rank the halo of a tensor [n, ...] of its layers, [h, ...]; all ranks call together."""

    communicator: Communicator

    @property
    def layers_sent(self) -> int:
        """How many of this rank's first layers go to the ranks below, at most."""
        ...

    def __call__(self, own: Tensor) -> Tensor: ...


def _end(grids: Sequence[Grid], rank: int) -> int:
    """The first finest layer that no coarse layer of this rank goes through any more."""
    ends = [0]
    for grid in grids[1:]:
        if grid.partition is not None:
            first, stop = grid.partition.cuts[rank], min(grid.partition.cuts[rank + 1], grid.num_steps)
            ends.append(stop * grid.stride if stop > first else 0)
    return max(ends)
