"""How a solve ends: at which rate its residual falls, when it stops, and what is said when it goes wrong."""

import math
import warnings
from collections import deque
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lpgpu import MGRIT, DivergenceError, DivergenceWarning, LayerParallel
from lpgpu.mgrit import AllPoints, Grid, Hierarchy, Propagator, convergence, solve
from lpgpu.nn import DenseBlock
from tests.assertions import assert_mentions
from tests.mgrit.problems import Problem
from tests.settings import seeds, solver_options, steps


def tanh_network(num_steps: int, solver: MGRIT, **options: Any) -> LayerParallel:
    return LayerParallel(None, lambda: DenseBlock(5, dtype=torch.float64), num_steps, 1.0, solver=solver, **options)


def residual_norms(num_steps: int, **options: Any) -> tuple[float, ...]:
    net = tanh_network(num_steps, MGRIT(**options))
    net(torch.randn(20, 5, dtype=torch.float64))
    assert net.forward_result is not None
    return net.forward_result.residual_norms


def test_the_rate_of_convergence_does_not_depend_on_depth() -> None:
    """The geometric mean of the residual's reduction over five cycles and four networks, 128 layers against 512."""
    rate = {}
    for num_steps in (128, 512):
        histories = [residual_norms(num_steps, iterations=6, initial_guess="constant") for _ in range(4)]
        rate[num_steps] = math.prod(norms[5] / norms[0] for norms in histories) ** (1 / 20)
    assert rate[128] < 0.1
    assert 1 / 1.3 < rate[128] / rate[512] < 1.3


def test_the_adjoint_converges_like_the_forward_solve() -> None:
    net = tanh_network(128, MGRIT(iterations=6, adjoint_iterations=6, initial_guess="constant"))
    net(torch.randn(20, 5, dtype=torch.float64)).sum().backward()
    assert net.adjoint_result is not None
    norms = net.adjoint_result.residual_norms
    assert (norms[5] / norms[0]) ** (1 / 5) < 0.1


@given(
    num_steps=steps,
    options=solver_options(),
    cycles=st.integers(0, 4),
    reverse=st.booleans(),
    sources=st.booleans(),
    seed=seeds,
)
def test_residual_histories_agree_between_stores(
    num_steps: int, options: dict[str, Any], cycles: int, reverse: bool, sources: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    problem = Problem(num_steps, reverse=reverse, sources=sources)
    history = {}
    for store in ("all", "c_points"):
        solver = MGRIT(**{**options, "store": store}, iterations=cycles, adjoint_iterations=cycles)
        history[store] = problem.solve(solver)[1].residual_norms
    assert len(history["all"]) == (cycles if len(MGRIT(**options).hierarchy(num_steps).grids) > 1 else 0)
    assert history["c_points"] == pytest.approx(history["all"], rel=1e-6, abs=1e-13)


def test_residual_norms_are_taken_before_each_correction() -> None:
    """Entry 0 is the residual of the initial guess after relaxation, computed here by hand for F-relaxation."""
    problem = Problem(24)
    guess, _, _ = problem.solve(MGRIT(levels=2, relaxation="F", iterations=0))
    u = guess.u
    phi = u[3:24:4] + 1 / 24 * torch.sin(problem.theta[3::4] * u[3:24:4])
    expected = torch.linalg.vector_norm(phi - u[4::4])
    result = problem.solve(MGRIT(levels=2, relaxation="F", iterations=3))[1]
    assert result.residual_norms[0] == pytest.approx(float(expected), rel=1e-10)


class TestTolerance:
    def test_without_one_all_iterations_run(self) -> None:
        result = Problem(40).solve(MGRIT(iterations=9))[1]
        assert (result.iterations, result.converged, len(result.residual_norms)) == (9, None, 9)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_stops_at_the_first_residual_that_is_small_enough(self, reverse: bool) -> None:
        options = {"adjoint_tolerance" if reverse else "tolerance": 1e-3, "initial_guess": "constant"}
        options |= {"iterations": 20, "adjoint_iterations": 20}
        result = Problem(128, reverse=reverse).solve(MGRIT(**options))[1]
        *before, last = result.residual_norms
        assert result.converged is True
        assert last <= 1e-3 * before[0] < min(before)
        assert result.iterations == len(before) < 20, "the residual that stops a solve is not followed by a correction"

    def test_is_each_direction_own(self) -> None:
        options: dict[str, Any] = {"iterations": 5, "adjoint_iterations": 3, "tolerance": 1e-1}
        assert Problem(64).solve(MGRIT(**options))[1].converged is True
        backward = Problem(64, reverse=True).solve(MGRIT(**options))[1]
        assert (backward.converged, backward.iterations) == (None, 3)

    def test_that_is_not_met_is_not_converged(self) -> None:
        result = Problem(128).solve(MGRIT(iterations=2, tolerance=1e-12))[1]
        assert (result.converged, result.iterations) == (False, 2)

    def test_of_zero_is_met_by_zero_only(self) -> None:
        assert Problem(16).solve(MGRIT(levels=2, iterations=1, tolerance=0.0))[1].converged is False

    @pytest.mark.parametrize("store", ["all", "c_points"])
    def test_states_are_consistent_where_it_stops(self, store: Any) -> None:
        """Stopped after relaxation, so the states are better than the residual that stopped it."""
        problem = Problem(70)
        states, result, _ = problem.solve(MGRIT(iterations=20, tolerance=1e-9, store=store))
        assert result.converged
        error = torch.linalg.vector_norm(states.end - problem.serial()[-1])
        assert error <= 10 * result.residual_norms[0] * 1e-9


class Linear(Propagator):
    """Φ(u) = a u on the finest level, b u on all others."""

    def __init__(self, a: float, b: float, num_levels: int) -> None:
        super().__init__(num_levels)
        self.a, self.b = a, b

    def _step(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal: Tensor | None = None) -> None:
        torch.mul(u, self.a if grid.level == 0 else self.b, out=out)


def solve_linear(a: float, b: float, *, start: float = 1.0, num_steps: int = 32, reverse=False, **options: Any):
    solver = MGRIT(levels=2, initial_guess="constant", **options)
    hierarchy: Hierarchy = solver.hierarchy(num_steps)
    hierarchy = hierarchy.transpose() if reverse else hierarchy
    states = AllPoints(hierarchy.grids[0], torch.full((num_steps + 1, 2), torch.nan, dtype=torch.float64))
    states.start.fill_(start)
    return solve(Linear(a, b, 2), hierarchy, states, solver)


DIVERGES: dict[str, Any] = {"a": 1.5, "b": -5.0, "relaxation": "F", "iterations": 3, "adjoint_iterations": 3}
HEALTHY: dict[str, Any] = {"a": 1.0, "b": 1.0, "iterations": 1}


class TestDivergence:
    def test_warns_with_the_history_and_the_cure(self) -> None:
        with pytest.warns(DivergenceWarning) as caught:
            solve_linear(**DIVERGES)
        assert len(caught) == 1
        assert_mentions(str(caught[0].message), ["forward solve diverges", "residual grew", "Serial()"])

    def test_raises_where_asked_to(self) -> None:
        with pytest.raises(DivergenceError) as caught:
            solve_linear(**DIVERGES, on_divergence="raise")
        with pytest.warns(DivergenceWarning):
            result = solve_linear(**DIVERGES)
        assert_mentions(caught.value, [f"{norm:.3e}" for norm in result.residual_norms])
        assert issubclass(DivergenceError, ArithmeticError)

    def test_names_the_adjoint_solve(self) -> None:
        with pytest.warns(DivergenceWarning, match="the adjoint solve diverges"):
            solve_linear(**DIVERGES, reverse=True)

    @pytest.mark.parametrize("start", [math.nan, math.inf])
    @pytest.mark.parametrize("iterations", [0, 2])
    def test_non_finite_states_are_reported_with_and_without_cycles(self, start: float, iterations: int) -> None:
        with pytest.warns(DivergenceWarning, match="the forward solve has non-finite states"):
            solve_linear(1.0, 1.0, start=start, iterations=iterations)

    def test_states_that_overflow_are_reported(self) -> None:
        with pytest.raises(DivergenceError, match="non-finite"):
            solve_linear(1e20, 1.0, iterations=1, on_divergence="raise")

    def test_a_residual_at_rounding_level_is_no_divergence(self) -> None:
        """Once exact, residuals are rounding errors, whose ups and downs mean nothing."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for start in torch.rand(20).tolist():
                solve_linear(1.1, 1.1**4 + 1e-15, start=start, iterations=12, on_divergence="raise")
                Problem(40).solve(MGRIT(iterations=20, on_divergence="raise"))

    @pytest.mark.parametrize("reverse", [False, True])
    def test_nothing_is_divided_by_a_residual_of_zero(self, reverse: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = solve_linear(1.0, 1.0, start=0.0, reverse=reverse, iterations=2, adjoint_iterations=2)
        assert result.residual_norms == (0.0, 0.0)

    def test_blocks_that_do_nothing_are_propagated(self) -> None:
        net = LayerParallel(None, lambda: DenseBlock(3, "identity"), 17, 1.0)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
        x = torch.randn(2, 3, requires_grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            y = net(x)
            y.sum().backward()
        assert torch.equal(y, x)
        assert x.grad is not None and torch.equal(x.grad, torch.ones_like(x))


class TestPending:
    """On a GPU a diagnosis is spoken once it has arrived; here by a device that answers when it is told to."""

    @pytest.fixture
    def arrived(self, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        answer = [False]
        monkeypatch.setattr(convergence, "_pending", deque(maxlen=64))
        monkeypatch.setattr(convergence, "_to_host", lambda figures: (figures.cpu(), lambda: answer[0]))
        return answer

    def test_is_spoken_at_the_next_solve_after_it_arrived(self, arrived: list[bool]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            solve_linear(**DIVERGES)
            solve_linear(**HEALTHY)
            arrived[0] = True
        with pytest.warns(DivergenceWarning, match="diverges"):
            solve_linear(**HEALTHY)
        assert not convergence._pending

    def test_is_spoken_once_and_in_order(self, arrived: list[bool]) -> None:
        solve_linear(**DIVERGES)
        solve_linear(1.0, 1.0, start=math.nan, adjoint_iterations=1, reverse=True)
        arrived[0] = True
        with pytest.warns(DivergenceWarning) as caught:
            convergence.speak_pending()
            convergence.speak_pending()
        assert ["forward" in str(each.message) for each in caught] == [True, False]

    def test_raises_late_where_asked_to(self, arrived: list[bool]) -> None:
        solve_linear(**DIVERGES, on_divergence="raise")
        arrived[0] = True
        with pytest.raises(DivergenceError):
            convergence.speak_pending()
        convergence.speak_pending()

    def test_does_not_hold_up_what_is_known_at_once(self, arrived: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
        """A solve on a CPU after one on a GPU raises its own error itself."""
        solve_linear(**DIVERGES)
        monkeypatch.setattr(convergence, "_to_host", lambda figures: (figures.cpu(), lambda: True))
        with pytest.raises(DivergenceError):
            solve_linear(**DIVERGES, on_divergence="raise")

    def test_waits_where_asked_to(self, arrived: list[bool]) -> None:
        solve_linear(**DIVERGES)
        convergence.speak_pending()
        with pytest.warns(DivergenceWarning):
            convergence.speak_pending(wait=True)
        assert not arrived[0]
