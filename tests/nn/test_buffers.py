"""Buffer layers: the first and last layers are walked one by one, those between are solved; one process."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import MGRIT, LayerParallel, Serial, verify
from lpgpu.comm import SingleProcess
from lpgpu.nn import PerLayer
from lpgpu.nn.tune import _Bench
from tests.assertions import assert_close_relative, assert_equals_serial, assert_mentions, derivatives
from tests.nn.networks import BLOCKS, WIDTH, exactly, inputs, network
from tests.nn.test_statistics import block as normed
from tests.nn.test_statistics import of_sequential, statistics

N, BUFFER = 12, (2, 3)
SOLVERS = {
    "all states": exactly(N),
    "C-points": exactly(N, store="c_points"),
    "Picard": MGRIT(coarsening=3, coarse_operator="picard", iterations=5, adjoint_iterations=5),
    "serial": Serial(),
}


class Conditioned(nn.Module):
    """form="residual" with arguments, a random draw and the time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, t: Tensor, u: Tensor, mask: Tensor, *, scale: Tensor) -> Tensor:
        return u + scale * mask * torch.tanh(self.linear(u) + t + torch.randn_like(u))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_outputs_and_gradients_are_those_of_the_layers_one_by_one(block: str, solver: Any) -> None:
    build, form, shape = BLOCKS[block]
    assert_equals_serial(network(build, N, form=form, solver=solver, buffer=BUFFER), inputs(*shape), tolerance=1e-11)


def test_an_inexact_solve_is_of_the_layers_between() -> None:
    solver = MGRIT(levels=2, coarsening=2, iterations=1, adjoint_iterations=1, coarse_operator="picard")
    net = network(num_steps=N, solver=solver, buffer=BUFFER, Tf=6.0)
    opening, closing = net.to_sequential()[: BUFFER[0]], net.to_sequential()[-BUFFER[1] :]
    between = network(num_steps=N - sum(BUFFER), solver=solver, Tf=6.0 * (N - sum(BUFFER)) / N)
    between.load_state_dict({name: value[2:-3] for name, value in net.state_dict().items()})
    x = inputs(requires_grad=True)
    came, expected = net(x), closing(between(opening(x)))
    assert_close_relative(came, expected)
    assert_close_relative(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (came, expected)))
    assert net.forward_result and between.forward_result and net.adjoint_result and between.adjoint_result
    for whole, part in ((net.forward_result, between.forward_result), (net.adjoint_result, between.adjoint_result)):
        assert whole.sequential_depth == part.sequential_depth + sum(BUFFER)
        assert whole.evaluations == (part.evaluations[0] + sum(BUFFER), *part.evaluations[1:])
        assert whole.residual_norms == pytest.approx(part.residual_norms)


def test_arguments_times_and_draws_are_those_without_a_buffer() -> None:
    x, mask = inputs(requires_grad=True), inputs(WIDTH, requires_grad=True)
    scale = inputs(N, 1, requires_grad=True)
    found = []
    for buffer in ((0, 0), BUFFER):
        torch.manual_seed(3)
        net = network(Conditioned, N, form="residual", solver=Serial(), buffer=buffer)
        y = net(x, mask, scale=PerLayer(scale))
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, mask, scale, *net.parameters()])])
    for came, expected in zip(*found, strict=True):
        assert_close_relative(came, expected)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_running_statistics_are_updated_once(solver: Any) -> None:
    net, x = network(normed, N, solver=solver, buffer=BUFFER), inputs(5, WIDTH)
    sequential = net.to_sequential()
    derivatives(net, x, x)
    sequential(x)
    for mine, theirs in zip(statistics(net), of_sequential(sequential), strict=True):
        assert_close_relative(mine.double(), theirs.double(), tolerance=1e-10)


def test_parameters_are_those_without_a_buffer() -> None:
    torch.manual_seed(5)
    plain = network(num_steps=N)
    torch.manual_seed(5)
    net = network(num_steps=N, buffer=BUFFER)
    assert list(net.state_dict()) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(net.state_dict()[name], value)
    assert "buffer=(2, 3)" in repr(net) and "buffer" not in repr(plain)


def test_second_derivatives_of_exact_propagation() -> None:
    net, x = network(num_steps=4, solver=Serial(), buffer=(1, 1)), inputs(requires_grad=True)
    assert torch.autograd.gradgradcheck(net, (x,))


def test_serial_results_count_every_layer() -> None:
    net, x = network(num_steps=N, buffer=BUFFER, solver=Serial()), inputs()
    net(x).square().sum().backward()
    for result in (net.forward_result, net.adjoint_result):
        assert result and (result.sequential_depth, result.evaluations) == (N, (N,))


def test_what_tune_expects_of_a_solver_is_what_a_step_with_it_counts() -> None:
    net, x = network(num_steps=N, buffer=BUFFER), inputs()
    bench = _Bench(net, lambda: net(x).square().mean().backward(), SingleProcess())
    tried, expected = bench.attempt(net.solver), bench.work(net.solver)
    assert (tried.depth, tried.evaluations) == (expected.depth, expected.evaluations)
    assert bench.exact.depth == 2 * N


def test_verify_looks_at_the_layers_between() -> None:
    net, x = network(num_steps=N, buffer=BUFFER, solver=MGRIT(levels=2, coarsening=2, iterations=0)), inputs()
    found = verify(net, lambda: net(x).square().mean().backward(), layers=True)
    (solve,) = found.solves
    assert found.exact_depth == 2 * N
    assert solve.layer_states is not None and len(solve.layer_states) == N - sum(BUFFER)
    assert solve.layer_gradients is not None and len(solve.layer_gradients) == N


def test_of_modules_and_states_of_several_tensors() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            u, v = state
            return u + v, v - 0.1 * self.linear(u)

    blocks = [Pair().double() for _ in range(N)]
    net = LayerParallel.of_modules(None, blocks, solver=exactly(N), buffer=BUFFER)
    state = came = inputs(), inputs()
    for block in blocks:
        state = block(state)
    for one, other in zip(net(came), state, strict=True):
        assert_close_relative(one, other, tolerance=1e-11)


@pytest.mark.parametrize(
    ("buffer", "error", "words"),
    [
        (2, TypeError, ["buffer is 2", "two integers"]),
        ((1, 0.5), TypeError, ["(1, 0.5)"]),
        ((1, 1, 1), TypeError, ["(1, 1, 1)"]),
        ((-1, 0), ValueError, ["(-1, 0)", "≥ 0"]),
        ((6, 6), ValueError, ["(6, 6)", "12 layers"]),
    ],
)
def test_bad_input(buffer: Any, error: Any, words: list[str]) -> None:
    with pytest.raises(error) as caught:
        network(num_steps=N, buffer=buffer)
    assert_mentions(caught.value, words)


def test_it_is_as_built() -> None:
    net = network(num_steps=N, buffer=BUFFER)
    with pytest.raises(AttributeError):
        net.buffer = (1, 1)  # pyright: ignore[reportAttributeAccessIssue]
    assert net.buffer == BUFFER
