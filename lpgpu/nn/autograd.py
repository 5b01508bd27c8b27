"""The solve as one differentiable operation: MGRIT forward, MGRIT on the adjoint backward."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lpgpu.comm import Communicator
from lpgpu.mgrit import MGRIT, AllPoints, CPointsOnly, Hierarchy, Solver, SolveResult, States, solve
from lpgpu.mgrit.hierarchy import Grid
from lpgpu.nn.propagators import AdjointPropagator, ForwardPropagator, Layers


@dataclass(frozen=True)
class Propagation:
    """One forward call and its backward: everything about it but the tensors that autograd tracks.

    `layers_for(parameters)` gives the layers; `forward_done` and `adjoint_done` receive the solves' results.
    """

    layers_for: Callable[[tuple[Tensor, ...], Tensor], Layers]
    dt: float
    num_steps: int
    solver: Solver
    communicator: Communicator
    forward_done: Callable[[SolveResult], None]
    adjoint_done: Callable[[SolveResult], None]

    def run(self, x: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """u_N from u_0 = x, differentiable in x and the parameters."""
        return _Propagate.apply(self, x, *parameters)

    def hierarchy(self) -> Hierarchy:
        """The forward grids."""
        return self.solver.hierarchy(self.num_steps)

    def states(self, grid: Grid, layers: Layers, like: Tensor) -> States:
        """States for the finest level, stored as the solver says."""
        store, chunk = ("all", None) if not isinstance(self.solver, MGRIT) else (self.solver.store, self.solver.chunk)
        if store == "c_points":
            return CPointsOnly(grid, lambda points: layers.empty_states(points, like), chunk)
        return AllPoints(grid, layers.empty_states(grid.num_steps + 1, like), chunk)


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: Propagation, x: Tensor, *parameters: Tensor) -> Tensor:
        hierarchy = call.hierarchy()
        layers = call.layers_for(parameters, x)
        u = call.states(hierarchy.grids[0], layers, x)
        u.start.copy_(x)
        keep = any(ctx.needs_input_grad) and isinstance(u, AllPoints)
        propagator = ForwardPropagator(layers, call.dt, len(hierarchy.grids), keep=keep)
        call.forward_done(solve(propagator, hierarchy, u, call.solver, communicator=call.communicator))
        if isinstance(u, CPointsOnly):
            u.release_scratch()
        ctx.call, ctx.propagator, ctx.u = call, propagator, u
        ctx.save_for_backward(*parameters)  # tells when a parameter was changed in place before backward
        return u.end.clone(memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (dloss_dy,) = gradients
        call, u, parameters = ctx.call, ctx.u, ctx.saved_tensors
        hierarchy = call.hierarchy()
        layers = ctx.propagator.layers
        adjoint = AdjointPropagator(ctx.propagator, hierarchy.grids[0], u)
        transposed = hierarchy.transpose()
        lam = call.states(transposed.grids[0], layers, dloss_dy)
        lam.start.copy_(dloss_dy)
        call.adjoint_done(solve(adjoint, transposed, lam, call.solver, communicator=call.communicator))
        wanted = any(ctx.needs_input_grad[2:])
        dtheta = adjoint.parameter_gradients(lam) if wanted else [None] * len(parameters)
        if isinstance(u, CPointsOnly):
            u.release_scratch()
        dx = lam.end.clone(memory_format=torch.contiguous_format) if ctx.needs_input_grad[1] else None
        return None, dx, *(d if needed else None for d, needed in zip(dtheta, ctx.needs_input_grad[2:], strict=True))
