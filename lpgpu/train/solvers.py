"""What training does with the solver of the layers besides training: exact inference, and a look at its convergence."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from lpgpu import MGRIT, LayerParallel, Serial, SolveResult
from lpgpu.train.recipe import Problem


@contextmanager
def using_solver(layers: LayerParallel, solver: MGRIT | Serial) -> Iterator[None]:
    """Propagate with `solver` inside the `with` statement, and as before after it."""
    before = layers.solver
    layers.solver = solver
    try:
        yield
    finally:
        layers.solver = before


def latest_solves(layers: LayerParallel) -> tuple[SolveResult, SolveResult]:
    """Results of the latest forward and adjoint solve. Raises RuntimeError before the first backward pass."""
    if layers.forward_result is None or layers.adjoint_result is None:
        raise RuntimeError("the layers have not been propagated forward and backward yet")
    return layers.forward_result, layers.adjoint_result


def residual_histories(problem: Problem, inputs: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """Residual norms of a forward and an adjoint solve of this batch, with one cycle more than in training.

    One more, since a norm is taken before each cycle: a history of c norms shows the reduction by c − 1 cycles. Both
    are empty for a serial solver. Parameter gradients are cleared.
    """
    layers, solver = problem.layers, problem.layers.solver
    if not isinstance(solver, MGRIT):
        return [], []
    longer = replace(solver, iterations=solver.iterations + 1, adjoint_iterations=solver.adjoint_iterations + 1)
    with using_solver(layers, longer):
        problem.loss(problem.network(inputs), labels).backward()
    problem.network.zero_grad(set_to_none=True)
    forward, adjoint = latest_solves(layers)
    return list(forward.residual_norms), list(adjoint.residual_norms)


def reduction_per_cycle(norms: Sequence[float]) -> float | None:
    """Geometric mean of ‖r_{i+1}‖ / ‖r_i‖; None where the history is too short, begins with zero or is not finite."""
    if len(norms) < 2 or norms[0] == 0 or not all(map(math.isfinite, norms)):
        return None
    return (norms[-1] / norms[0]) ** (1 / (len(norms) - 1))
