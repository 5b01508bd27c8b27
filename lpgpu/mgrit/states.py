"""Where the states of a level live: at all points, or at the C-points only, the others being swept when needed.

Both offer the same three things, which are all that relaxation and FAS touch: the C-points, the F-points from which
C-points are computed, and windows of points to sweep through.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor

from lpgpu.mgrit.hierarchy import Grid, Window, length

EmptyStates = Callable[[int], Tensor]


class States(ABC):
    """The states of one level; every tensor is [points, ...] with the points its name says, writable in place."""

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
        """u where it is given, without the leading dimension."""

    @property
    @abstractmethod
    def end(self) -> Tensor:
        """u where the march arrives, without the leading dimension."""

    @abstractmethod
    def read(self, window: Window) -> AbstractContextManager[Tensor]:
        """As `open`, to look at or to sweep again: nothing that is done to F-points need be kept."""

    @abstractmethod
    def open(self, window: Window) -> AbstractContextManager[Tensor]:
        """The states at all points of a window, to be swept in place. F-points may come in undefined."""

    def windows(self) -> Iterator[Window]:
        """The level cut into windows of `chunk` intervals."""
        return self.grid.windows(self.chunk)


class AllPoints(States):
    """Every state is kept: [N + 1, ...]."""

    def __init__(self, grid: Grid, u: Tensor, chunk: int | None = None) -> None:
        super().__init__(grid, u, chunk)

    @property
    def c_points(self) -> Tensor:
        return self.u[self.grid.c_points]

    @property
    def c_sources(self) -> Tensor:
        return self.u[self.grid.sources(self.grid.c_layers)]

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
    """C-points are kept, and the last point where it is none: ⌊N/m⌋ + 1 states, or one more.

    A window is swept in scratch memory of its own size. During a solve the F-points before the C-points are kept too;
    `release_scratch` lets go of these and of the scratch.
    """

    def __init__(self, grid: Grid, empty: EmptyStates, chunk: int | None = None) -> None:
        m = grid.interval
        super().__init__(grid, empty(grid.num_coarse_steps + 1), chunk or max(1, grid.num_coarse_steps // m))
        self._empty = empty
        self._last = empty(1) if grid.remainder else self.u[-1:]
        self._sources: Tensor | None = None
        self._scratch: Tensor | None = None

    @property
    def c_points(self) -> Tensor:
        return self.u

    @property
    def c_sources(self) -> Tensor:
        if self._sources is None:
            self._sources = self._empty(length(self.grid.c_layers))
        return self._sources

    @property
    def start(self) -> Tensor:
        return self._last[0] if self.grid.reverse else self.u[0]

    @property
    def end(self) -> Tensor:
        return self.u[0] if self.grid.reverse else self._last[0]

    @contextmanager
    def open(self, window: Window) -> Iterator[Tensor]:
        u = self._load(window)
        yield u
        grid, m = self.grid, self.grid.interval
        self.u[window.c_points] = u[::m]
        if window.stop == grid.num_steps and grid.remainder:
            self._last[0] = u[-1]
        layers = window.layers(grid.c_layers.start)
        first = window.first // m
        self.c_sources[first : first + length(layers)] = u[window.local(grid.sources(layers))]

    @contextmanager
    def read(self, window: Window) -> Iterator[Tensor]:
        yield self._load(window)

    def release_scratch(self) -> None:
        """Keep nothing but the C-points and the last point."""
        self._sources = self._scratch = None

    def _load(self, window: Window) -> Tensor:
        size = window.stop - window.first + 1
        if self._scratch is None or len(self._scratch) < size:
            self._scratch = self._empty(size)
        u = self._scratch[:size]
        u[:: self.grid.interval] = self.u[window.c_points]
        if window.stop == self.grid.num_steps and self.grid.remainder:
            u[-1] = self._last[0]
        return u
