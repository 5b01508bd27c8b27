"""Ranks that share a hierarchy compute what one process does, and send no more than they must.

Ranks are threads here. The tests under MPI are of networks.
"""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lpgpu.mgrit import MGRIT, SolveResult, States
from tests.assertions import assert_close_relative
from tests.comm.threads import on_ranks
from tests.mgrit.problems import Problem
from tests.settings import VISITS, blocks_of, seeds, solver_options, with_delta

STATE = 3 * 8  # bytes

options_with_delta = with_delta(solver_options(), ["none", "diagonal"])
pytestmark = pytest.mark.filterwarnings("ignore::lpgpu.DivergenceWarning")


def on_one_and_on_all(
    blocks: list[int], solver: MGRIT, *, reverse: bool, sources: bool, seed: int
) -> tuple[tuple[States, SolveResult], list[tuple[States, SolveResult]], list[list[tuple[int, int]]]]:
    """The solve of one process, that of every rank, and what each rank sent."""
    torch.manual_seed(seed)
    problem = Problem(sum(blocks), reverse=reverse, sources=sources)
    states, result, _ = problem.solve(solver)

    def work(rank):
        return problem.solve_here(solver, blocks, rank), rank.sent

    of_ranks = on_ranks(len(blocks), work)
    return (states, result), [solved for solved, _ in of_ranks], [sent for _, sent in of_ranks]


@given(
    blocks=blocks_of(),
    options=options_with_delta,
    cycles=st.integers(0, 3),
    tolerance=st.sampled_from([None, 1e-2]),
    reverse=st.booleans(),
    sources=st.booleans(),
    seed=seeds,
)
def test_any_ranks_compute_what_one_process_does(
    blocks: list[int],
    options: dict[str, Any],
    cycles: int,
    tolerance: float | None,
    reverse: bool,
    sources: bool,
    seed: int,
) -> None:
    solver = MGRIT(
        **options,
        iterations=cycles,
        adjoint_iterations=cycles,
        tolerance=tolerance,
        adjoint_tolerance=tolerance,
    )
    (expected, one), ranks, _ = on_one_and_on_all(blocks, solver, reverse=reverse, sources=sources, seed=seed)
    for states, result in ranks:
        grid = states.grid
        c_points = [grid.of_level(i) // grid.interval for i in range(grid.local_points)[grid.c_points]]
        assert_close_relative(states.c_points, expected.c_points[c_points], "C-points")
        if options["store"] == "all":
            points = slice(grid.first, grid.first + grid.local_points)
            assert_close_relative(states.u, expected.u[points], "states")
        if grid.ends:
            assert_close_relative(states.end, expected.end, "end")
        assert result.iterations == one.iterations
        assert result.converged == one.converged
        assert result.sequential_depth == one.sequential_depth
        assert result.residual_norms == ranks[0][1].residual_norms
        assert_close_relative(torch.tensor(result.residual_norms), torch.tensor(one.residual_norms), tolerance=1e-6)
    for level, evaluations in enumerate(one.evaluations):
        assert sum(result.evaluations[level] for _, result in ranks) == evaluations


@pytest.mark.parametrize("relaxation", ["F", "FCF"])
@pytest.mark.parametrize("reverse", [False, True])
def test_ranks_of_one_layer_each(relaxation: Any, reverse: bool) -> None:
    """Intervals go through several ranks, most of which have no part in the coarse levels."""
    solver = MGRIT(levels=3, coarsening=3, relaxation=relaxation, adjoint_iterations=2)
    (expected, _), ranks, _ = on_one_and_on_all([1] * 20, solver, reverse=reverse, sources=True, seed=2)
    for rank, (states, _) in enumerate(ranks):
        assert_close_relative(states.u, expected.u[rank : rank + 2], f"states of rank {rank}")


class Boundaries:
    """The points that neighbouring ranks of one level share, by what becomes of them."""

    def __init__(self, owner: dict[int, int], num_steps: int, m: int) -> None:
        """`owner`: of each point 0 … N, which rank has it."""
        points = [k for j, k in pairwise(range(num_steps + 1)) if owner[j] != owner[k]]
        last = num_steps // m * m
        self.all = len(points)
        self.c = [k for k in points if k % m == 0]
        self.f = [k for k in points if k % m]
        self.f_of_full_intervals = [k for k in self.f if k < last]
        self.from_last_c_point_on = [k for k in points if k >= last]
        owners_of_c = {owner[k] for k in range(0, num_steps + 1, m)}
        self.refreshed = [k for k in self.c if owner[k - 1] not in owners_of_c]


def boundaries(blocks: list[int], solver: MGRIT) -> list[Boundaries]:
    """Of every level: a coarse point belongs to the rank that has it on the level below."""
    ranks = [rank for rank, size in enumerate(blocks) for _ in range(size)]
    owner = dict(enumerate([*ranks, ranks[-1]]))
    found = []
    for grid in solver.hierarchy(sum(blocks)).grids:
        found.append(Boundaries(owner, grid.num_steps, grid.interval))
        owner = {k // grid.interval: rank for k, rank in owner.items() if k % grid.interval == 0}
    return found


def expected_messages(blocks: list[int], solver: MGRIT, cycles: int, *, reverse: bool, sources: bool) -> int:
    """How many states all ranks together send: one over a boundary in each half-sweep that changes the state there."""
    levels, grids = boundaries(blocks, solver), solver.hierarchy(sum(blocks)).grids
    linear = solver.coarse_operator == "linear"
    coarsest = min(len(grids) - 1, 1) if linear else len(grids) - 1
    delta = solver.delta == "diagonal"
    relaxation = solver.relaxation_per_level
    restrictions: Counter[int] = Counter()

    def short_interval(level: int) -> int:
        return len(levels[level].from_last_c_point_on) if reverse and grids[level].remainder else 0

    def first_sweep(level: int) -> int:
        at = levels[level]
        return short_interval(level) + len(at.f_of_full_intervals if reverse else at.f)

    def visit(level: int) -> int:
        at = levels[level]
        sent = len(at.c) + len(at.f) if relaxation[level] == "FCF" else 0
        return sent + len(at.f_of_full_intervals) + len(at.refreshed) + len(at.f)

    def cycle(first: int, kind: str) -> int:
        """A cycle on the levels from `first` on, whose F-points there are current."""
        sent, entered = 0, 1
        for level in range(first, coarsest):
            visits = VISITS[kind](level - first)
            sent += visits * visit(level) + (entered * first_sweep(level) if level > first else 0)
            restrictions[level] += visits
            entered = visits
        return sent + entered * last_level()

    def coarse_guess(level: int) -> int:
        if level == coarsest:
            return levels[level].all
        last_sweep = len(levels[level].f_of_full_intervals if reverse else levels[level].f)
        v_cycle = cycle(level, "V") if solver.initial_guess == "nested" and level > 0 else 0
        return short_interval(level) + coarse_guess(level + 1) + len(levels[level].refreshed) + last_sweep + v_cycle

    def last_level() -> int:
        """From rank to rank; on an affine level in rounds over 1, 2, 4, … ranks, two states each, and one at last."""
        n = levels[coarsest].all
        return n if not linear else n + sum(2 * (n + 1 - 2**k) for k in range(n.bit_length()) if 2**k <= n)

    if coarsest == 0:
        return levels[0].all
    if solver.initial_guess == "constant" and not linear:
        count = first_sweep(0)
    elif linear or (reverse and (sources or delta)):  # F-relaxation on the finest level, a V-cycle on the coarser ones
        fcf = len(levels[0].c) + len(levels[0].f) if relaxation[0] == "FCF" else 0
        count = first_sweep(0) + cycle(0, "V") - fcf
    else:
        count = coarse_guess(0)
    count += sum(cycle(0, solver.cycle) for _ in range(cycles))
    for level, times in restrictions.items() if delta else ():  # the adjoint takes products once a solve
        count += len(levels[level].f_of_full_intervals) * (min(times, 1) if reverse else times)
    return count


def expected_halos(blocks: list[int], solver: MGRIT) -> list[int]:
    """How many layers each message of a halo has: a rank's layers that coarse steps of one rank below go through."""
    if solver.coarse_operator != "picard":
        return []
    owner = [rank for rank, size in enumerate(blocks) for _ in range(size)]
    wanted = set()
    for grid in solver.hierarchy(sum(blocks)).grids[1:]:
        for first in range(0, grid.num_steps * grid.stride, grid.stride):
            wanted |= {(owner[first], k) for k in range(first, first + grid.stride) if owner[k] != owner[first]}
    return list(Counter((to, owner[k]) for to, k in wanted).values())


@given(
    blocks=blocks_of(),
    options=options_with_delta,
    cycles=st.integers(0, 3),
    reverse=st.booleans(),
    sources=st.booleans(),
    seed=seeds,
)
def test_messages_are_the_formula(
    blocks: list[int], options: dict[str, Any], cycles: int, reverse: bool, sources: bool, seed: int
) -> None:
    solver = MGRIT(**options, iterations=cycles, adjoint_iterations=cycles)
    _, ranks, sent = on_one_and_on_all(blocks, solver, reverse=reverse, sources=sources, seed=seed)
    expected = expected_messages(blocks, solver, cycles, reverse=reverse, sources=sources)
    halos = expected_halos(blocks, solver)
    if solver.coarse_operator != "linear":  # whose maps are messages of two states
        assert sum(map(len, sent)) == expected + len(halos)
    assert sum(size for messages in sent for _, size in messages) == STATE * (expected + sum(halos))
    for (_, result), messages in zip(ranks, sent, strict=True):
        assert result.messages == len(messages)
        assert result.bytes_sent == sum(size for _, size in messages)


@pytest.mark.parametrize("reverse", [False, True])
def test_aligned_blocks_send_one_state_a_cycle_and_level(reverse: bool) -> None:
    """What to expect of a well-chosen distribution: the C-relaxation's, and the coarsest level's."""
    blocks, per_boundary = [64, 64, 64, 64], {}
    for cycles in (1, 2):
        solver = MGRIT(levels=3, coarsening=4, iterations=cycles, adjoint_iterations=cycles)
        _, _, sent = on_one_and_on_all(blocks, solver, reverse=reverse, sources=False, seed=0)
        per_boundary[cycles] = sum(map(len, sent)) / (len(blocks) - 1)
    assert per_boundary[2] - per_boundary[1] == 3
    assert per_boundary[1] == 4  # and one for the initial guess, on the coarsest level
