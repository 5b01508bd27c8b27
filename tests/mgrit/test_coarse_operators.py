"""Picard and linear coarse operators against their formulas, one coarse step at a time."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lpgpu.mgrit import MGRIT, Grid, Hierarchy, SolveResult, Window, solve
from lpgpu.mgrit.coarse_operator import CoarseOperator
from lpgpu.mgrit.picard import Picard
from tests.assertions import assert_close_relative, relative_error
from tests.mgrit.problems import Problem, Sines
from tests.settings import seeds

directions = st.booleans()


class Gated(Sines):
    """Φ_k(u) = a ⊙ u + (1 − a) ⊙ sin(θ_k u), a = σ(θ_k − u): a cell with a decay of its own."""

    has_decay = True

    def _step(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal=None, decay=None) -> None:
        theta = self.theta[grid.of_network(layers)]
        a = torch.sigmoid(theta - u)
        out.copy_(a * u + (1 - a) * torch.sin(theta * u))
        if decay is not None:
            decay.copy_(a)


def coarse_step(kind: type[Sines], order: int, *, reverse: bool, m: int = 4) -> tuple[Tensor, Tensor, Tensor, Sines]:
    """One Picard step of both coarse layers of 2m: what came, u, θ, and the propagator."""
    theta = 1 + torch.rand(2 * m, 3, dtype=torch.float64)
    hierarchy = Hierarchy.build(2 * m, (m,))
    finest, coarse = (hierarchy.transpose() if reverse else hierarchy).grids
    fine = kind(theta, 2)
    u = torch.randn(2, 3, dtype=torch.float64)
    out = torch.full_like(u, torch.nan)
    Picard(fine, finest, order).step(coarse, coarse.all_layers, u, out)
    return out, u, theta.unflatten(0, (2, m)), fine


def phi(kind: type[Sines], theta: Tensor, u: Tensor, dt: float) -> tuple[Tensor, Tensor]:
    """Φ(u) and its decay."""
    if kind is Sines:
        return u + dt * torch.sin(theta * u), torch.ones_like(u)
    a = torch.sigmoid(theta - u)
    return a * u + (1 - a) * torch.sin(theta * u), a


@given(order=st.integers(1, 5), kind=st.sampled_from([Sines, Gated]), reverse=directions, seed=seeds)
def test_a_picard_step_is_the_iteration(order: int, kind: type[Sines], reverse: bool, seed: int) -> None:
    """v_{j+1} = Φ_j(v⁰_j) + D_j ⊙ (v_j − v⁰_j), from v⁰ = u, so many times."""
    torch.manual_seed(seed)
    came, u, theta, fine = coarse_step(kind, order, reverse=reverse)
    for interval in range(2):
        thetas = theta[interval].flip(0) if reverse else theta[interval]
        before = [u[interval]] * len(thetas)
        for _ in range(order):
            v = [u[interval]]
            for theta_j, v0 in zip(thetas, before, strict=True):
                value, decay = phi(kind, theta_j, v0, fine.dt)
                v.append(value + decay * (v[-1] - v0))
            before = v[:-1]
        assert_close_relative(came[interval], v[-1], tolerance=1e-13)


@pytest.mark.parametrize("kind", [Sines, Gated])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("order", [4, 5])
def test_order_m_is_fine_propagation(kind: type[Sines], reverse: bool, order: int) -> None:
    came, u, theta, fine = coarse_step(kind, order, reverse=reverse)
    for interval in range(2):
        v = u[interval]
        for theta_j in theta[interval].flip(0) if reverse else theta[interval]:
            v, _ = phi(kind, theta_j, v, fine.dt)
        assert torch.equal(came[interval], v)


class Wide(Sines):
    """Steps all layers that it is asked for at once."""

    widest = 0

    def prefers_wide_steps(self, like: Tensor) -> bool:
        return True

    def _step(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal=None, decay=None) -> None:
        super()._step(grid, layers, u, out, diagonal)
        self.widest = max(self.widest, len(u))


@pytest.mark.parametrize("reverse", [False, True])
def test_picard_steps_in_chunks_evaluate_no_more_layers_at_a_time(reverse: bool) -> None:
    theta = 1 + torch.rand(40, 3, dtype=torch.float64)
    hierarchy = Hierarchy.build(40, (4,))
    finest, coarse = (hierarchy.transpose() if reverse else hierarchy).grids
    u = torch.randn(10, 3, dtype=torch.float64)
    outs, widest = [], []
    for chunk in (None, 3):
        fine, out = Wide(theta, 2), torch.full_like(u, torch.nan)
        picard = Picard(fine, finest, 2, chunk)
        picard.step(coarse, coarse.all_layers, u, out)
        outs.append(out)
        widest.append(fine.widest)
        assert picard.work.evaluations == [0, 2 * 40]
    assert torch.equal(*outs) and widest == [40, 3 * 4]


def test_order_1_adds_up_the_increments() -> None:
    came, u, theta, fine = coarse_step(Sines, 1, reverse=False)
    increments = torch.stack([phi(Sines, theta[:, j], u, fine.dt)[0] - u for j in range(4)])
    assert_close_relative(came, u + increments.sum(0), tolerance=1e-13)


@pytest.mark.parametrize("reverse", [False, True])
def test_each_order_is_one_order_of_accuracy_in_the_coarse_step(reverse: bool) -> None:
    """Halving the length of the interval divides the error of order p by about 2^(p+1)."""

    def error(order: int, dt: float) -> float:
        torch.manual_seed(1)
        theta = 1 + torch.rand(8, 3, dtype=torch.float64)
        hierarchy = Hierarchy.build(8, (8,), 1)
        finest, coarse = (hierarchy.transpose() if reverse else hierarchy).grids
        u, out, exact = (torch.rand(1, 3, dtype=torch.float64) for _ in range(3))
        Picard(Sines(theta, 2, dt), finest, order).step(coarse, coarse.all_layers, u, out)
        Picard(Sines(theta, 2, dt), finest, 8).step(coarse, coarse.all_layers, u, exact)
        return relative_error(out, exact)

    for order in (1, 2, 3):
        ratio = error(order, 0.01) / error(order, 0.005)
        assert 2**order * 1.4 < ratio < 2 ** (order + 2)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("delta", ["none", "diagonal"])
def test_a_linear_cycle_is_its_recurrence(reverse: bool, delta: Any) -> None:
    """v_{K+1} = Φ^m(u_K) + P_K ⊙ (v_K − u_K), from the states that F-relaxation left; then F-relaxation."""
    problem = Problem(12, reverse=reverse)
    solver = MGRIT(levels=2, coarsening=4, iterations=0, adjoint_iterations=0, coarse_operator="linear", delta=delta)
    states, _, fine = problem.solve(solver)
    u = torch.zeros(4, 3, dtype=torch.float64) if reverse else problem.given.expand(4, 3).clone()
    u[3 if reverse else 0] = problem.given
    theta = problem.theta.unflatten(0, (3, 4))
    v = u.clone()
    for interval in range(3)[:: -1 if reverse else 1]:
        source, target = (interval + 1, interval) if reverse else (interval, interval + 1)
        end, product = u[source], torch.ones(3, dtype=torch.float64)
        for theta_j in theta[interval].flip(0) if reverse else theta[interval]:
            product = product * (1 + fine.dt * theta_j * torch.cos(theta_j * end))
            end = end + fine.dt * torch.sin(theta_j * end)
        factor = product if delta == "diagonal" else 1
        v[target] = end + factor * (v[source] - u[source])
    assert_close_relative(states.c_points, v, tolerance=1e-13)


class Shifted(Sines):
    """Φ_k(u) = u + Δt cos(θ_k u + 1), which is not zero at zero; what it is there costs nothing."""

    is_free_at_zero = True

    def _step(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal=None, decay=None) -> None:
        theta = self.theta[grid.of_network(layers)]
        out.copy_(u + self.dt * torch.cos(theta * u + 1))
        if diagonal is not None:
            diagonal.copy_(1 - self.dt * theta * torch.sin(theta * u + 1))

    def at_zero(self, window: Window, out: Tensor, diagonal: Tensor) -> None:
        self._step(window.grid, window.own_layers, torch.zeros_like(out), out, diagonal)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("store", ["all", "c_points"])
@pytest.mark.parametrize("num_steps", [12, 14])
def test_the_free_guess_is_a_scan_of_the_layers_at_zero(reverse: bool, store: Any, num_steps: int) -> None:
    """Then as from any other guess: F-relaxed, and corrected once. It counts no evaluation."""
    problem = Problem(num_steps, reverse=reverse, sources=True)

    def solved(guess: Any) -> tuple[Tensor, SolveResult]:
        solver = MGRIT(
            levels=2, coarsening=4, iterations=0, adjoint_iterations=0, coarse_operator="linear", delta="none",
            initial_guess=guess, store=store, chunk=1,
        )  # fmt: skip
        hierarchy = solver.hierarchy(num_steps)
        hierarchy = hierarchy.transpose() if reverse else hierarchy
        states = problem._states(hierarchy.grids[0], solver)
        states.start.copy_(problem.given)
        return states.c_points, solve(Shifted(problem.theta, 2), hierarchy, states, solver, g=problem.g)

    came, of_free = solved("coarse")
    assert of_free.evaluations == solved("constant")[1].evaluations
    assert of_free.sequential_depth == solved("constant")[1].sequential_depth

    theta, g, dt, order = problem.theta, problem.g, 1 / num_steps, range(num_steps)
    assert g is not None
    u, phi = torch.zeros(num_steps + 1, 3, dtype=torch.float64), lambda k, v: v + dt * torch.cos(theta[k] * v + 1)
    u[num_steps if reverse else 0] = problem.given
    ends = [(k + 1, k) if reverse else (k, k + 1) for k in order][:: -1 if reverse else 1]
    for source, target in ends:
        k = min(source, target)
        diagonal = 1 - dt * theta[k] * torch.sin(torch.ones(3, dtype=torch.float64))
        u[target] = dt * torch.cos(torch.ones((), dtype=torch.float64)) + diagonal * u[source] + g[target]
    given = u[::4].clone()
    if reverse and num_steps % 4:  # a short last interval is swept through
        for source, target in ends[: num_steps % 4]:
            u[target] = phi(target, u[source]) + g[target]
        given[-1] = u[num_steps // 4 * 4]
    v, intervals = given.clone(), range(num_steps // 4)
    for interval in reversed(intervals) if reverse else intervals:
        source, target = (interval + 1, interval) if reverse else (interval, interval + 1)
        end = given[source]
        for j in range(4)[:: -1 if reverse else 1]:
            k = 4 * interval + j
            end = phi(k, end) + g[k if reverse else k + 1]
        v[target] = end + v[source] - given[source]
    assert_close_relative(came, v, tolerance=1e-13)


def test_the_depth_of_a_linear_cycle_does_not_depend_on_the_number_of_layers() -> None:
    solver = MGRIT(levels=4, coarsening=8, iterations=2, relaxation="F", coarse_operator="linear")
    depths = {Problem(num_steps).solve(solver)[1].sequential_depth for num_steps in (64, 512, 4096)}
    assert depths == {7 + 3 * 8}


def test_picard_converges_faster_than_rediscretisation_and_the_faster_the_higher_its_order() -> None:
    torch.manual_seed(0)
    problem = Problem(64)
    exact = problem.serial()

    def error(**options: Any) -> float:
        states, _, _ = problem.solve(MGRIT(levels=2, coarsening=8, iterations=1, relaxation="F", **options))
        return relative_error(states.u, exact)

    of_orders = [error(coarse_operator="picard", picard_order=order) for order in (1, 2, 3)]
    assert error(coarse_operator="rediscretised") > 3 * of_orders[0] > 9 * of_orders[1] > 27 * of_orders[2]


def test_auto_is_what_the_propagator_prefers() -> None:
    fine = Sines(torch.rand(8, 3), 2)
    assert CoarseOperator.of(MGRIT(), fine) == CoarseOperator("rediscretised", 1, False)
    fine.preferred = ("picard", 2)
    assert CoarseOperator.of(MGRIT(), fine) == CoarseOperator("picard", 2, False)
    assert CoarseOperator.of(MGRIT(delta="diagonal"), fine) == CoarseOperator("rediscretised", 1, True)
    assert CoarseOperator.of(MGRIT(store="c_points"), fine) == CoarseOperator("rediscretised", 1, False)
    assert CoarseOperator.of(MGRIT(coarse_operator="linear"), fine) == CoarseOperator("linear", 1, True)
    assert CoarseOperator.of(MGRIT(coarse_operator="linear", delta="none"), fine) == CoarseOperator("linear", 1, False)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_final_residual_is_that_of_the_states_that_are_returned(reverse: bool) -> None:
    problem = Problem(32, reverse=reverse, sources=True)
    options: dict[str, Any] = {"levels": 2, "iterations": 1, "adjoint_iterations": 1}
    once = problem.solve(MGRIT(**options, final_residual=True))[1]
    twice = problem.solve(MGRIT(**options | {"iterations": 2, "adjoint_iterations": 2}, relaxation="F"))[1]
    f_relaxed = problem.solve(MGRIT(**options, relaxation="F", final_residual=True))[1]
    assert f_relaxed.final_residual == pytest.approx(twice.residual_norms[1], rel=1e-9)
    assert f"final_residual={once.final_residual:.3e}" in repr(once)
    assert "final_residual" not in repr(twice) and twice.final_residual is None


def test_a_nested_guess_is_better_than_a_coarse_one() -> None:
    problem = Problem(256)
    exact = problem.serial()

    def error(guess: Any) -> float:
        return relative_error(problem.solve(MGRIT(levels=4, iterations=0, initial_guess=guess))[0].u, exact)

    assert error("nested") < 0.8 * error("coarse")  # at most 0.57 in 60 draws
