"""Grids are pure arithmetic: whatever N, m, chunk and direction, each layer is visited once, in an order that works."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpgpu.mgrit.grid import Grid
from lpgpu.mgrit.hierarchy import Hierarchy
from lpgpu.mgrit.slices import length


def indices(of: slice) -> list[int]:
    return list(range(of.start, of.stop, of.step or 1))


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    num_steps = draw(st.integers(1, 70))
    coarsening = draw(st.none() | st.integers(2, max(2, num_steps)))
    return Grid(draw(st.integers(0, 3)), num_steps, coarsening, reverse=draw(st.booleans()))


chunks = st.none() | st.integers(1, 80)


@given(grids())
def test_f_positions_and_c_layers_make_up_every_layer(grid: Grid) -> None:
    visited = indices(grid.c_layers)
    for window in grid.windows():
        for position in grid.f_positions:
            visited += indices(window.layers(position))
    assert sorted(visited) == list(range(grid.num_steps))


@given(grids(), chunks)
def test_all_positions_of_all_windows_are_every_layer(grid: Grid, chunk: int | None) -> None:
    visited = [k for w in grid.windows(chunk) for position in grid.all_positions for k in indices(w.layers(position))]
    assert sorted(visited) == list(range(grid.num_steps))


@given(grids(), chunks)
def test_windows_tile_the_layers_in_whole_intervals(grid: Grid, chunk: int | None) -> None:
    windows = list(grid.windows(chunk))
    assert [k for w in windows for k in range(w.first, w.stop)] == list(range(grid.num_steps))
    for window in windows:
        assert window.first % grid.interval == 0
        assert window.stop % grid.interval == 0 or window.stop == grid.num_steps
        assert chunk is None or window.stop - window.first <= chunk * grid.interval


@given(grids(), chunks)
def test_a_window_knows_its_own_c_points(grid: Grid, chunk: int | None) -> None:
    c_points = indices(grid.c_points)
    for window in grid.windows(chunk):
        inside = [c for c in c_points if window.first <= c <= window.stop]
        assert c_points[window.c_points] == inside
        assert list(range(grid.num_steps + 1))[window.points][:: grid.interval] == inside


@given(grids())
def test_f_layers_lead_to_f_points_and_c_layers_to_c_points(grid: Grid) -> None:
    c_points = indices(grid.c_points)
    for window in grid.windows():
        for position in grid.f_positions:
            for target in indices(grid.targets(window.layers(position))):
                assert target not in c_points
    assert indices(grid.targets(grid.c_layers)) == c_points[grid.c_targets]


@given(grids())
def test_a_layer_joins_neighbouring_points(grid: Grid) -> None:
    layers = grid.all_layers
    sources, targets = indices(grid.sources(layers)), indices(grid.targets(layers))
    assert [t - s for s, t in zip(sources, targets, strict=True)] == [-1 if grid.reverse else 1] * grid.num_steps


@given(grids())
def test_a_sweep_starts_from_points_that_are_known(grid: Grid) -> None:
    """From the C-points (and the given point) on, each position's source is known before it is stepped from."""
    known = {*indices(grid.c_points), grid.start}
    for window in grid.windows():
        for position in grid.f_positions:
            layers = window.layers(position)
            assert known.issuperset(indices(grid.sources(layers)))
            known.update(indices(grid.targets(layers)))
    assert known == set(range(grid.num_steps + 1))
    assert known.issuperset(indices(grid.sources(grid.c_layers)))


@given(grids())
def test_the_march_ends_where_its_transpose_starts(grid: Grid) -> None:
    (transposed,) = Hierarchy((grid,)).transpose().grids
    assert (transposed.start, transposed.end) == (grid.end, grid.start)
    assert {grid.start, grid.end} == {0, grid.num_steps}
    assert transposed.c_points == grid.c_points
    assert Hierarchy((transposed,)).transpose().grids == (grid,)


@given(st.integers(1, 500), st.lists(st.integers(2, 9), max_size=6), st.integers(1, 5))
def test_levels_coarsen_until_too_few_steps_are_left(num_steps: int, coarsening: list[int], least: int) -> None:
    grids = Hierarchy.build(num_steps, coarsening, least).grids
    assert grids[0].num_steps == num_steps
    assert [grid.level for grid in grids] == list(range(len(grids)))
    assert [grid.coarsening for grid in grids] == [*coarsening[: len(grids) - 1], None]
    for fine, coarse in itertools.pairwise(grids):
        assert coarse.num_steps == fine.num_coarse_steps >= least
        assert coarse.stride == fine.stride * fine.interval
        assert coarse.num_steps + 1 == length(fine.c_points)
    if len(grids) <= len(coarsening):
        assert grids[-1].num_steps // coarsening[len(grids) - 1] < least


@pytest.mark.parametrize("num_steps", [0, -1])
def test_a_network_has_layers(num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_steps is {num_steps}; expected at least 1"):
        Hierarchy.build(num_steps, (2,))


@pytest.mark.parametrize("coarsening", [1, 0, -3])
def test_coarsening_below_two_is_refused(coarsening: int) -> None:
    with pytest.raises(ValueError, match=f"coarsening is {coarsening} on level 1; expected at least 2"):
        Hierarchy.build(64, (2, coarsening))
