"""Residual histories of a training problem, and what is read off them."""

import math

import pytest

from lpgpu.train import TrainOptions, find_recipe
from lpgpu.train.solvers import latest_solves, reduction_per_cycle, residual_histories, using_solver
from lpgpu.train.trainer import Trainer


def trainer(**options) -> Trainer:
    small = {"layers": 16, "channels": 4, "batch_size": 50, "levels": 2, "device": "cpu"}
    return Trainer(find_recipe("peaks"), TrainOptions(**{**small, **options}))


def test_one_cycle_more_than_in_training():
    small = trainer(iterations=2, adjoint_iterations=1)
    before = small.problem.layers.solver
    forward, adjoint = residual_histories(small.problem, *small.first_batch())
    assert len(forward) == 3 and len(adjoint) == 2
    assert forward[-1] < forward[0] and adjoint[-1] < adjoint[0]
    assert small.problem.layers.solver is before
    assert all(parameter.grad is None for parameter in small.network.parameters())


def test_solves_are_asked_for_after_a_backward_pass():
    with pytest.raises(RuntimeError, match="have not been propagated forward and backward"):
        latest_solves(trainer().problem.layers)


def test_solver_comes_back_after_an_exception():
    layers = trainer().problem.layers
    before = layers.solver
    with pytest.raises(KeyError), using_solver(layers, trainer(solver="serial").problem.layers.solver):
        raise KeyError
    assert layers.solver is before


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
