"""What Δ-correction is worth for the GRU, over 128 steps of a random walk; and where it is on."""

import copy
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lpgpu import GRU, MGRIT, LayerParallel, Serial
from lpgpu.nn import ConvBlock, DenseBlock
from tests.assertions import assert_close_relative, assert_equals_serial, relative_error
from tests.nn.networks import WIDTH, inputs, network
from tests.settings import WITH_DIAGONALS, exact_solver, seeds, solver_options, steps

STEPS, BATCH, FEATURES, HIDDEN = 128, 8, 9, 32
DRAWS = 10


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small shapes gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Errors(NamedTuple):
    """Relative to the serial solve: of all states, and of the W_hh gradient for a loss on h_T and on all of output."""

    states: float
    gradient_of_end: float
    gradient_of_output: float


class Draw:
    """One draw of the table: uniform ±s/√H weights, a normalised random walk, random weights of the losses."""

    def __init__(self, s: float) -> None:
        self.gru = GRU(FEATURES, HIDDEN, formulation="implicit", dtype=torch.float64)
        with torch.no_grad():
            for parameter in self.gru.parameters():
                parameter.uniform_(-s / HIDDEN**0.5, s / HIDDEN**0.5)
        walk = torch.randn(STEPS, BATCH, FEATURES, dtype=torch.float64).cumsum(0)
        self.x = (walk - walk.mean((0, 1))) / walk.std((0, 1))
        self.on_output = torch.randn(STEPS, BATCH, HIDDEN, dtype=torch.float64)
        self.exact = self._solve(Serial())

    def errors(self, **options: Any) -> Errors:
        """Of a solve with these options of MGRIT."""
        return Errors(*map(relative_error, self._solve(MGRIT(**options)), self.exact))

    def _solve(self, solver: MGRIT | Serial) -> tuple[Tensor, Tensor, Tensor]:
        self.gru.solver = solver
        output, h_n = self.gru(self.x)
        losses = (self.on_output[-1] * h_n[0]).sum(), (self.on_output * output).sum()
        of_end, of_output = (torch.autograd.grad(loss, self.gru.weight_hh_l0, retain_graph=True)[0] for loss in losses)
        return output.detach(), of_end, of_output


def medians(several: list[Errors]) -> Errors:
    return Errors(*map(median, zip(*several, strict=True)))


def ratio(one: Errors, other: Errors) -> Errors:
    return Errors(*(a / b for a, b in zip(one, other, strict=True)))


@pytest.mark.parametrize("levels", [2, 3])
def test_delta_is_worth_a_factor_of_three_forward_and_two_in_the_gradient(levels: int) -> None:
    """s = 2, m = 4, 2/1 cycles, constant guess; the median of ten ratios."""
    options: dict[str, Any] = {"levels": levels, "initial_guess": "constant"}
    draws = [Draw(2.0) for _ in range(DRAWS)]
    gain = medians(
        [ratio(draw.errors(delta="diagonal", **options), draw.errors(delta="none", **options)) for draw in draws]
    )
    print(f"levels={levels}: {gain}")
    assert gain.states <= 0.35
    assert gain.gradient_of_end <= 0.5
    assert gain.gradient_of_output <= 0.5


@pytest.mark.parametrize("levels", [2, 3])
def test_delta_is_worth_more_from_a_coarse_guess(levels: int) -> None:
    """The default guess: Δ is in it."""
    draws = [Draw(2.0) for _ in range(DRAWS)]
    gain = medians(
        [
            ratio(draw.errors(delta="diagonal", levels=levels), draw.errors(delta="none", levels=levels))
            for draw in draws
        ]
    )
    print(f"levels={levels}: {gain}")
    assert max(gain) <= 0.35


def test_deltas_of_deeper_levels_are_built_on_those_above() -> None:
    """With the factors diag ∂Φ + Δ three levels are as good as two, but for the coarse grids' own error."""
    draws = [Draw(2.0) for _ in range(DRAWS)]
    loss = medians([ratio(draw.errors(levels=3), draw.errors(levels=2)) for draw in draws])
    print(loss)
    assert max(loss) < 4


def test_without_delta_the_error_falls_fivefold_a_cycle() -> None:
    """s = 1, m = 4, constant guess: forward, from one cycle to two and from two to three."""
    draws = [Draw(1.0) for _ in range(DRAWS)]
    for levels in (2, 3):
        of_cycles = [
            medians(
                [draw.errors(delta="none", levels=levels, initial_guess="constant", iterations=k) for draw in draws]
            )
            for k in (1, 2, 3)
        ]
        print(of_cycles)
        assert of_cycles[1].states <= of_cycles[0].states / 5
        assert of_cycles[2].states <= of_cycles[1].states / 5


def test_the_cheapest_cycles_give_gradients_within_a_hundredth() -> None:
    """s = 1, m = 4, three levels, 1/1 cycles, all else as it is by default: every draw."""
    for _ in range(DRAWS):
        errors = Draw(1.0).errors(iterations=1, adjoint_iterations=1)
        print(errors)
        assert errors.gradient_of_end <= 1e-2
        assert errors.gradient_of_output <= 1e-2


@pytest.mark.parametrize("s", [1.0, 2.0])
def test_auto_is_on_for_the_gru(s: float) -> None:
    draw = Draw(s)
    assert draw.errors() == draw.errors(delta="auto") == draw.errors(delta="diagonal") != draw.errors(delta="none")


class TestLayerParallel:
    @staticmethod
    def gradients(net: LayerParallel, x: Tensor, delta: Any) -> list[Tensor]:
        net.solver = MGRIT(delta=delta)
        x = x.clone().requires_grad_()
        y = net(x)
        return [y, *torch.autograd.grad(y.square().sum(), (x, *net.parameters()))]

    @pytest.mark.parametrize("build", [lambda: DenseBlock(WIDTH), lambda: nn.Linear(WIDTH, WIDTH)])
    def test_auto_is_off(self, build: Any) -> None:
        net, x = network(build, 32), inputs()
        for one, other in zip(self.gradients(net, x, "auto"), self.gradients(net, x, "none"), strict=True):
            assert torch.equal(one, other)

    def test_diagonal_is_on_for_dense_blocks(self) -> None:
        net, x = network(num_steps=32), inputs()
        for one, other in zip(self.gradients(net, x, "diagonal"), self.gradients(net, x, "none"), strict=True):
            assert 1e-12 < relative_error(one, other) < 0.5

    @given(
        num_steps=steps,
        options=solver_options(operators=WITH_DIAGONALS),
        activation=st.sampled_from(["tanh", "relu", "smooth_relu", "silu"]),
        bias=st.booleans(),
        seed=seeds,
    )
    def test_dense_blocks_stay_exact_after_enough_cycles(
        self, num_steps: int, options: dict[str, Any], activation: str, bias: bool, seed: int
    ) -> None:
        torch.manual_seed(seed)
        solver = exact_solver(num_steps, options | {"delta": "diagonal"})
        assert_equals_serial(
            network(lambda: DenseBlock(WIDTH, activation, bias=bias), num_steps, solver=solver), inputs()
        )

    @pytest.mark.parametrize("activation", ["tanh", "smooth_relu", "silu", "identity"])
    @pytest.mark.parametrize("bias", [True, False])
    def test_dense_blocks_with_diagonal_weights_converge_quadratically(self, activation: str, bias: bool) -> None:
        """There the diagonal is the Jacobian."""
        net = network(lambda: DenseBlock(WIDTH, activation, bias=bias), 64)
        with torch.no_grad():
            net.layers.get_parameter("linear.weight").mul_(torch.eye(WIDTH))
        x, errors = inputs(20, WIDTH), {}
        exact = copy.deepcopy(net)
        exact.solver = Serial()
        for delta in ("diagonal", "none"):
            options: dict[str, Any] = {"coarse_operator": "rediscretised", "delta": delta}
            net.solver = MGRIT(**options, iterations=3, adjoint_iterations=2)
            came, expected = (torch.autograd.grad(each(x).square().sum(), each.parameters()) for each in (net, exact))  # type: ignore
            errors[delta] = max(map(relative_error, came, expected))
        assert errors["diagonal"] < 1e-11 < 1e-2 * errors["none"]

    @pytest.mark.parametrize(
        ("build", "options", "shape"),
        [
            (lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()), {}, (3, WIDTH)),
            (lambda: DenseBlock(WIDTH), {"scheme": "rk4"}, (3, WIDTH)),
            (lambda: ConvBlock(2), {}, (3, 2, 4, 4)),
        ],
        ids=["any block", "dense, another scheme", "convolution"],
    )
    @pytest.mark.parametrize("num_steps", [3, 32])
    def test_blocks_without_a_closed_diagonal_refuse_it(
        self, build: Any, options: dict[str, Any], shape: tuple[int, ...], num_steps: int
    ) -> None:
        net = network(build, num_steps, solver=MGRIT(delta="diagonal"), **options)
        with pytest.raises(
            ValueError, match='delta is "diagonal", which these layers do not offer; use "auto" or "none"'
        ):
            net(inputs(*shape))
        net.solver = MGRIT()
        assert net(inputs(*shape)).isfinite().all()


def test_the_free_guess_of_the_linear_operator_is_worth_more_than_the_constant_one() -> None:
    """At equal depth and evaluations; a quarter of the error in states and gradients in most draws."""
    ratios = []
    for _ in range(5):
        draw = Draw(1.0)
        options: dict[str, Any] = {"levels": 2, "coarsening": 8, "relaxation": "F", "iterations": 1}
        options |= {"adjoint_iterations": 1, "coarse_operator": "linear"}
        free, constant = draw.errors(**options), draw.errors(**options, initial_guess="constant")
        ratios.append([one / other for one, other in zip(free, constant, strict=True)])
    print(ratios)
    assert all(median(each) < 0.7 for each in zip(*ratios, strict=True))


def test_the_free_guess_does_not_depend_on_what_is_stored() -> None:
    draw = Draw(1.0)
    options: dict[str, Any] = {"levels": 2, "coarsening": 6, "iterations": 0, "adjoint_iterations": 0}
    solvers = [MGRIT(**options, coarse_operator="linear", store=store, chunk=3) for store in ("all", "c_points")]
    for one, other in zip(*(draw._solve(solver) for solver in solvers), strict=True):
        assert_close_relative(one, other, tolerance=1e-12)
