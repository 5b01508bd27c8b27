"""Relaxation: solve every interval (F), or every step onto a C-point (C), at once and independently of the others."""

from collections.abc import Iterable

from torch import Tensor

from lpgpu.mgrit.exchange import Boundary, arrive_at_start
from lpgpu.mgrit.grid import Window
from lpgpu.mgrit.level import Level
from lpgpu.mgrit.slices import parts_of


def relax(level: Level, *, f_points_current: bool) -> None:
    """F- or FCF-relaxation. `f_points_current`: an F-sweep has just been done and is not repeated."""
    if not f_points_current:
        first_f_relax(level)
    if level.relaxation == "FCF":
        c_relax(level)
        f_relax(level, before_restriction=True)


def f_relax(level: Level, *, full_intervals_only: bool = False, before_restriction: bool = False) -> None:
    """Propagate each interval's C-point through its F-points.

    Intervals that start here are swept, and their end passed on, before that of an interval from upstream is waited
    for; a rank on which none starts passes on what it got. The Jacobians' products that Δ wants are taken
    `before_restriction`; with F-relaxation that is every sweep, as the one that ends a cycle also begins the next.
    """
    grid = level.grid
    take_products = before_restriction or level.relaxation == "F"
    short_from = grid.num_coarse_steps * grid.interval
    boundary = Boundary(level, lambda p: not grid.is_c(p) and not (full_intervals_only and p > short_from))
    starting = list(level.states.starting())
    for window in starting:
        _sweep(level, window, grid.f_positions, take_products=take_products)
    if starting:
        boundary.send()
    boundary.wait()
    if not (full_intervals_only and grid.tail_is_short):
        for window in grid.entered():
            _sweep(level, window, grid.f_positions, take_products=take_products)
    if not starting:
        boundary.send()
    level.deepen(grid.interval - 1)


def c_relax(level: Level) -> None:
    """Update each C-point from the F-point before it."""
    grid, states = level.grid, level.states
    boundary = Boundary(level, grid.is_c)
    out, sources = states.c_points[grid.c_targets], states.c_sources
    for layers, rows in parts_of(grid.c_layers, states.width):
        level.propagator.step(grid, layers, sources[rows], out[rows])
        if level.delta is not None:
            level.delta.correct_(out[rows], layers, sources[rows])
    if level.g is not None:
        out += level.g[grid.targets(grid.c_layers)]
    level.deepen(1)
    boundary.send()
    boundary.wait()


def first_f_relax(level: Level, *, before_restriction: bool = False) -> None:
    """The F-relaxation that enters a level: in reverse, a short last interval first, onto its C-point.

    That interval starts at the given point N, which is no C-point, and leads to the C-point that the coarse grid starts
    from; swept once from end to end it is exact.
    """
    sweep_short_interval(level)
    f_relax(level, full_intervals_only=level.grid.reverse, before_restriction=before_restriction)


def sweep_short_interval(level: Level) -> None:
    """Propagate through the whole short last interval of a reversed grid, where there is one."""
    grid = level.grid
    if not (grid.reverse and grid.remainder):
        return
    boundary = Boundary(level, lambda point: point >= grid.num_coarse_steps * grid.interval)
    boundary.wait()
    if grid.tail_is_short:
        for window in grid.entered():
            _sweep(level, window, grid.all_positions)
    boundary.send()
    level.deepen(grid.remainder)


def solve_serially(level: Level) -> None:
    """Propagate from the given point through all layers: exact, and the coarsest level's only way.

    Ranks march one after the other; where the level is affine all at once, after a logarithmic exchange of their maps.
    """
    if level.propagator.is_affine and level.communicator.size > 1:
        _march_to_end(level, from_zero=not level.grid.begins)
        arrive_at_start(level, _product_of(level))
        _march_to_end(level)
    else:
        boundary = Boundary(level, lambda point: True)
        boundary.wait()
        _march_to_end(level)
        boundary.send()
    level.deepen(level.grid.num_steps)


def _product_of(level: Level) -> Tensor:
    """What an affine level multiplies a state by, from this rank's start to its end."""
    if level.delta is None:
        raise ValueError("an affine level is posed by a restriction, which has not been")
    return level.delta.values[level.grid.all_layers].prod(0)


def _march_to_end(level: Level, *, from_zero: bool = False) -> None:
    if from_zero and level.grid.takes_part:
        level.states.start.zero_()
    for window in level.states.windows():
        _sweep(level, window, level.grid.all_positions)


def _sweep(level: Level, window: Window, positions: Iterable[int], *, take_products: bool = False) -> None:
    with level.states.open(window) as u:
        level.propagator.sweep(window, positions, u, level.terms(window, take_products=take_products))
