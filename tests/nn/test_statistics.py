"""BatchNorm in training: normalised by the batch in every sweep, its running statistics updated once a forward."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lpgpu import MGRIT, InexactStatisticsWarning, LayerParallel, Serial, verify
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


class TestCumulativeAverages:
    """momentum=None: as torch.optim.swa_utils.update_bn takes statistics anew."""

    @pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
    @pytest.mark.parametrize(("build", "shape"), [(block, (5, WIDTH)), (images, (2, 4, 3, 3))])
    def test_update_bn_gives_those_of_the_sequential_network(self, solver: Any, build: Any, shape: Any) -> None:
        net, batches = network(build, solver=solver, buffer=(1, 2)), [inputs(*shape) for _ in range(3)]
        net(inputs(*shape))  # what was there before is forgotten
        sequential = net.to_sequential()
        momentum = net.layers[1].momentum  # pyright: ignore
        update_bn(batches, net.eval()), update_bn(batches, sequential.eval())
        for mine, theirs in zip(statistics(net), of_sequential(sequential), strict=True):
            assert_close_relative(mine.double(), theirs.double(), tolerance=1e-10)
        assert statistics(net)[2].tolist() == [3] * 18
        assert net.layers[1].momentum == momentum and not net.layers.training  # pyright: ignore

    def test_gradients_are_those_of_a_momentum(self) -> None:
        """Of the batch's statistics either way; the momentum that a backward finds stays."""
        net, x, weight = network(block, solver=exactly()), inputs(5, WIDTH), inputs(5, WIDTH)
        expected = derivatives(net, x, weight)
        norm: Any = net.layers[1]
        norm.momentum = None
        came = derivatives(net, x, weight)
        assert_close_relative(came.dx, expected.dx)
        y = net(x)
        norm.momentum = 0.2
        y.backward(weight)
        assert norm.momentum == 0.2

    def test_several_updates_in_a_step_are_refused(self) -> None:
        net = network(block, solver=Serial(), scheme="midpoint")
        before = statistics(net)[2]
        with pytest.raises(RuntimeError, match=r"running statistics of 1 2 times, by momentum=None.* a momentum"):
            update_bn([inputs(5, WIDTH)], net)
        assert torch.equal(statistics(net)[2], before)


class TestWarning:
    INEXACT = MGRIT(levels=2, coarsening=3, iterations=1, relaxation="F")

    def test_an_inexact_solve_in_training_says_it_once_with_the_cures(self) -> None:
        net, x = network(block, solver=self.INEXACT), inputs(5, WIDTH)
        with pytest.warns(InexactStatisticsWarning) as said:
            for _ in range(3):
                net(x)
        assert len(said) == 1
        for cure in ("More cycles", "lpgpu.tune", "GroupNorm", "update_bn", "lpgpu.verify"):
            assert cure in str(said[0].message)
        with pytest.warns(InexactStatisticsWarning):
            copy.deepcopy(net)(x)  # a network of its own

    @pytest.mark.parametrize(
        "quiet",
        [
            lambda net, x: net.eval()(x),
            lambda net, x: setattr(net, "solver", Serial()) or net(x),
            lambda net, x: setattr(net, "solver", exactly()) or net(x),
            lambda net, x: setattr(net, "solver", MGRIT(levels=2, iterations=20, tolerance=1e-9)) or net(x),
            lambda net, x: network(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GroupNorm(2, WIDTH)), 18)(x),
            lambda net, x: verify(net, lambda: net(x).sum().backward()),
        ],
        ids=["eval", "serial", "exact", "a tolerance met", "GroupNorm", "verify"],
    )
    def test_all_else_is_quiet(self, quiet: Any) -> None:
        net, x = network(block, solver=self.INEXACT), inputs(5, WIDTH)
        with warnings.catch_warnings():
            warnings.simplefilter("error", InexactStatisticsWarning)
            quiet(net, x)
