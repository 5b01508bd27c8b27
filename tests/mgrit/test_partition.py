"""Whose layers and points are whose: pure arithmetic, for every rank of any number of ranks."""

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from lpgpu.mgrit import Grid, Hierarchy, Partition
from lpgpu.mgrit.slices import length
from tests.settings import blocks_of

coarsenings = st.lists(st.integers(2, 9), max_size=4)


def hierarchies(blocks: list[int], coarsening: list[int], *, reverse: bool) -> list[tuple[Grid, ...]]:
    """Level by level, what each rank sees."""
    built = [
        Hierarchy.build(sum(blocks), coarsening, 1, Partition.of_blocks(blocks, rank)) for rank in range(len(blocks))
    ]
    return list(zip(*((each.transpose() if reverse else each).grids for each in built), strict=True))


def here(grid: Grid, indices: slice) -> list[int]:
    """A rank's indices, as those of the whole level."""
    return [grid.of_level(i) for i in range(indices.start, indices.stop, indices.step or 1)]


@given(blocks=st.data(), coarsening=coarsenings, reverse=st.booleans())
def test_every_rank_has_its_part_of_what_one_process_has(
    blocks: st.DataObject, coarsening: list[int], reverse: bool
) -> None:
    sizes = blocks.draw(blocks_of())
    whole = Hierarchy.build(sum(sizes), coarsening, 1)
    whole = whole.transpose() if reverse else whole
    for level, grids in enumerate(hierarchies(sizes, coarsening, reverse=reverse)):
        one = whole.grids[level]
        assert [k for grid in grids for k in here(grid, grid.all_layers)] == list(range(one.num_steps))
        assert [k for grid in grids for k in here(grid, grid.c_layers)] == here(one, one.c_layers)
        assert sorted(
            k
            for grid in grids
            for window in grid.windows()
            for position in grid.f_positions
            for k in here(grid, window.layers(position))
        ) == sorted(k for w in one.windows() for position in one.f_positions for k in here(one, w.layers(position)))
        owned = [k for grid in grids for k in here(grid, grid.c_points)[grid.owned_c_points]]
        assert owned == here(one, one.c_points)


@given(blocks=st.data(), coarsening=coarsenings, reverse=st.booleans())
def test_what_a_coarse_layer_needs_is_where_it_is(blocks: st.DataObject, coarsening: list[int], reverse: bool) -> None:
    """The parameters and the state of the first fine layer that it spans."""
    sizes = blocks.draw(blocks_of())
    firsts = list(accumulate(sizes, initial=0))
    for grids in hierarchies(sizes, coarsening, reverse=reverse):
        for rank, grid in enumerate(grids):
            of_network = grid.of_network(grid.all_layers)
            mine = range(of_network.start, of_network.stop, of_network.step)[: grid.local_steps]
            assert [firsts[rank] + k for k in mine] == [k * grid.stride for k in here(grid, grid.all_layers)]
            assert all(0 <= k < sizes[rank] for k in mine)


@given(blocks=st.data(), coarsening=coarsenings, reverse=st.booleans())
def test_neighbours_share_a_point(blocks: st.DataObject, coarsening: list[int], reverse: bool) -> None:
    sizes = blocks.draw(blocks_of())
    for grids in hierarchies(sizes, coarsening, reverse=reverse):
        part = [(rank, grid) for rank, grid in enumerate(grids) if grid.takes_part]
        assert part[0][1].begins or part[-1][1].begins
        for (p, lower), (q, upper) in pairwise(part):
            assert (lower.above, upper.below) == (q, p)
            assert lower.of_level(lower.local_steps) == upper.of_level(0)
        for _, grid in part:
            assert (grid.upstream, grid.downstream) == (
                (grid.above, grid.below) if reverse else (grid.below, grid.above)
            )
        assert sum(grid.begins for grid in grids) == sum(grid.ends for grid in grids) == 1
        for grid in grids:
            if not grid.takes_part:
                assert (grid.below, grid.above, grid.local_points, length(grid.c_points)) == (None, None, 0, 0)
                assert not list(grid.windows())


@given(blocks=st.data(), coarsening=coarsenings, reverse=st.booleans(), chunk=st.none() | st.integers(1, 5))
def test_windows_are_this_ranks_layers_each_once(
    blocks: st.DataObject, coarsening: list[int], reverse: bool, chunk: int | None
) -> None:
    sizes = blocks.draw(blocks_of())
    for grids in hierarchies(sizes, coarsening, reverse=reverse):
        for grid in grids:
            windows = list(grid.windows(chunk))
            assert sorted(k for w in windows for k in range(w.first, w.stop)) == list(range(grid.local_steps))
            for window in windows:
                points = list(range(grid.local_points))[window.points]
                inside = [i for i in points if grid.is_c(grid.of_level(i))]
                assert points[window.local_c_points] == inside
                assert list(range(grid.local_points))[grid.c_points][window.c_points] == inside
                assert 0 <= window.intervals.start < window.intervals.stop <= grid.num_pieces
                several = length(window.intervals) > 1
                assert not several or grid.is_c(grid.of_level(window.first)), "batched intervals begin at C-points"
            for window in grid.starting(chunk):
                entry = window.stop if reverse else window.first
                assert grid.is_c(grid.of_level(entry))


@given(points=st.integers(1, 10**6), ranks=st.integers(1, 1024), m=st.integers(2, 64))
def test_many_ranks_are_arithmetic_too(points: int, ranks: int, m: int) -> None:
    share, more = divmod(points + ranks, ranks)
    blocks = [share + (rank < more) for rank in range(ranks)]
    coarse = Partition.of_blocks(blocks, ranks // 2).coarsened(m)
    assert coarse.num_layers == sum(blocks) // m
    assert coarse.stride == m
