"""Δ-correction on the solver alone, with propagators whose Jacobian is its own diagonal: there Δ is the whole truth."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lpgpu.comm import SingleProcess
from lpgpu.mgrit import MGRIT, AllPoints, CPointsOnly, Delta, Grid, Propagator, SolveResult, States, solve
from lpgpu.mgrit.level import Level
from lpgpu.mgrit.relaxation import c_relax, f_relax, solve_serially
from tests.assertions import assert_close_relative, relative_error
from tests.settings import WITH_DIAGONALS, exact_solver, relaxations, seeds, solver_options

directions = st.booleans()


class Elementwise(Propagator):
    """Φ_k(u) = u + σΔt f(θ_k, u), entry by entry, with f and ∂f/∂u; Δt = 1/N. Notes what it was asked for."""

    has_diagonal = True

    def __init__(self, theta: Tensor, num_levels: int) -> None:
        super().__init__(num_levels)
        self.theta = theta
        self.calls: Counter[int] = Counter()
        self.diagonals = 0

    def f(self, theta: Tensor, u: Tensor) -> Tensor:
        raise NotImplementedError

    def df(self, theta: Tensor, u: Tensor) -> Tensor:
        raise NotImplementedError

    def _step(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        self.calls[grid.level] += len(u)
        theta = self.theta[layers.start * grid.stride : layers.stop * grid.stride : layers.step * grid.stride]
        dt = grid.stride / len(self.theta)
        out.copy_(u + dt * self.f(theta, u))
        if diagonal is not None:
            self.diagonals += 1
            diagonal.copy_(1 + dt * self.df(theta, u))


class Linear(Elementwise):
    """f = θ_k u."""

    def f(self, theta: Tensor, u: Tensor) -> Tensor:
        return theta * u

    def df(self, theta: Tensor, u: Tensor) -> Tensor:
        return theta.expand_as(u)


class Sines(Elementwise):
    """f = sin(θ_k u)."""

    def f(self, theta: Tensor, u: Tensor) -> Tensor:
        return torch.sin(theta * u)

    def df(self, theta: Tensor, u: Tensor) -> Tensor:
        return theta * torch.cos(theta * u)


class Solved(NamedTuple):
    """The C-points that a solve ended with, what they should be, and what it took."""

    c_points: Tensor
    expected: Tensor
    result: SolveResult
    propagator: Elementwise

    @property
    def error(self) -> float:
        return relative_error(self.c_points, self.expected)


class Problem:
    """N random layers of `kind`, states [2, 3], a random given state, sources if asked for; forward or in reverse."""

    def __init__(
        self, kind: type[Elementwise], num_steps: int, *, reverse: bool = False, sources: bool = False
    ) -> None:
        self.kind = kind
        self.num_steps = num_steps
        self.reverse = reverse
        self.theta = 4 * torch.rand(num_steps, 2, 3, dtype=torch.float64) - 3
        self.given = 0.5 + torch.rand(2, 3, dtype=torch.float64)
        self.g = torch.randn(num_steps + 1, 2, 3, dtype=torch.float64) / num_steps if sources else None

    def serial(self) -> Tensor:
        """All states, one layer after the other."""
        f = self.kind(self.theta, 1).f
        u = torch.empty(self.num_steps + 1, 2, 3, dtype=torch.float64)
        u[self.num_steps if self.reverse else 0] = self.given
        for k in reversed(range(self.num_steps)) if self.reverse else range(self.num_steps):
            source, target = (k + 1, k) if self.reverse else (k, k + 1)
            u[target] = u[source] + 1 / self.num_steps * f(self.theta[k], u[source])
            if self.g is not None:
                u[target] += self.g[target]
        return u

    def solve(self, cycles: int, **options: Any) -> Solved:
        """After so many cycles."""
        solver = MGRIT(**options, iterations=cycles, adjoint_iterations=cycles)
        hierarchy = solver.hierarchy(self.num_steps)
        hierarchy = hierarchy.transpose() if self.reverse else hierarchy
        grid = hierarchy.grids[0]

        def poisoned(points: int) -> Tensor:
            return torch.full((points, 2, 3), torch.nan, dtype=torch.float64)

        states: States = AllPoints(grid, poisoned(grid.num_steps + 1), solver.chunk)
        if solver.store == "c_points":
            states = CPointsOnly(grid, poisoned, solver.chunk)
        states.start.copy_(self.given)
        propagator = self.kind(self.theta, len(hierarchy.grids))
        result = solve(propagator, hierarchy, states, solver, g=self.g)
        return Solved(states.c_points.clone(), self.serial()[grid.c_points], result, propagator)


@given(
    coarse_steps=st.integers(2, 6),
    coarsening=st.lists(st.integers(2, 4), min_size=1, max_size=3),
    remainder=st.integers(0, 3),
    relaxation=relaxations,
    options=solver_options(levels=1, operators=WITH_DIAGONALS),
    cycles=st.integers(1, 3),
    reverse=directions,
    sources=st.booleans(),
    seed=seeds,
)
def test_on_a_diagonal_linear_problem_one_cycle_is_exact(
    coarse_steps: int,
    coarsening: list[int],
    remainder: int,
    relaxation: str,
    options: dict[str, Any],
    cycles: int,
    reverse: bool,
    sources: bool,
    seed: int,
) -> None:
    """Each coarse operator is the product of the fine ones: on two levels and, with Δ in Δ, on more. It stays so."""
    torch.manual_seed(seed)
    options |= {"levels": len(coarsening) + 1, "coarsening": coarsening, "min_coarse_steps": 1}
    options |= {"relaxation": relaxation, "delta": "diagonal"}
    num_steps = coarse_steps * math.prod(coarsening) + min(remainder, coarsening[0] - 1)
    solved = Problem(Linear, num_steps, reverse=reverse, sources=sources).solve(cycles, **options)
    assert len(solved.result.evaluations) == (2 if options["coarse_operator"] == "linear" else len(coarsening) + 1)
    assert_close_relative(solved.c_points, solved.expected, tolerance=1e-12)


@pytest.mark.parametrize("levels", [2, 3, 4])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial_guess", ["coarse", "constant"])
def test_without_delta_one_cycle_is_not_exact(levels: int, reverse: bool, initial_guess: Any) -> None:
    """What makes the test above able to fail."""
    problem = Problem(Linear, 130, reverse=reverse)
    options: dict[str, Any] = {"levels": levels, "coarsening": 3, "initial_guess": initial_guess}
    assert problem.solve(1, delta="none", **options).error > 1e-9
    assert problem.solve(1, delta="diagonal", **options).error < 1e-12


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("relaxation", ["F", "FCF"])
def test_where_the_diagonal_is_the_jacobian_convergence_is_quadratic(levels: int, relaxation: Any) -> None:
    """Each error is within a small multiple of the square of the one before; without Δ that fails."""
    problem = Problem(Sines, 128)
    options: dict[str, Any] = {"levels": levels, "relaxation": relaxation, "initial_guess": "constant"}

    def errors(delta: str) -> list[float]:
        return [problem.solve(cycles, delta=delta, **options).error for cycles in range(4)]

    for before, after in pairwise(errors("diagonal")):
        assert after <= max(4 * before**2, 1e-14)
    *_, before, after = errors("none")
    assert after > 5 * before**2


@given(
    num_steps=st.integers(1, 70),
    options=solver_options(operators=WITH_DIAGONALS),
    extra=st.integers(0, 3),
    reverse=directions,
    sources=st.booleans(),
    seed=seeds,
)
def test_enough_cycles_are_serial_propagation(
    num_steps: int, options: dict[str, Any], extra: int, reverse: bool, sources: bool, seed: int
) -> None:
    """On a nonlinear problem, in as many cycles as without Δ; more of them leave the solution where it is."""
    torch.manual_seed(seed)
    problem = Problem(Sines, num_steps, reverse=reverse, sources=sources)
    solved = problem.solve(exact_solver(num_steps, options).iterations + extra, **options, delta="diagonal")
    assert_close_relative(solved.c_points, solved.expected, tolerance=1e-12)


@given(
    num_steps=st.integers(1, 70), options=solver_options(operators=WITH_DIAGONALS), cycles=st.integers(0, 3), seed=seeds
)
def test_it_takes_no_evaluations_of_its_own(num_steps: int, options: dict[str, Any], cycles: int, seed: int) -> None:
    """The sweeps and the residual that are done anyway give the diagonals; counted, and really called."""
    torch.manual_seed(seed)
    problem = Problem(Sines, num_steps)
    with_delta = problem.solve(cycles, **options, delta="diagonal")
    without = problem.solve(cycles, **options, delta="none")
    assert with_delta.result.evaluations == without.result.evaluations
    assert with_delta.result.sequential_depth == without.result.sequential_depth
    assert with_delta.propagator.calls == without.propagator.calls
    assert without.propagator.diagonals == 0


@pytest.mark.parametrize("cycles", [1, 3])
@pytest.mark.parametrize("levels", [2, 3])
def test_an_adjoint_takes_its_diagonals_once(cycles: int, levels: int) -> None:
    """It is linear: they are those of the first sweep, however many cycles follow."""
    once = Problem(Linear, 64, reverse=True).solve(1, levels=levels, delta="diagonal")
    more = Problem(Linear, 64, reverse=True).solve(cycles, levels=levels, delta="diagonal")
    assert more.propagator.diagonals == once.propagator.diagonals > 0


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("relax", [c_relax, f_relax, solve_serially], ids=lambda relax: relax.__name__)
def test_every_sweep_is_of_the_corrected_operator(reverse: bool, relax: Callable[[Level], None]) -> None:
    """u_target = Φ(u_source) + Δ ⊙ (u_source − anchor) + g_target at each point that is swept, on a coarse level."""
    problem = Problem(Linear, 24, sources=True)
    hierarchy = MGRIT(levels=3, coarsening=[2, 3]).hierarchy(24)
    if relax is solve_serially:
        hierarchy = MGRIT(levels=2, coarsening=2).hierarchy(24)  # for the coarsest level only
    grid = (hierarchy.transpose() if reverse else hierarchy).grids[1]
    u, values, anchors, g = (torch.randn(n, 2, 3, dtype=torch.float64) for n in (13, 12, 12, 13))
    propagator = problem.kind(problem.theta, 3)
    level = Level(grid, AllPoints(grid, u.clone()), propagator, SingleProcess(), "FCF", g, delta=Delta(values, anchors))
    relax(level)

    every = range(grid.num_steps)
    swept = {
        c_relax: every[grid.c_layers],
        f_relax: [k for k in every if k not in every[grid.c_layers]],
        solve_serially: every,
    }[relax]
    for k in reversed(swept) if reverse else swept:
        source, target = (k + 1, k) if reverse else (k, k + 1)
        phi = u[source] + 2 / 24 * propagator.f(problem.theta[2 * k], u[source])
        u[target] = phi + values[k] * (u[source] - anchors[k]) + g[target]
    assert_close_relative(level.states.u, u, tolerance=1e-12)


class TestWhetherItIsOn:
    @staticmethod
    def diagonals(delta: str, *, has_diagonal: bool = True, prefers_delta: bool = False) -> int:
        """How many a solve asks for."""
        kind = type("Kind", (Sines,), {"has_diagonal": has_diagonal, "prefers_delta": prefers_delta})
        return Problem(kind, 32).solve(1, levels=2, delta=delta).propagator.diagonals

    @pytest.mark.parametrize("prefers_delta", [False, True])
    def test_as_asked(self, prefers_delta: bool) -> None:
        assert self.diagonals("diagonal", prefers_delta=prefers_delta) > 0
        assert self.diagonals("none", prefers_delta=prefers_delta) == 0

    def test_auto_is_as_the_propagator_prefers(self) -> None:
        assert self.diagonals("auto", prefers_delta=True) > 0
        assert self.diagonals("auto", prefers_delta=False) == 0
        assert self.diagonals("auto", has_diagonal=False) == 0

    @pytest.mark.parametrize("num_steps", [3, 32])
    def test_where_there_is_no_diagonal_it_is_refused_before_any_work(self, num_steps: int) -> None:
        """Also where the network is too short to have a coarse level."""
        kind = type("Kind", (Sines,), {"has_diagonal": False, "f": None})
        with pytest.raises(
            ValueError, match='delta is "diagonal", which these layers do not offer; use "auto" or "none"'
        ):
            Problem(kind, num_steps).solve(1, levels=2, delta="diagonal")

    def test_the_default_is_auto(self) -> None:
        assert MGRIT().delta == "auto"
