"""Work is counted, and the counts are closed formulas: per level Φ evaluations, and the chain of dependent ones.

Written with N_ℓ layers, coarsening m_ℓ, remainder r_ℓ = N_ℓ mod m_ℓ, s_ℓ sweeps a cycle (1 for F, 2 for FCF), levels
ℓ = 0 … L. A visit relaxes (entering a level costs a first F-sweep), takes the residual and sweeps once more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lpgpu import MGRIT, LayerParallel
from lpgpu.mgrit.grid import Grid
from lpgpu.nn import DenseBlock
from tests.mgrit.problems import Problem
from tests.settings import VISITS, seeds, solver_options, steps


@dataclass
class Cost:
    """Φ evaluations per level, those and the depth of one step of each level, and the depth."""

    evaluations: list[int]
    of_step: list[tuple[int, int]]
    depth: int = 0

    def add(self, level: int, steps: int, chain: int, times: int = 1) -> None:
        """So many steps of a level, `chain` of them one after the other."""
        evaluations, depth = self.of_step[level]
        self.evaluations[level] += times * steps * evaluations
        self.depth += times * chain * depth


def step_cost(grid: Grid, solver: MGRIT) -> tuple[int, int]:
    """Evaluations of one step of a level, and their depth."""
    if grid.level == 0 or solver.coarse_operator in ("auto", "rediscretised"):
        return 1, 1
    if solver.coarse_operator == "linear":
        return 0, 0
    order, span = min(solver.picard_order, grid.stride), grid.stride
    return (order * span if order < span else span), order


def expected_cost(num_steps: int, solver: MGRIT, cycles: int, *, reverse: bool, sources: bool) -> Cost:
    """What a solve of `cycles` cycles costs, by formula."""
    grids = solver.hierarchy(num_steps).grids
    linear = solver.coarse_operator == "linear"
    if linear and len(grids) > 1:
        grids = grids[0], replace(grids[1], coarsening=None)
    coarsest = len(grids) - 1
    sweeps = [1 if relaxation == "F" else 2 for relaxation in solver.relaxation_per_level[:coarsest]]
    cost = Cost([0] * len(grids), [step_cost(grid, solver) for grid in grids])

    def serially(times: int = 1) -> None:
        cost.add(coarsest, grids[-1].num_steps, grids[-1].num_steps, times)

    def first_sweep(grid: Grid, times: int = 1) -> None:
        n, m = grid.num_steps, grid.interval
        cost.add(grid.level, n - n // m, m - 1 + (n % m if reverse else 0), times)

    def cycle_of(grid: Grid, times: int = 1) -> None:
        s = sweeps[grid.level]
        cost.add(grid.level, s * grid.num_steps, s * grid.interval, times)

    def coarse_phi(grid: Grid, times: int = 1) -> None:
        cost.add(grid.level, grid.num_steps, 0, times)  # beside the residual's Φ,
        cost.depth += times * max(0, cost.of_step[grid.level][1] - 1)  # as far as that is as deep

    def corrected() -> None:
        cost.add(0, grids[0].num_steps, grids[0].interval)  # residual and last sweep: an F-cycle's worth
        v_cycle(grids[1:])

    def v_cycle(grids: Sequence[Grid]) -> None:
        for grid in grids[:-1]:
            coarse_phi(grid)
            first_sweep(grid)
            cycle_of(grid)
        coarse_phi(grids[-1])
        serially()

    if coarsest == 0:
        serially()
        return cost

    first_sweep(grids[0])
    if linear or (solver.initial_guess != "constant" and sources and reverse):
        corrected()
    elif solver.initial_guess != "constant":
        for grid in grids[1:-1]:
            first_sweep(grid)
        serially()
        if solver.initial_guess == "nested":
            for grid in grids[1:-1]:
                cycle_of(grid)
                v_cycle(grids[grid.level + 1 :])

    cycle_of(grids[0], cycles)
    for grid in grids[1:]:
        visits = VISITS[solver.cycle]
        entered = visits(grid.level - 1)  # a second visit begins where the first one ended: its first F-sweep is saved
        coarse_phi(grid, cycles * entered)
        if grid.level < coarsest:
            first_sweep(grid, cycles * entered)
            cycle_of(grid, cycles * visits(grid.level))
        else:
            serially(cycles * entered)
    return cost


@given(
    num_steps=steps,
    options=solver_options(),
    cycles=st.integers(0, 3),
    reverse=st.booleans(),
    sources=st.booleans(),
    seed=seeds,
)
def test_counts_are_the_formula_and_what_was_really_called(
    num_steps: int, options: dict[str, Any], cycles: int, reverse: bool, sources: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    solver = MGRIT(**options, iterations=cycles, adjoint_iterations=cycles)
    _, result, propagator = Problem(num_steps, reverse=reverse, sources=sources).solve(solver)
    expected = expected_cost(num_steps, solver, cycles, reverse=reverse, sources=sources)
    called = [propagator.layers_called[level] for level in range(len(result.evaluations))]
    assert list(result.evaluations) == expected.evaluations
    assert sum(called) == sum(expected.evaluations)
    if solver.coarse_operator != "picard":  # which steps through layers of the finest level
        assert called == expected.evaluations
    assert result.sequential_depth == expected.depth
    assert result.iterations == (cycles if len(result.evaluations) > 1 else 0)
    assert (result.messages, result.bytes_sent) == (0, 0)


@given(num_steps=steps, options=solver_options(levels=4), cycles=st.integers(0, 2), seed=seeds)
def test_networks_report_the_formula_in_both_directions(
    num_steps: int, options: dict[str, Any], cycles: int, seed: int
) -> None:
    torch.manual_seed(seed)
    assume(options["coarse_operator"] != "auto")
    solver = MGRIT(**options, iterations=cycles, adjoint_iterations=cycles)
    net = LayerParallel(None, lambda: DenseBlock(2), num_steps, 1.0, solver=solver)
    net(torch.randn(1, 2)).sum().backward()
    for result, reverse in ((net.forward_result, False), (net.adjoint_result, True)):
        expected = expected_cost(num_steps, solver, cycles, reverse=reverse, sources=False)
        assert result is not None
        assert (list(result.evaluations), result.sequential_depth) == (expected.evaluations, expected.depth)


@given(num_steps=steps, coarsening=st.integers(2, 9), reverse=st.booleans(), seed=seeds)
def test_first_sweep_then_two_sweeps_a_cycle_for_fcf_and_one_for_f(
    num_steps: int, coarsening: int, reverse: bool, seed: int
) -> None:
    """N − ⌊N/m⌋ before the first cycle, then 2N or N in each."""
    assume(num_steps // coarsening >= 2)
    torch.manual_seed(seed)
    problem = Problem(num_steps, reverse=reverse)

    def on_finest_level(relaxation: str, cycles: int) -> int:
        solver = MGRIT(
            coarsening=coarsening,
            relaxation=relaxation,  # pyright: ignore
            iterations=cycles,
            adjoint_iterations=cycles,
        )
        return problem.solve(solver)[1].evaluations[0]

    first = num_steps - num_steps // coarsening
    for cycles in range(3):
        assert on_finest_level("FCF", cycles) == first + 2 * num_steps * cycles
        assert on_finest_level("F", cycles) == first + num_steps * cycles


@given(num_steps=steps, options=solver_options(), cycles=st.integers(0, 3), seed=seeds)
def test_depth_is_the_number_of_batched_calls(num_steps: int, options: dict[str, Any], cycles: int, seed: int) -> None:
    """Unchunked and forward every batch waits for the one before it, but for Φ_c beside the residual's Φ."""
    torch.manual_seed(seed)
    plain = {"chunk": None, "store": "all", "coarse_operator": "rediscretised"}
    assume(options["initial_guess"] != "nested")
    solver = MGRIT(**{**options, **plain}, iterations=cycles)
    _, result, propagator = Problem(num_steps).solve(solver)
    coarse_levels = len(result.evaluations) - 1
    restrictions = cycles * sum(map(VISITS[solver.cycle], range(coarse_levels)))
    assert propagator.batches_called.total() == result.sequential_depth + restrictions


@pytest.mark.parametrize("num_steps", [64, 67])
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_chunks_and_stores_do_the_same_work(num_steps: int, chunk: int | None) -> None:
    problem = Problem(num_steps)
    plain = problem.solve(MGRIT())[1]
    for store in ("all", "c_points"):
        result = problem.solve(MGRIT(store=store, chunk=chunk))[1]  # pyright: ignore
        assert result.evaluations == plain.evaluations
        assert result.sequential_depth == plain.sequential_depth


def test_mgrit_is_shallower_than_serial() -> None:
    problem = Problem(1024)
    assert problem.solve(MGRIT(levels=4, coarsening=8))[1].sequential_depth < 1024 / 4
