"""verify: its errors are those of an own calculation, and it leaves everything as it was."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lpgpu import GRU, MGRIT, LayerParallel, Serial, verify
from lpgpu.nn import DenseBlock
from tests.assertions import relative_error
from tests.nn.networks import WIDTH

CRUDE = MGRIT(
    levels=2, coarsening=4, iterations=1, adjoint_iterations=1, relaxation="F", coarse_operator="rediscretised"
)


def network(**options) -> nn.Sequential:
    """A stem, 16 layers and a head, in fp64."""
    deep = LayerParallel(None, lambda: DenseBlock(WIDTH), 16, 4.0, **{"solver": CRUDE, **options})
    return nn.Sequential(nn.Linear(3, WIDTH), deep, nn.Linear(WIDTH, 2)).double()


def step_of(net: nn.Module, x: Tensor) -> Callable[[], object]:
    return lambda: net(x).square().mean().backward()


def gradients(net: nn.Module, step: Callable[[], object]) -> dict[str, Tensor]:
    net.zero_grad()
    step()
    found = {name: theta.grad.clone() for name, theta in net.named_parameters() if theta.grad is not None}
    net.zero_grad()
    return found


def test_errors_are_those_of_exact_propagation():
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    report = verify(net, step_of(net, x), layers=True)
    inexact = gradients(net, step_of(net, x))
    net[1].solver = Serial()
    exact = gradients(net, step_of(net, x))
    whole, exact_whole = (torch.cat([each.flatten() for each in g.values()]) for g in (inexact, exact))
    assert 1e-6 < report.gradient == pytest.approx(relative_error(whole, exact_whole))
    errors = {name: relative_error(inexact[name], exact[name]) for name in exact}
    assert report.worst == pytest.approx(max(errors.values()))
    assert errors[report.worst_parameter] == pytest.approx(report.worst)
    of_layers = report.solves[0].layer_gradients or ()
    w, exact_w = (
        torch.cat([g["1.layers.linear.weight"].flatten(1), g["1.layers.linear.bias"]], 1) for g in (inexact, exact)
    )
    assert of_layers == pytest.approx([relative_error(a, b) for a, b in zip(w, exact_w, strict=True)])


def test_states_layer_by_layer():
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    report = verify(net, step_of(net, x), layers=True)
    (solve,) = report.solves
    assert solve.part == "1"
    u = net[0](x)
    y = net[1](u)
    steps = net[1].to_sequential()
    assert report.output == solve.output == pytest.approx(relative_error(y, steps(u)))
    assert len(solve.layer_states or ()) == 16
    # two F-sweeps and a cycle: the first two intervals are serial
    assert max((solve.layer_states or ())[:7]) < 1e-14 < 1e-6 < (solve.layer_states or ())[-1]
    assert report.states == solve.states <= max(solve.layer_states or ())


def test_exact_propagation_has_no_error():
    net, x = network(solver=Serial()), torch.randn(6, 3, dtype=torch.float64)
    report = verify(net, step_of(net, x))
    assert (report.states, report.output, report.gradient, report.worst) == (0, 0, 0, 0)
    assert report.depth == report.exact_depth == 32
    assert report.solves[0].layer_states is None


def test_everything_is_left_as_it_was():
    deep = LayerParallel(None, lambda: DenseBlock(WIDTH), 16, 1.0, solver=CRUDE)
    net = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Dropout(0.5), deep)
    x = torch.randn(6, WIDTH)
    net(x).sum().backward()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    owned = [theta.grad for theta in net.parameters()]
    values = [grad.clone() for grad in owned if grad is not None]
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()

    def step() -> None:
        net(x + random.random() + float(np.random.rand())).square().mean().backward()

    report = verify(net, step)
    assert 0 < report.gradient < 0.5  # other draws would give an error of order 1
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    assert all(theta.grad is own for theta, own in zip(net.parameters(), owned, strict=True))
    assert all(
        torch.equal(grad, value) for grad, value in zip(filter(lambda g: g is not None, owned), values, strict=True)
    )
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert (np.random.get_state()[1] == numpy_state).all()
    assert deep.solver is CRUDE


def test_several_networks_and_recurrent_ones():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = GRU(3, WIDTH, num_layers=2, solver=CRUDE)
            self.deep = LayerParallel(None, lambda: DenseBlock(WIDTH), 16, 1.0, solver=CRUDE)

        def forward(self, x: Tensor) -> Tensor:
            return self.deep(self.deep(self.gru(x)[1][-1]))

    net, x = Two().double(), torch.randn(24, 5, 3, dtype=torch.float64)
    report = verify(net, step_of(net, x), layers=True)
    assert [solve.part for solve in report.solves] == ["gru", "gru", "deep", "deep"]
    assert [len(solve.layer_states or ()) for solve in report.solves] == [24, 24, 16, 16]
    assert report.solves[0].layer_gradients is None
    assert report.exact_depth == 2 * (24 + 24 + 16 + 16)
    assert "gradient by" in repr(report)


def test_states_that_are_not_stored_are_verified_too():
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    stored = verify(net, step_of(net, x), layers=True)
    net[1].solver = replace(CRUDE, store="c_points")
    recomputed = verify(net, step_of(net, x), layers=True)
    assert recomputed.solves[0].layer_states == pytest.approx(stored.solves[0].layer_states, abs=1e-14)
    assert recomputed.gradient == pytest.approx(stored.gradient)


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda net, x: (net, lambda: None), ValueError, "did not run the network"),
        (lambda net, x: (net, lambda: net(x)), ValueError, "no gradient"),
        (lambda net, x: (net, lambda: network()(x).sum().backward()), ValueError, "did not run the network"),
        (lambda net, x: (net, lambda: (net(x) * torch.nan).sum().backward()), ValueError, "not finite"),
        (lambda net, x: (net, lambda: (net(x) * 0).sum().backward()), ValueError, "zero"),
        (lambda net, x: (nn.Linear(3, 2), lambda: None), ValueError, "holds no LayerParallel"),
        (lambda net, x: (lambda x: x, lambda: None), TypeError, "nn.Module"),
        (lambda net, x: (net, 3), TypeError, "function without arguments"),
        (lambda net, x: (net, lambda: 1 / 0), ZeroDivisionError, "division"),
    ],
)
def test_bad_input(spoil, error, says):
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    with pytest.raises(error, match=says):
        verify(*spoil(net, x))
    assert all(theta.grad is None for theta in net.parameters())
    assert net[1].solver is CRUDE


def test_a_step_that_trains_is_refused():
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def step() -> None:
        net(x).sum().backward()
        optimizer.step()

    with pytest.raises(ValueError, match="without the optimizer"):
        verify(net, step)


def test_a_step_that_differs_from_call_to_call_is_refused():
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    calls = iter(range(10))
    with pytest.raises(ValueError, match="did not do the same twice"):
        verify(net, lambda: [net(x).sum().backward() for _ in range(next(calls) + 1)])
