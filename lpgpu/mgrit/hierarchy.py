"""Time grids: which layers form which level, and which of them a sweep visits. Pure arithmetic; no tensor is touched.

A level has N layers k = 0 … N−1 between the points 0 … N; layer k leads from point k to k+1. C-points are 0, m, 2m, …;
an *interval* is the m layers that start at one, the last interval may be shorter. All layers at one *position* of their
intervals are a strided slice, so that a sweep is a few batched steps, and no N, m or level count is a special case.

The adjoint marches the other way, from point N to 0, on the *transposed* grid: the same C-points, layer k leading from
k+1 to k. Reversing the index instead would put the C-points elsewhere as soon as m does not divide N.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Grid:
    """One level of a hierarchy.

    `num_steps` is N; `coarsening` m is None on the coarsest level, which is then one interval; `stride` σ is the number
    of finest layers that one layer of this level spans; `reverse` says which way it is marched.
    """

    level: int
    num_steps: int
    coarsening: int | None
    stride: int = 1
    reverse: bool = False

    @property
    def interval(self) -> int:
        """m, the layers of a full interval (N on the coarsest level)."""
        return self.coarsening or self.num_steps

    @property
    def num_intervals(self) -> int:
        """⌈N/m⌉, a short last one included."""
        return -(-self.num_steps // self.interval)

    @property
    def num_coarse_steps(self) -> int:
        """⌊N/m⌋, the layers of the next level."""
        return self.num_steps // self.interval

    @property
    def remainder(self) -> int:
        """N mod m, the layers of a short last interval; 0 when there is none."""
        return self.num_steps % self.interval

    @property
    def start(self) -> int:
        """The point whose state is given: 0, or N when marched in reverse."""
        return self.num_steps if self.reverse else 0

    @property
    def end(self) -> int:
        """The point at which the march arrives."""
        return 0 if self.reverse else self.num_steps

    @property
    def c_points(self) -> slice:
        """The points 0, m, 2m, … ≤ N."""
        return slice(0, self.num_steps + 1, self.interval)

    @property
    def f_positions(self) -> range:
        """The positions of an interval whose layers lead to F-points, in marching order."""
        return range(self.interval - 1, 0, -1) if self.reverse else range(self.interval - 1)

    @property
    def all_positions(self) -> range:
        """Every position of an interval in marching order."""
        return range(self.interval - 1, -1, -1) if self.reverse else range(self.interval)

    @property
    def c_layers(self) -> slice:
        """The layers that lead to C-points: the last of each full interval, or the first of every one in reverse."""
        return slice(0 if self.reverse else self.interval - 1, self.num_steps, self.interval)

    @property
    def c_targets(self) -> slice:
        """Where `c_layers` lead to, as indices into the C-points."""
        return slice(0, self.num_intervals) if self.reverse else slice(1, self.num_coarse_steps + 1)

    @property
    def all_layers(self) -> slice:
        """Layers 0 … N−1."""
        return slice(0, self.num_steps, 1)

    def sources(self, layers: slice) -> slice:
        """The points that `layers` start from."""
        return _shifted(layers, 1) if self.reverse else layers

    def targets(self, layers: slice) -> slice:
        """The points that `layers` lead to."""
        return layers if self.reverse else _shifted(layers, 1)

    def windows(self, chunk: int | None = None) -> Iterator["Window"]:
        """Cut the grid into windows of `chunk` intervals (None: all of them in one).

        In reverse a short last interval gets a window of its own: it is the one that is swept first.
        """
        full = self.num_coarse_steps if self.reverse else self.num_intervals
        chunk = chunk or max(full, 1)
        for first in range(0, full, chunk):
            stop = min(first + chunk, full) * self.interval
            yield Window(self, first * self.interval, min(stop, self.num_steps))
        if self.reverse and self.remainder:
            yield self.short_window

    @property
    def short_window(self) -> "Window":
        """The short last interval, on its own."""
        return Window(self, self.num_steps - self.remainder, self.num_steps)


@dataclass(frozen=True)
class Window:
    """The layers `first` … `stop`−1 of a grid, whole intervals, with the points `first` … `stop` around them."""

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
        m = self.grid.interval
        return slice(self.first // m, self.stop // m + 1)

    @property
    def intervals(self) -> slice:
        """The window's intervals."""
        m = self.grid.interval
        return slice(self.first // m, -(-self.stop // m))

    def layers(self, position: int) -> slice:
        """The layers at `position` of the window's intervals."""
        return slice(min(self.first + position, self.stop), self.stop, self.grid.interval)

    def local(self, points: slice) -> slice:
        """Points of the grid as indices into the window's own states."""
        return _shifted(points, -self.first)


@dataclass(frozen=True)
class Hierarchy:
    """Grids, finest first."""

    grids: tuple[Grid, ...]

    @classmethod
    def build(cls, num_steps: int, coarsening: Sequence[int], min_coarse_steps: int = 2) -> "Hierarchy":
        """The grids of `num_steps` layers, coarsened by each of `coarsening` in turn, finest first.

        Stops early where the next grid would have fewer than `min_coarse_steps` layers. No coarsening at all, or a
        network too short for it, gives one level, which is solved exactly.

        Raises:
            ValueError: when `num_steps` is below 1 or a coarsening below 2.
        """
        if num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}; expected at least 1")
        grids = []
        stride = 1
        for level, m in enumerate(coarsening):
            if m < 2:
                raise ValueError(f"coarsening is {m} on level {level}; expected at least 2")
            if num_steps // m < min_coarse_steps:
                break
            grids.append(Grid(level, num_steps, m, stride))
            num_steps, stride = num_steps // m, stride * m
        grids.append(Grid(len(grids), num_steps, None, stride))
        return cls(tuple(grids))

    def transpose(self) -> "Hierarchy":
        """The same grids, marched the other way."""
        return Hierarchy(tuple(replace(grid, reverse=not grid.reverse) for grid in self.grids))


def length(indices: slice) -> int:
    """How many indices a slice with non-negative bounds selects."""
    return len(range(indices.start, indices.stop, indices.step or 1))


def _shifted(indices: slice, by: int) -> slice:
    return slice(indices.start + by, indices.stop + by, indices.step)
