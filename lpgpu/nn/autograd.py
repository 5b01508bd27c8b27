"""The solve as one differentiable operation: MGRIT forward, MGRIT on the adjoint backward."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lpgpu.comm import Communicator
from lpgpu.mgrit import MGRIT, AllPoints, CPointsOnly, Solver, SolveResult, States, solve
from lpgpu.mgrit.hierarchy import Grid
from lpgpu.nn.propagators import AdjointPropagator, ForwardPropagator, Layers


@dataclass(frozen=True)
class Propagation:
    """How one call is propagated, and who hears of its results: all but the tensors.

    `forward_done` and `adjoint_done` receive the results of the solves. `differentiable`: an adjoint may follow.
    """

    dt: float
    num_steps: int
    solver: Solver
    communicator: Communicator
    forward_done: Callable[[SolveResult], None]
    adjoint_done: Callable[[SolveResult], None]
    differentiable: bool

    def forward(self, layers: Layers, start: Tensor) -> "Propagated":
        """Solve u_{k+1} = Φ_k(u_k) from u_0 = `start`."""
        hierarchy = self.solver.hierarchy(self.num_steps)
        u = self._states(hierarchy.grids[0], layers, start)
        u.start.copy_(start)
        keep = self.differentiable and isinstance(u, AllPoints)
        propagator = ForwardPropagator(layers, self.dt, len(hierarchy.grids), keep=keep)
        self.forward_done(solve(propagator, hierarchy, u, self.solver, communicator=self.communicator))
        return Propagated(self, propagator, u)

    def _states(self, grid: Grid, layers: Layers, like: Tensor) -> States:
        """States for the finest level, stored as the solver says."""
        store, chunk = (self.solver.store, self.solver.chunk) if isinstance(self.solver, MGRIT) else ("all", None)
        if store == "c_points":
            return CPointsOnly(grid, lambda points: layers.empty_states(points, like), chunk)
        return AllPoints(grid, layers.empty_states(grid.num_steps + 1, like), chunk)


@dataclass(frozen=True)
class Propagated:
    """A forward solve that has been done: its states, for the adjoint to be linearised at."""

    propagation: Propagation
    propagator: ForwardPropagator
    u: States

    def end(self) -> Tensor:
        """A copy of u_N."""
        return self.u.end.clone(memory_format=torch.contiguous_format)

    def all_points(self) -> Tensor:
        """u_0 … u_N, [N + 1, ...], not to be written to; those that were not stored are swept again."""
        if isinstance(self.u, AllPoints):
            return self.u.u
        grid = self.u.grid
        out = self.u.start.new_empty(grid.num_steps + 1, *self.u.start.shape)
        for window in self.u.windows():
            with self.u.read(window) as u:
                self.propagator.sweep(window, grid.f_positions, u)
                out[window.points] = u
        self.release_scratch()
        return out

    def adjoint(self, lam_N: Tensor, g: Tensor | None, *, parameters: bool) -> tuple[Tensor, list[Tensor | None]]:
        """Solve λ_k = (∂Φ_k/∂u)ᵀ λ_{k+1} + g_k from `lam_N`; λ_0 and the layers' parameter gradients, if wanted."""
        propagation = self.propagation
        hierarchy = propagation.solver.hierarchy(propagation.num_steps)
        adjoint = AdjointPropagator(self.propagator, hierarchy.grids[0], self.u)
        transposed = hierarchy.transpose()
        lam = propagation._states(transposed.grids[0], self.propagator.layers, lam_N)
        lam.start.copy_(lam_N)
        result = solve(adjoint, transposed, lam, propagation.solver, g=g, communicator=propagation.communicator)
        propagation.adjoint_done(result)
        gradients = adjoint.parameter_gradients(lam, g) if parameters else []
        self.release_scratch()
        return lam.end.clone(memory_format=torch.contiguous_format), gradients

    def token(self) -> Tensor:
        """A tensor to save for backward in this object's place: autograd lets go of it as of all that it saves."""
        token = torch.empty(0)
        token.propagated = self  # pyright: ignore[reportAttributeAccessIssue]
        return token

    def release_scratch(self) -> None:
        """Keep between the calls only what is stored."""
        if isinstance(self.u, CPointsOnly):
            self.u.release_scratch()


class PropagateEnd(torch.autograd.Function):
    """u_N from u_0 and the stacked parameters: `PropagateEnd.apply(propagation, layers_for, x, *parameters)`.

    `layers_for(parameters)` makes the layers of these parameters.
    """

    @staticmethod
    def forward(
        ctx, propagation: Propagation, layers_for: Callable[..., Layers], x: Tensor, *parameters: Tensor
    ) -> Tensor:
        propagated = propagation.forward(layers_for(parameters), x)
        propagated.release_scratch()
        ctx.save_for_backward(propagated.token(), *parameters)  # parameters: to raise when one was changed in place
        return propagated.end()

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        propagated = ctx.saved_tensors[0].propagated
        wanted = ctx.needs_input_grad[3:]
        dx, dtheta = propagated.adjoint(gradients[0], None, parameters=any(wanted))
        return None, None, dx, *(dtheta if any(wanted) else (None,) * len(wanted))


class PropagateSequence(torch.autograd.Function):
    """All states of a recurrent network: `PropagateSequence.apply(propagation, layers_for, x, h_0, w, b)`.

    `x` [T, B, G] are the inputs' products with their weights, computed beforehand; `h_0` [B, H]; `w` [G, H]; `b` [G] or
    None. Returns h_1 … h_T, [T, B, H]. The gradients of `w` and `b` are one product and one sum over all steps.
    """

    @staticmethod
    def forward(
        ctx,
        propagation: Propagation,
        layers_for: Callable[..., Layers],
        x: Tensor,
        h_0: Tensor,
        w: Tensor,
        b: Tensor | None,
    ) -> Tensor:
        propagated = propagation.forward(layers_for(x, w, b), h_0)
        h = propagated.all_points()
        ctx.save_for_backward(propagated.token(), h, x, w, b)  # the last three: to raise when one was changed in place
        return h[1:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        token, h, _, _, b = ctx.saved_tensors
        (dloss_dh,) = gradients
        g = torch.cat([torch.zeros_like(dloss_dh[:1]), dloss_dh])
        dh_0, (dx, dq) = token.propagated.adjoint(dloss_dh[-1], g, parameters=True)
        dy = dx.flatten(0, 1).clone()  # W h + b enters the gates r and z as x does, but n through q
        dy[:, 2 * dq.shape[-1] :] = dq.flatten(0, 1)
        dw = dy.T @ h[:-1].flatten(0, 1)
        return None, None, dx, dh_0, dw, None if b is None else dy.sum(0)
