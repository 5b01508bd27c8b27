"""BatchNorm in training: normalised by the batch in every sweep, its running statistics updated once a forward."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import MGRIT, LayerParallel, Serial
from tests.assertions import assert_close_relative, derivatives, relative_error
from tests.nn.networks import WIDTH, exactly, inputs, network

SOLVERS = {
    "all states": exactly(),
    "C-points": exactly(store="c_points", chunk=2),
    "Picard, three levels": MGRIT(levels=3, coarsening=2, coarse_operator="picard", iterations=9, adjoint_iterations=9),
    "serial": Serial(),
}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh(), nn.Dropout(0.0))


def images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU())


def statistics(net: LayerParallel) -> list[Tensor]:
    return [net.layers[1].get_buffer(name).clone() for name in STATISTICS]  # pyright: ignore


def of_sequential(sequential: nn.Sequential) -> list[Tensor]:
    return [torch.stack([step.block[1].get_buffer(name) for step in sequential]) for name in STATISTICS]  # pyright: ignore


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("scheme", ["euler", "midpoint"])
@pytest.mark.parametrize(("build", "shape"), [(block, (5, WIDTH)), (images, (2, 4, 3, 3))])
def test_statistics_and_gradients_are_those_of_one_forward_of_each_layer(
    solver: Any, scheme: Any, build: Any, shape: tuple[int, ...]
) -> None:
    """A stage of the midpoint rule counts as a forward, as it does in the sequential network."""
    net, x, weight = network(build, solver=solver, scheme=scheme), inputs(*shape), inputs(*shape)
    sequential = net.to_sequential()
    for _ in range(2):
        came = derivatives(net, x, weight)
        u = x.clone().requires_grad_()
        y = sequential(u)
        (dx,) = torch.autograd.grad(y, u, weight)
        assert_close_relative(came.y, y, tolerance=1e-10)
        assert_close_relative(came.dx, dx, tolerance=1e-10)
        for mine, theirs in zip(statistics(net), of_sequential(sequential), strict=True):
            assert_close_relative(mine.double(), theirs.double(), tolerance=1e-10)
    net.eval(), sequential.eval()
    assert_close_relative(net(x), sequential(x), tolerance=1e-10)


def test_they_come_from_the_states_that_an_inexact_solve_ends_with() -> None:
    """Not from those of sweeps before: the mean of layer k is that of its state at the end."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(WIDTH, momentum=1.0)

        def forward(self, u: Tensor) -> Tensor:
            return torch.tanh(self.norm(u))

    net, x = network(Normed, 32, Tf=8.0, solver=MGRIT(iterations=0)), 3 + inputs(7, WIDTH)
    net(x)
    after = net.layers.norm.running_mean.clone()  # pyright: ignore
    exact = network(Normed, 32, Tf=8.0, solver=Serial())
    exact(x)
    assert 1e-6 < relative_error(after, exact.layers.norm.running_mean) < 0.5  # pyright: ignore


def test_backward_and_evaluation_leave_them_alone() -> None:
    net, x = network(block, solver=MGRIT(store="c_points")), inputs(5, WIDTH)
    y = net(x)
    before = statistics(net)
    y.sum().backward()
    net.eval()(x)
    assert all(torch.equal(one, other) for one, other in zip(before, statistics(net), strict=True))
    assert before[2].tolist() == [1] * 18


def test_without_gradients_they_are_updated_too() -> None:
    """As PyTorch does in training mode."""
    net = network(block)
    with torch.no_grad():
        net(inputs(5, WIDTH))
    assert statistics(net)[2].tolist() == [1] * 18
