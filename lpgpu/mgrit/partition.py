"""Which rank owns which points of a level. Pure arithmetic of (points, ranks, rank); no message is sent.

Rank r owns the points `cuts[r]` … `cuts[r + 1]` − 1 of a level's points 0 … N. Layer k belongs to the owner of point k,
so a rank also holds, without owning it, the point that its last layer joins to the next rank's first one. Coarsening by
m keeps the C-points 0, m, 2m, … with their owners:

    cuts_c = ⌈cuts / m⌉

so parameters θ_{Km}, inputs and the states that a coarse layer K needs are where it is. Where ranks outnumber the
points of a level some own none, and have no part in it; its last rank may own point N alone, and no layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise


@dataclass(frozen=True)
class Partition:
    """The cuts of one level, 0 = cuts[0] ≤ … ≤ cuts[P] = N + 1, as rank `rank` of P sees them; σ is the level's stride.

    `origin` is this rank's first layer of the finest level.
    """

    cuts: tuple[int, ...]
    rank: int
    stride: int = 1
    origin: int = 0

    @classmethod
    def of_blocks(cls, blocks: Sequence[int], rank: int) -> "Partition":
        """The finest level, where rank r has `blocks[r]` ≥ 1 layers."""
        *cuts, num_layers = accumulate(blocks, initial=0)
        return cls((*cuts, num_layers + 1), rank, origin=cuts[rank])

    @property
    def num_layers(self) -> int:
        """N, of all ranks together."""
        return self.cuts[-1] - 1

    @property
    def first(self) -> int:
        """a, the first point that this rank owns, if it owns any."""
        return self.cuts[self.rank]

    @property
    def takes_part(self) -> bool:
        """Whether this rank owns any point."""
        return self.cuts[self.rank] < self.cuts[self.rank + 1]

    @cached_property
    def taking_part(self) -> tuple[int, ...]:
        """The ranks that own any point."""
        return tuple(rank for rank, (first, stop) in enumerate(pairwise(self.cuts)) if first < stop)

    @property
    def num_local_layers(self) -> int:
        """The layers from this rank's points."""
        return max(0, min(self.cuts[self.rank + 1], self.num_layers) - self.first)

    @cached_property
    def below(self) -> int | None:
        """The rank that owns point a − 1; None where there is none, or this rank takes no part."""
        return self._nearest(range(self.rank - 1, -1, -1))

    @cached_property
    def above(self) -> int | None:
        """The rank that owns the point after this rank's last; None as for `below`."""
        return self._nearest(range(self.rank + 1, len(self.cuts) - 1))

    def coarsened(self, m: int) -> "Partition":
        """The partition of the level of every m-th point."""
        cuts = tuple(-(-cut // m) for cut in self.cuts[:-1])
        return Partition((*cuts, self.num_layers // m + 1), self.rank, self.stride * m, self.origin)

    def _nearest(self, ranks: range) -> int | None:
        if not self.takes_part:
            return None
        return next((rank for rank in ranks if self.cuts[rank] < self.cuts[rank + 1]), None)
