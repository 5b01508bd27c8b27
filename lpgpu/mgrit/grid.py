"""A time grid: which layers form a level, and which of them a sweep visits. Pure arithmetic; no tensor is touched.

A level has N layers k = 0 … N−1 between the points 0 … N; layer k leads from point k to k+1. C-points are 0, m, 2m, …;
an *interval* is the m layers that start at one, the last interval may be shorter. All layers at one *position* of their
intervals are a strided slice, so that a sweep is a few batched steps, and no N, m or level count is a special case.

The adjoint marches the other way, from point N to 0, on the *transposed* grid: the same C-points, layer k leading from
k+1 to k. Reversing the index instead would put the C-points elsewhere as soon as m does not divide N.

A rank has the layers a … a+n−1 and the points around them; all slices count from its own a. One process has a = 0 and
n = N. An interval that begins on one rank may end on another:

    C-points     |   h               e  |      the first and the last one here
    layers       |head|  whole … |  tail|      head, tail: what is here of intervals that other ranks share
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from lpgpu.kernels.sweep import Sweep
from lpgpu.mgrit.partition import Partition
from lpgpu.mgrit.slices import length, shifted


@dataclass(frozen=True)
class Grid:
    """One level of a hierarchy, as one rank sees it.

    `num_steps` is N; `coarsening` m is None on the coarsest level, which is then one interval; `stride` σ is the number
    of finest layers that one layer of this level spans; `reverse` says which way it is marched; `partition` which
    points are whose (None: all are this process's own).
    """

    level: int
    num_steps: int
    coarsening: int | None
    stride: int = 1
    reverse: bool = False
    partition: Partition | None = None

    @cached_property
    def interval(self) -> int:
        """m, the layers of a full interval (N on the coarsest level)."""
        return self.coarsening or self.num_steps

    @cached_property
    def num_coarse_steps(self) -> int:
        """⌊N/m⌋, the layers of the next level, on all ranks together."""
        return self.num_steps // self.interval

    @property
    def remainder(self) -> int:
        """N mod m, the layers of a short last interval; 0 when there is none."""
        return self.num_steps % self.interval

    @cached_property
    def first(self) -> int:
        """a, this rank's first point."""
        return self.partition.first if self.partition else 0

    @cached_property
    def local_steps(self) -> int:
        """n, the layers of this rank."""
        return self.partition.num_local_layers if self.partition else self.num_steps

    @cached_property
    def local_points(self) -> int:
        """n + 1, or none where this rank has no part in the level."""
        return self.local_steps + 1 if self.takes_part else 0

    @cached_property
    def takes_part(self) -> bool:
        """Whether this rank owns any point of the level."""
        return self.partition is None or self.partition.takes_part

    @property
    def below(self) -> int | None:
        """The rank whose last point is this one's first."""
        return self.partition.below if self.partition else None

    @property
    def above(self) -> int | None:
        """The rank whose first point is this one's last."""
        return self.partition.above if self.partition else None

    @property
    def upstream(self) -> int | None:
        """The rank from which the march arrives here."""
        return self.above if self.reverse else self.below

    @property
    def downstream(self) -> int | None:
        """The rank to which the march goes on from here."""
        return self.below if self.reverse else self.above

    @property
    def start(self) -> int:
        """The point from which this rank marches: its first, or its last in reverse."""
        return self.local_steps if self.reverse else 0

    @property
    def end(self) -> int:
        """The point at which this rank's march arrives."""
        return 0 if self.reverse else self.local_steps

    @property
    def begins(self) -> bool:
        """Whether the march begins at `start`, where the state is given."""
        return self.takes_part and self.upstream is None

    @property
    def ends(self) -> bool:
        """Whether the march ends here."""
        return self.takes_part and self.downstream is None

    def of_level(self, point: int) -> int:
        """A point of this rank, as a point of the whole level."""
        return self.first + point

    def is_c(self, point: int) -> bool:
        """Whether a point of the whole level is a C-point."""
        return point % self.interval == 0

    @cached_property
    def c_points(self) -> slice:
        """The points 0, m, 2m, … ≤ N that are here."""
        return slice(-self.first % self.interval, self.local_points, self.interval)

    @property
    def owned_c_points(self) -> slice:
        """Those of the C-points here that this rank owns, as indices into them."""
        shared = self.above is not None and self.is_c(self.of_level(self.local_steps))
        return slice(0, length(self.c_points) - shared)

    @cached_property
    def f_positions(self) -> range:
        """The positions of an interval whose layers lead to F-points, in marching order."""
        positions = self._positions
        if self.reverse:
            return range(positions.stop - 1, max(positions.start, 1) - 1, -1)
        return range(positions.start, min(positions.stop, self.interval - 1))

    @cached_property
    def all_positions(self) -> range:
        """Every position of an interval in marching order."""
        return self._positions[::-1] if self.reverse else self._positions

    @cached_property
    def c_layers(self) -> slice:
        """The layers that lead to C-points: the last of each full interval, or the first of every one in reverse."""
        position = 0 if self.reverse else self.interval - 1
        return slice((position - self.first) % self.interval, self.local_steps, self.interval)

    @cached_property
    def c_targets(self) -> slice:
        """Where `c_layers` lead to, as indices into the C-points."""
        layers = self.c_layers
        first = (self.targets(layers).start - self.c_points.start) // self.interval
        return slice(first, first + length(layers))

    @property
    def all_layers(self) -> slice:
        """This rank's layers 0 … n−1."""
        return slice(0, self.local_steps, 1)

    def of_network(self, layers: slice) -> slice:
        """Layers of this level as those layers of the network, among this rank's, whose parameters they use."""
        shift = self.stride * self.first - (self.partition.origin if self.partition else 0)
        return slice(layers.start * self.stride + shift, layers.stop * self.stride + shift, layers.step * self.stride)

    def sources(self, layers: slice) -> slice:
        """The points that `layers` start from."""
        return shifted(layers, 1) if self.reverse else layers

    def targets(self, layers: slice) -> slice:
        """The points that `layers` lead to."""
        return layers if self.reverse else shifted(layers, 1)

    @cached_property
    def head(self) -> int:
        """The layers here of an interval that began below."""
        return min(self.c_points.start, self.local_steps)

    @cached_property
    def tail(self) -> int:
        """The layers here of an interval that ends above, or at N: from the last C-point on."""
        return min(self.of_level(self.local_steps) % self.interval, self.local_steps)

    @property
    def tail_is_short(self) -> bool:
        """Whether `tail` is of a short last interval."""
        return self.of_level(self.local_steps) > self.num_coarse_steps * self.interval

    @cached_property
    def num_pieces(self) -> int:
        """The intervals, whole or in part, that are here."""
        return -(-(self.first % self.interval + self.local_steps) // self.interval)

    def starting(self, chunk: int | None = None) -> Iterator["Window"]:
        """The windows, of `chunk` intervals (None: in one), that sweeps enter from C-points here.

        In reverse that is all but the tail, with the head in a window of its own, which comes first: its state is what
        the rank below waits for.
        """
        c_point, stop = self.c_points.start, self.local_steps
        if self.reverse:
            stop -= self.tail
            if 0 < self.head == c_point:
                yield Window(self, 0, c_point)
        chunk = chunk or max(1, self.num_pieces)
        for first in range(c_point, stop, chunk * self.interval):
            yield Window(self, first, min(first + chunk * self.interval, stop))

    def entered(self) -> Iterator["Window"]:
        """The window, if any, that sweeps enter from this rank's `start`: the head, or in reverse the tail."""
        layers = self.tail if self.reverse else self.head
        if layers:
            first = self.local_steps - layers if self.reverse else 0
            yield Window(self, first, first + layers)

    def windows(self, chunk: int | None = None) -> Iterator["Window"]:
        """All windows: this rank's layers, each once."""
        return chain(self.starting(chunk), self.entered())

    @property
    def _positions(self) -> range:
        if self.coarsening is None:
            return range(self.first, self.first + self.local_steps)
        return range(self.interval)


@dataclass(frozen=True)
class Window:
    """The layers `first` … `stop`−1 of a grid, with the points `first` … `stop` around them.

    They are whole intervals (of which the last may be cut short), or a piece of one.
    """

    grid: Grid
    first: int
    stop: int

    @property
    def points(self) -> slice:
        """The window's points on its grid."""
        return slice(self.first, self.stop + 1)

    @property
    def c_points(self) -> slice:
        """The window's C-points, as indices into the grid's C-points."""
        m, first = self.grid.interval, self.grid.c_points.start
        return slice(-((first - self.first) // m), (self.stop - first) // m + 1)

    @property
    def local_c_points(self) -> slice:
        """The window's C-points, as indices into its own states."""
        m = self.grid.interval
        return slice((self.grid.c_points.start - self.first) % m, self.stop - self.first + 1, m)

    @property
    def intervals(self) -> slice:
        """The window's intervals, of those that are here, whole or in part."""
        m = self.grid.interval
        offset = self.grid.first % m
        return slice((self.first + offset) // m, -(-(self.stop + offset) // m))

    def layers(self, position: int) -> slice:
        """The layers at `position` of the window's intervals."""
        m = self.grid.interval
        offset = (position - self.grid.of_level(self.first)) % m
        return slice(min(self.first + offset, self.stop), self.stop, m)

    def sweep(self, positions: Iterable[int]) -> Sweep | None:
        """Steps through `positions` of all intervals, as a sweep of the window's own layers; None where it has none."""
        starts = [layers.start - self.first for layers in map(self.layers, positions) if length(layers)]
        if not starts:
            return None
        return Sweep(self.stop - self.first, starts[0], self.grid.interval, len(starts), self.grid.reverse)

    @property
    def own_layers(self) -> slice:
        """The window's layers on its grid."""
        return slice(self.first, self.stop, 1)

    def on_grid(self, layers: slice) -> slice:
        """The window's own layers as layers of the grid."""
        return shifted(layers, self.first)

    def local(self, points: slice) -> slice:
        """Points of the grid as indices into the window's own states."""
        return shifted(points, -self.first)
