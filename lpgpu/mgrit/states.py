"""Where the states of a level live: at all points, or at the C-points only, the others being swept when needed.

Both offer the same three things, which are all that relaxation and FAS touch: the C-points, the F-points from which
C-points are computed, and windows of points to sweep through.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor

from lpgpu.mgrit.grid import Grid, Window
from lpgpu.mgrit.slices import length

EmptyStates = Callable[[int], Tensor]


class States(ABC):
    """The states of one level; every tensor is [points, ...] with the points its name says, writable in place.

    `width`: how many layers to evaluate at a time at most, where memory is to be saved; None: all that are asked for.
    """

    width: int | None = None

    def __init__(self, grid: Grid, u: Tensor, chunk: int | None) -> None:
        self.grid = grid
        self.u = u
        self.chunk = chunk

    @property
    @abstractmethod
    def c_points(self) -> Tensor:
        """u at 0, m, 2m, …"""

    @property
    @abstractmethod
    def c_sources(self) -> Tensor:
        """u at the points from which `grid.c_layers` lead to C-points."""

    @property
    @abstractmethod
    def start(self) -> Tensor:
        """u where this rank's march begins: given, or heard from upstream; without the leading dimension."""

    @property
    @abstractmethod
    def end(self) -> Tensor:
        """u where this rank's march arrives, without the leading dimension."""

    @abstractmethod
    def read(self, window: Window) -> AbstractContextManager[Tensor]:
        """As `open`, to look at or to sweep again: nothing that is done to F-points need be kept."""

    @abstractmethod
    def open(self, window: Window) -> AbstractContextManager[Tensor]:
        """The states at all points of a window, to be swept in place. F-points may come in undefined."""

    @abstractmethod
    def take_arrivals(self) -> Tensor:
        """Room for Φ(u) at the points that `grid.c_layers` lead to: [1 + C-layers + 1, ...], undefined.

        Where `c_sources` have memory of their own this is it: row 1 + i lies where source i does. They are not looked
        at again before the next sweep.
        """

    def release_sources(self) -> None:  # noqa: B027
        """Be told that `c_sources` are not looked at again before the next sweep."""

    def starting(self) -> Iterator[Window]:
        """The windows of `chunk` intervals that sweeps enter from C-points here."""
        return self.grid.starting(self.chunk)

    def windows(self) -> Iterator[Window]:
        """The level cut into windows of `chunk` intervals."""
        return self.grid.windows(self.chunk)


class AllPoints(States):
    """Every state is kept: [n + 1, ...]."""

    def __init__(self, grid: Grid, u: Tensor, chunk: int | None = None) -> None:
        super().__init__(grid, u, chunk)

    @property
    def c_points(self) -> Tensor:
        return self.u[self.grid.c_points]

    @property
    def c_sources(self) -> Tensor:
        return self.u[self.grid.sources(self.grid.c_layers)]

    def take_arrivals(self) -> Tensor:
        u = self.u
        return u.new_empty_strided((length(self.grid.c_layers) + 2, *u.shape[1:]), u.stride())

    @property
    def start(self) -> Tensor:
        return self.u[self.grid.start]

    @property
    def end(self) -> Tensor:
        return self.u[self.grid.end]

    @contextmanager
    def open(self, window: Window) -> Iterator[Tensor]:
        yield self.u[window.points]

    read = open


class CPointsOnly(States):
    """C-points are kept, and this rank's first and last point where they are none.

    A window is swept in memory of its own; its F-points before C-points are kept until they have been used.
    """

    def __init__(self, grid: Grid, empty: EmptyStates, chunk: int | None = None) -> None:
        count = length(grid.c_points)
        super().__init__(grid, empty(count), chunk or _intervals_at_a_time(grid))
        self.width = self.chunk
        self._empty = empty
        self._first = self.u[:1] if grid.is_c(grid.of_level(0)) else empty(1)
        self._last = self.u[-1:] if grid.is_c(grid.of_level(grid.local_steps)) else empty(1)
        self._arrivals: Tensor | None = None

    @property
    def c_points(self) -> Tensor:
        return self.u

    @property
    def c_sources(self) -> Tensor:
        return self._room()[1:-1]

    def take_arrivals(self) -> Tensor:
        arrivals, self._arrivals = self._room(), None
        return arrivals

    @property
    def start(self) -> Tensor:
        return self._last[0] if self.grid.reverse else self._first[0]

    @property
    def end(self) -> Tensor:
        return self._first[0] if self.grid.reverse else self._last[0]

    @contextmanager
    def open(self, window: Window) -> Iterator[Tensor]:
        u = self._load(window)
        yield u
        grid = self.grid
        self.u[window.c_points] = u[window.local_c_points]
        if window.first == 0:
            self._first[0] = u[0]
        if window.stop == grid.local_steps:
            self._last[0] = u[-1]
        layers = window.layers(0 if grid.reverse else grid.interval - 1)
        first = (layers.start - grid.c_layers.start) // grid.interval
        if self._arrivals is None:
            self._arrivals = self._empty(length(grid.c_layers) + 2)
        self.c_sources[first : first + length(layers)] = u[window.local(grid.sources(layers))]

    @contextmanager
    def read(self, window: Window) -> Iterator[Tensor]:
        yield self._load(window)

    def release_sources(self) -> None:
        self._arrivals = None

    def _room(self) -> Tensor:
        if self._arrivals is None and length(self.grid.c_layers):
            raise ValueError("the states before C-points are gone: no sweep has been done since they were used")
        return self._empty(2) if self._arrivals is None else self._arrivals

    def _load(self, window: Window) -> Tensor:
        u = self._empty(window.stop - window.first + 1)
        u[window.local_c_points] = self.u[window.c_points]
        if window.first == 0:
            u[0] = self._first[0]
        if window.stop == self.grid.local_steps:
            u[-1] = self._last[0]
        return u


def _intervals_at_a_time(grid: Grid) -> int:
    """As many as take three quarters of what three states a C-point leave of a checkpoint for every layer.

    Each takes m states in a forward and m in an adjoint window, and 8 that a block computes with.
    """
    m = grid.interval
    return max(1, 3 * grid.local_steps * (m - 3) // (4 * m * (2 * m + 8)))
