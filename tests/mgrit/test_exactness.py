"""After finitely many cycles MGRIT is serial propagation, point by point: the solver alone, without modules."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lpgpu.mgrit import MGRIT, Serial
from tests.assertions import assert_close_relative, relative_error
from tests.mgrit.problems import Problem
from tests.settings import cycle_kinds, exact_solver, relaxations, seeds, solver_options, steps

ROUNDING = 1e-13
directions = st.booleans()


@given(num_steps=steps, options=solver_options(), reverse=directions, sources=st.booleans(), seed=seeds)
def test_enough_cycles_are_serial_propagation(
    num_steps: int, options: dict[str, Any], reverse: bool, sources: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    problem = Problem(num_steps, reverse=reverse, sources=sources)
    expected = problem.serial()
    states, _, _ = problem.solve(exact_solver(num_steps, options))
    assert_close_relative(states.end, expected[states.grid.end], "end", tolerance=1e-12)
    assert_close_relative(states.c_points, expected[states.grid.c_points], "C-points", tolerance=1e-12)
    if options["store"] == "all":
        assert_close_relative(states.u, expected, "states", tolerance=1e-12)


@given(num_steps=steps, options=solver_options(), cycles=st.integers(0, 8), seed=seeds)
def test_what_is_called_exact_is(num_steps: int, options: dict[str, Any], cycles: int, seed: int) -> None:
    torch.manual_seed(seed)
    problem, solver = Problem(num_steps), MGRIT(**options, iterations=cycles)
    states, _, _ = problem.solve(solver)
    off = relative_error(states.end, problem.serial()[states.grid.end])
    if solver.is_exact_for(num_steps):
        assert off < 1e-12
    assert exact_solver(num_steps, options).is_exact_for(num_steps)


@pytest.mark.parametrize("relaxation", ["F", "FCF"])
def test_a_cycle_less_than_exact_is_not_called_so(relaxation: Any) -> None:
    for num_steps in (11, 12, 13):
        for cycles in range(4):
            problem, solver = Problem(num_steps), MGRIT(levels=2, relaxation=relaxation, iterations=cycles)
            states, _, _ = problem.solve(solver)
            off = relative_error(states.u, problem.serial())
            assert solver.is_exact_for(num_steps) == (off < 1e-12), (num_steps, cycles, off)


@given(num_steps=steps, reverse=directions, sources=st.booleans(), seed=seeds)
def test_serial_is_serial_propagation(num_steps: int, reverse: bool, sources: bool, seed: int) -> None:
    torch.manual_seed(seed)
    problem = Problem(num_steps, reverse=reverse, sources=sources)
    states, result, propagator = problem.solve(Serial())
    assert_close_relative(states.u, problem.serial(), tolerance=ROUNDING)
    assert result.evaluations == (num_steps,) == tuple(propagator.layers_called.values())
    assert result.residual_norms == ()


@given(
    intervals=st.integers(2, 10),
    coarsening=st.integers(2, 6),
    remainder=st.integers(0, 5),
    cycles=st.integers(0, 4),
    relaxation=relaxations,
    options=st.fixed_dictionaries(
        {
            "levels": st.integers(2, 4),
            "cycle": cycle_kinds,
            "initial_guess": st.sampled_from(["coarse", "constant"]),
        }
    ),
    reverse=directions,
    sources=st.booleans(),
    seed=seeds,
)
def test_exactness_travels_with_the_cycles(
    intervals: int,
    coarsening: int,
    remainder: int,
    cycles: int,
    relaxation: str,
    options: dict[str, Any],
    reverse: bool,
    sources: bool,
    seed: int,
) -> None:
    """After k cycles the points up to (k+1)m − 1 (F) or (2k+1)m − 1 (FCF) are serial, counted from the first C-point.

    In reverse that is the last C-point: a short last interval behind it is exact from the start.
    """
    torch.manual_seed(seed)
    m = coarsening
    num_steps = intervals * m + remainder % m
    problem = Problem(num_steps, reverse=reverse, sources=sources)
    solver = MGRIT(
        **options,
        coarsening=m,
        relaxation=relaxation,
        iterations=cycles,
        adjoint_iterations=cycles,
    )
    states, _, _ = problem.solve(solver)
    error = (states.u - problem.serial()).abs().amax(1)
    if reverse:
        error = error.flip(0)
    exact = (cycles + 1) * m if relaxation == "F" else (2 * cycles + 1) * m
    if reverse:
        exact += num_steps % m
    if reverse and sources and options["initial_guess"] == "coarse":
        exact += m  # this guess is a cycle with F-relaxation
    assert error[:exact].max() <= ROUNDING
    if exact <= num_steps:
        assert error[exact] > 1e2 * ROUNDING, "exact one point too early: this test could not fail"


@pytest.mark.parametrize("relaxation", ["F", "FCF"])
@pytest.mark.parametrize("reverse", [False, True])
def test_one_cycle_too_few_is_not_exact(relaxation: str, reverse: bool) -> None:
    problem = Problem(24, reverse=reverse)
    cycles = (6 if relaxation == "F" else 3) - 1
    solver = MGRIT(levels=2, relaxation=relaxation, iterations=cycles, adjoint_iterations=cycles)
    states, _, _ = problem.solve(solver)
    assert not torch.allclose(states.end, problem.serial()[states.grid.end], rtol=1e-12, atol=0)


@given(
    coarse_steps=st.integers(2, 6),
    coarsening=st.lists(st.integers(2, 4), min_size=1, max_size=3),
    remainder=st.integers(0, 3),
    seed=seeds,
)
def test_the_coarse_guess_is_the_coarsest_network_injected(
    coarse_steps: int, coarsening: list[int], remainder: int, seed: int
) -> None:
    """Without cycles, C-points of all levels hold steps of σΔt with the parameters of each step's first layer."""
    torch.manual_seed(seed)
    stride = int(torch.tensor(coarsening).prod())
    num_steps = coarse_steps * stride + min(remainder, coarsening[0] - 1)
    problem = Problem(num_steps)
    solver = MGRIT(levels=len(coarsening) + 1, coarsening=coarsening, iterations=0)
    states, _, _ = problem.solve(solver)
    u = problem.given
    for k in range(0, coarse_steps * stride, stride):
        assert_close_relative(states.u[k], u, tolerance=ROUNDING)
        u = u + stride / num_steps * torch.sin(problem.theta[k] * u)
    assert_close_relative(states.u[coarse_steps * stride], u, tolerance=ROUNDING)


@given(num_steps=steps, options=solver_options(levels=4), reverse=directions, seed=seeds)
def test_cycles_leave_the_exact_solution_alone(
    num_steps: int, options: dict[str, Any], reverse: bool, seed: int
) -> None:
    """Serial propagation is the fixed point: twice as many cycles change nothing beyond rounding."""
    torch.manual_seed(seed)
    problem = Problem(num_steps, reverse=reverse, sources=True)
    exact = exact_solver(num_steps, options)
    more = 2 * exact.iterations + 1
    states, _, _ = problem.solve(MGRIT(**options, iterations=more, adjoint_iterations=more))
    assert_close_relative(states.c_points, problem.serial()[states.grid.c_points], tolerance=1e-12)
