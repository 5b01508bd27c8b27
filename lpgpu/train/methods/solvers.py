"""What training does with a network's solvers besides training: exact inference, and a look at their convergence."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from torch import Tensor, nn

from lpgpu import MGRIT, DivergenceWarning, Serial, SolveResult
from lpgpu.nn.solver_module import SolverModule, solver_modules, using_solver
from lpgpu.nn.trials import keeping_buffers
from lpgpu.train.setup.recipe import Problem


@dataclass(frozen=True)
class Solves:
    """The solves of one pass in one direction: one for each `LayerParallel`, one for each layer of a `GRU`.

    They follow each other, so that work and sequential depth add up; residuals are those of the worst solve.
    """

    results: tuple[SolveResult, ...]

    @property
    def residual_norms(self) -> list[float]:
        """Entry i: the largest of the norms before cycle i. On a GPU, reading waits for it."""
        cycles = zip_longest(*(result.residual_norms for result in self.results))
        # max() would pass over a NaN that does not come first
        norms = [[norm for norm in cycle if norm is not None] for cycle in cycles]
        return [math.nan if any(map(math.isnan, cycle)) else max(cycle) for cycle in norms]

    @property
    def evaluations(self) -> list[int]:
        """Φ evaluations per level, finest first."""
        return [sum(level) for level in zip_longest(*(result.evaluations for result in self.results), fillvalue=0)]

    @property
    def sequential_depth(self) -> int:
        """The longest chain of dependent Φ evaluations."""
        return sum(result.sequential_depth for result in self.results)


def latest_solves(parts: Iterable[SolverModule]) -> tuple[Solves, Solves]:
    """The latest forward and adjoint solves. Raises RuntimeError before the first backward pass."""
    results = [part.results for part in parts]
    forward = [result for each in results for result in each.forward]
    return _solves(forward), _solves([result for each in results for result in each.adjoint])


def _solves(results: list[SolveResult | None]) -> Solves:
    done = tuple(result for result in results if result is not None)
    if len(done) < len(results):
        raise RuntimeError("the network has not been propagated forward and backward yet")
    return Solves(done)


@dataclass(frozen=True)
class Probe:
    """One gradient of the objective on a batch, and the residuals of the solves it took; nothing was trained with it.

    >>> Probe((torch.zeros(2),), forward=[1.0, 0.1], adjoint=[1.0, 0.3]).forward
    [1.0, 0.1]

    Attributes:
        gradient: one tensor for each parameter: of several ranks, those of this one.
        forward, adjoint: residual norms before each cycle, of the worst solve.
    """

    gradient: tuple[Tensor, ...]
    forward: list[float]
    adjoint: list[float]


def gradient_probe(network: nn.Module, solver: MGRIT | Serial, compute: Callable[[], object]) -> Probe:
    """What `compute()`, such as `lambda: loss(network(x), y).backward()`, gives with `solver`.

    The weights, the buffers such as running statistics, the network's own solvers and the random state stay as they
    are; gradients are cleared, those from before as well. A divergence, expected here, is no news.

    >>> net = LayerParallel(None, lambda: nn.Linear(4, 4), 16, 1.0, solver=MGRIT(coarsening=4))
    >>> x = torch.randn(8, 4)
    >>> inexact = gradient_probe(net, MGRIT(), lambda: net(x).sum().backward())
    >>> exact = gradient_probe(net, Serial(), lambda: net(x).sum().backward())
    >>> error = max((g - h).norm() / h.norm() for g, h in zip(inexact.gradient, exact.gradient, strict=True))
    >>> bool(0 < error < 0.1)
    True

    Raises:
        RuntimeError: when `compute()` leaves no gradient in the network.
    """
    parts = solver_modules(network)
    devices = {theta.device for theta in network.parameters() if theta.device.type == "cuda"}
    network.zero_grad(set_to_none=True)
    with (
        torch.random.fork_rng(devices),
        warnings.catch_warnings(),
        using_solver(parts, solver),
        keeping_buffers(network),
    ):
        warnings.simplefilter("ignore", DivergenceWarning)
        compute()
        if all(theta.grad is None for theta in network.parameters()):
            raise RuntimeError("compute() left no gradient in the network; it has to call backward()")
        forward, adjoint = latest_solves(parts)
    gradient = tuple(torch.zeros_like(x) if x.grad is None else x.grad for x in network.parameters())
    network.zero_grad(set_to_none=True)
    return Probe(gradient, forward.residual_norms, adjoint.residual_norms)


def residual_histories(problem: Problem, inputs: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """Residual norms of a forward and an adjoint solve of this batch, with one cycle more than in training.

    One more, since a norm is taken before each cycle: a history of c norms shows the reduction by c − 1 cycles. Both
    are empty for a serial solver. Parameter gradients are cleared.
    """
    parts = problem.propagated
    solver = parts[0].solver
    if not isinstance(solver, MGRIT):
        return [], []
    longer = replace(solver, iterations=solver.iterations + 1, adjoint_iterations=solver.adjoint_iterations + 1)
    with using_solver(parts, longer):
        problem.loss(problem.network(inputs), labels).backward()
    problem.network.zero_grad(set_to_none=True)
    forward, adjoint = latest_solves(parts)
    return forward.residual_norms, adjoint.residual_norms


def reduction_per_cycle(norms: Sequence[float]) -> float | None:
    """Geometric mean of ‖r_{i+1}‖ / ‖r_i‖; None where the history is too short, begins with zero or is not finite."""
    if len(norms) < 2 or norms[0] == 0 or not all(map(math.isfinite, norms)):
        return None
    return (norms[-1] / norms[0]) ** (1 / (len(norms) - 1))
