"""Residual histories of a training problem, and what is read off them."""

import math

import pytest
import torch

from lpgpu import GRU, MGRIT, LayerParallel, Serial, SolveResult
from lpgpu.nn.solver_module import using_solver
from lpgpu.train import ODEOptions, find_recipe
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.methods.solvers import (
    Solves,
    gradient_probe,
    latest_solves,
    reduction_per_cycle,
    residual_histories,
)


def trainer(**options) -> Trainer:
    small = {"layers": 16, "channels": 4, "batch_size": 50, "levels": 2, "device": "cpu"}
    return Trainer(find_recipe("peaks"), ODEOptions(**{**small, **options}))


def test_one_cycle_more_than_in_training():
    small = trainer(iterations=2, adjoint_iterations=1)
    (layers,) = small.problem.propagated
    before = layers.solver
    forward, adjoint = residual_histories(small.problem, *small.first_batch())
    assert len(forward) == 3 and len(adjoint) == 2
    assert forward[-1] < forward[0] and adjoint[-1] < adjoint[0]
    assert layers.solver is before
    assert all(parameter.grad is None for parameter in small.network.parameters())


def test_solves_are_asked_for_after_a_backward_pass():
    with pytest.raises(RuntimeError, match="has not been propagated forward and backward"):
        latest_solves(trainer().problem.propagated)


def test_solver_comes_back_after_an_exception():
    parts = [trainer().problem.propagated[0], GRU(1, 2)]
    before = [part.solver for part in parts]
    with pytest.raises(KeyError), using_solver(parts, Serial()):
        assert [part.solver for part in parts] == [Serial(), Serial()]
        raise KeyError
    assert [part.solver for part in parts] == before


def normed() -> torch.nn.Sequential:
    """A network whose forward pass changes buffers, outside of its layers."""
    deep = LayerParallel(None, lambda: torch.nn.Linear(3, 3), 4, 1.0)
    return torch.nn.Sequential(torch.nn.BatchNorm1d(3), deep)


def test_a_probe_without_backward_is_refused():
    net, x = normed(), torch.randn(5, 3)
    message = r"compute\(\) left no gradient in the network; it has to call backward\(\)"
    for _ in range(2):  # the second time it has gone backward before
        with pytest.raises(RuntimeError, match=message):
            gradient_probe(net, Serial(), lambda: net(x).sum())
        assert net[1].solver != Serial()
        net(x).sum().backward()


def test_a_probe_leaves_buffers_alone():
    net, x = normed(), torch.randn(5, 3)
    buffers = dict(net.named_buffers())
    before = {name: value.clone() for name, value in buffers.items()}
    graph = net.eval()(x).square().sum()
    gradient_probe(net, Serial(), lambda: net(x).square().sum().backward())
    graph.backward()  # which reads the running statistics
    gradient_probe(net.train(), Serial(), lambda: net(x).square().sum().backward())
    with pytest.raises(RuntimeError, match="no gradient"):
        gradient_probe(net, Serial(), lambda: net(x))
    for name, value in net.named_buffers():
        assert value is buffers[name] and torch.equal(value, before[name])


def test_solves_of_a_stack_are_counted_together():
    torch.manual_seed(0)
    gru = GRU(1, 3, 2, solver=MGRIT(levels=2, iterations=2, adjoint_iterations=1))
    deep = LayerParallel(None, lambda: torch.nn.Linear(3, 3), 5, 1.0, solver=Serial())
    output, _ = gru(torch.randn(16, 2, 1))
    deep(output[-1]).sum().backward()
    forward, adjoint = latest_solves([gru, deep])
    results = [*gru.forward_results, deep.forward_result]
    first, second, _ = (result.residual_norms for result in results)
    assert forward.residual_norms == [max(first[0], second[0]), max(first[1], second[1])]
    assert len(adjoint.residual_norms) == 1
    assert forward.sequential_depth == sum(result.sequential_depth for result in results)
    fine, coarse = forward.evaluations
    assert fine == 2 * results[0].evaluations[0] + 5 and coarse == 2 * results[0].evaluations[1]


def test_not_finite_residuals_are_not_passed_over():
    def result(*norms: float) -> SolveResult:
        return SolveResult(2, None, (1,), 1, 0, 0, tuple(torch.tensor(norm**2) for norm in norms))

    histories = Solves((result(1.0, 2.0), result(3.0, math.nan))).residual_norms
    assert histories[0] == 3.0 and math.isnan(histories[1])


@pytest.mark.parametrize(
    ("norms", "reduction"),
    [
        ((8.0, 4.0, 2.0), 0.5),
        ((1.0, 0.01), 0.01),
        ((1.0,), None),
        ((), None),
        ((0.0, 0.0), None),
        ((1.0, math.inf), None),
    ],
)
def test_reduction_is_the_geometric_mean(norms, reduction):
    assert reduction_per_cycle(norms) == (None if reduction is None else pytest.approx(reduction))
