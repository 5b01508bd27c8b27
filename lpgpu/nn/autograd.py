"""The solve as one differentiable operation: MGRIT forward, MGRIT on the adjoint backward.

Ranks solve together, so backward must run on all of them, whatever a rank's own parameters and loss want: with several
ranks every operation takes an `anchor`, a tensor that always requires a gradient and never gets one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lpgpu.comm import Communicator
from lpgpu.mgrit import MGRIT, AllPoints, CPointsOnly, Partition, Solver, SolveResult, States, solve
from lpgpu.mgrit.exchange import global_sum, of_first_point, state_of_rank
from lpgpu.mgrit.hierarchy import Grid
from lpgpu.nn.cells import Cell
from lpgpu.nn.derivatives import Gradients, Kept, pulled_back, refuse_all_but_first_derivatives
from lpgpu.nn.propagators import AdjointPropagator, ForwardPropagator, Layers
from lpgpu.nn.watching import ForwardSolve, tell_watcher


@dataclass(frozen=True)
class Propagation:
    """How one call is propagated, and who hears of its results: all but the tensors.

    `num_steps` are those of all ranks, `partition` says whose they are (None: all are this process's own).
    `forward_done` and `adjoint_done` receive the results of the solves. `differentiable`: an adjoint may follow.
    `plain` computes what an exact solve does, of the operation's tensors, in plain PyTorch.
    """

    num_steps: int
    partition: Partition | None
    solver: Solver
    communicator: Communicator
    forward_done: Callable[[SolveResult], None]
    adjoint_done: Callable[[SolveResult], None]
    differentiable: bool
    plain: Callable[..., Tensor]

    @property
    def is_exact(self) -> bool:
        """Whether this is serial propagation on one process, so that `plain` computes the same."""
        return self.communicator.size == 1 and len(self.solver.hierarchy(self.num_steps, self.partition).grids) == 1

    def keep(self, solve: Any, inputs: Sequence[Tensor | None], watched: Sequence[Tensor | None]) -> Kept:
        """What backward needs; see `lpgpu.nn.derivatives`."""
        return Kept(solve, self.plain if self.is_exact else None, inputs, watched)

    def forward(self, layers: Layers, start: Tensor) -> "Propagated":
        """Solve u_{k+1} = Φ_k(u_k) from u_0 = `start`, which is the same on every rank."""
        hierarchy = self.solver.hierarchy(self.num_steps, self.partition)
        u = self._states(hierarchy.grids[0], layers, start)
        if u.grid.begins:
            u.start.copy_(start)
        keep = self.differentiable and isinstance(u, AllPoints)
        propagator = ForwardPropagator(layers, len(hierarchy.grids), keep=keep)
        result = solve(propagator, hierarchy, u, self.solver, communicator=self.communicator)
        self.forward_done(result)
        propagated = Propagated(self, propagator, u)
        told = ForwardSolve(self.num_steps, self.communicator, propagator, result, propagated.all_points)
        return replace(propagated, adjoint_done=tell_watcher(told))

    def _states(self, grid: Grid, layers: Layers, like: Tensor) -> States:
        """States for the finest level, stored as the solver says."""
        store, chunk = (self.solver.store, self.solver.chunk) if isinstance(self.solver, MGRIT) else ("all", None)
        if store == "c_points":
            return CPointsOnly(grid, lambda points: layers.empty_states(points, like), chunk)
        return AllPoints(grid, layers.empty_states(grid.local_points, like), chunk)

    def anchor(self) -> Tensor | None:
        """See the top of this file."""
        return anchor_for(self.communicator)


@dataclass(frozen=True)
class Propagated:
    """A forward solve that has been done: its states, for the adjoint to be linearised at."""

    propagation: Propagation
    propagator: ForwardPropagator
    u: States
    adjoint_done: Callable[[SolveResult], None] | None = None

    def end(self) -> Tensor:
        """A copy of u_N, on every rank."""
        return state_of_rank(self.propagation.communicator, self.u.end, self.propagation.communicator.size - 1)

    def all_points(self) -> Tensor:
        """u at this rank's points, [n + 1, ...], not to be written to; those that were not stored are swept again."""
        if isinstance(self.u, AllPoints):
            return self.u.u
        grid = self.u.grid
        out = self.u.start.new_empty(grid.local_points, *self.u.start.shape)
        for window in self.u.windows():
            with self.u.read(window) as u:
                self.propagator.sweep(window, grid.f_positions, u)
                out[window.points] = u
        self.release_scratch()
        return out

    def adjoint(self, lam_N: Tensor, g: Tensor | None, *, parameters: bool) -> tuple[Tensor, list[Tensor | None]]:
        """Solve λ_k = (∂Φ_k/∂u)ᵀ λ_{k+1} + g_k from `lam_N`; λ_0 and this rank's parameter gradients, if wanted.

        `lam_N` is looked at on the last rank only, λ_0 is the same on all; `g` is [n + 1, ...], where each rank's last
        point is not looked at.
        """
        propagation = self.propagation
        hierarchy = propagation.solver.hierarchy(propagation.num_steps, propagation.partition)
        adjoint = AdjointPropagator(self.propagator, hierarchy.grids[0], self.u)
        transposed = hierarchy.transpose()
        lam = propagation._states(transposed.grids[0], self.propagator.layers, lam_N)
        if lam.grid.begins:
            lam.start.copy_(lam_N)
        result = solve(adjoint, transposed, lam, propagation.solver, g=g, communicator=propagation.communicator)
        propagation.adjoint_done(result)
        if self.adjoint_done is not None:
            self.adjoint_done(result)
        gradients = adjoint.parameter_gradients(lam, g) if parameters else []
        self.release_scratch()
        return state_of_rank(propagation.communicator, lam.end, 0), gradients

    def release_scratch(self) -> None:
        """Keep between the calls only what is stored."""
        if isinstance(self.u, CPointsOnly):
            self.u.release_scratch()


class PropagateEnd(torch.autograd.Function):
    """u_N from u_0 and the stacked parameters: `PropagateEnd.apply(propagation, layers_for, anchor, x, *parameters)`.

    `layers_for(parameters)` makes the layers of these parameters; the last `Layers.num_shared` of them are tensors that
    all layers share.
    """

    @staticmethod
    def forward(
        ctx,
        propagation: Propagation,
        layers_for: Callable[..., Layers],
        anchor: Tensor | None,
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        propagated = propagation.forward(layers_for(parameters), x)
        propagated.release_scratch()
        ctx.save_for_backward(*parameters)  # to raise when one was changed in place
        ctx.kept = propagation.keep(propagated, (x, *parameters), parameters)
        return propagated.end()

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        wanted = ctx.needs_input_grad[4:]

        def first(dloss_du: Tensor) -> Gradients:
            dx, dtheta = ctx.kept.solve.adjoint(dloss_du, None, parameters=any(wanted))
            return dx, *(dtheta if any(wanted) else (None,) * len(wanted))

        return None, None, None, *pulled_back(ctx, gradients, first, skip=3)


class PropagateSequence(torch.autograd.Function):
    """All states of a recurrent network: `PropagateSequence.apply(propagation, cell, anchor, x, h_0, *weights)`.

    `x` [T, B, ...] is what the cell makes of the inputs beforehand; `h_0` [B, ...]. Returns h_1 … h_T [T, B, ...]. Of a
    sequence that ranks share, T are this rank's steps, and so are the gradients of `x` and `weights`; `h_0` and its
    gradient are the same on all.
    """

    @staticmethod
    def forward(
        ctx, propagation: Propagation, cell: Cell, anchor: Tensor | None, x: Tensor, h_0: Tensor, *weights: Tensor
    ) -> Tensor:
        propagated = propagation.forward(cell.layers(x, *weights), h_0)
        h = propagated.all_points()
        ctx.save_for_backward(x, *weights)  # to raise when one was changed in place
        ctx.kept = propagation.keep((propagated, h, cell), (x, h_0, *weights), (x, *weights))
        return h[1:].clone()

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        def first(dloss_dh: Tensor) -> Gradients:
            propagated, h, cell = ctx.kept.solve
            grid, communicator = propagated.u.grid, propagated.propagation.communicator
            g = torch.cat([of_first_point(communicator, grid, dloss_dh[-1])[None], dloss_dh])
            dh_0, of_steps = propagated.adjoint(dloss_dh[-1], g, parameters=True)
            dx, *dweights = cell.gradients(h, of_steps)
            return dx, dh_0, *dweights

        return None, None, None, *pulled_back(ctx, gradients, first, skip=3)


class Replicated(torch.autograd.Function):
    """Tensors that all ranks hold: `Replicated.apply(communicator, anchor, *weights)`, unchanged.

    Their gradients are summed over the ranks, in one message.
    """

    @staticmethod
    def forward(ctx, communicator: Communicator, anchor: Tensor | None, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.communicator = communicator
        return tuple(weight.view_as(weight) for weight in weights)

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_all_but_first_derivatives(gradients)
        total = global_sum(ctx.communicator, torch.cat([each.flatten() for each in gradients]))
        sizes = [each.numel() for each in gradients]
        parts = zip(total.split(sizes), gradients, strict=True)
        return None, None, *(part.view_as(gradient).to(gradient.dtype) for part, gradient in parts)


class Results(torch.autograd.Function):
    """What a recurrent network returns: `Results.apply(communicator, anchor, output, h_n)`.

    `output` is this rank's own; `h_n` comes in as this rank's part of it, zero elsewhere, and is summed over ranks. The
    loss sees the same h_n on every rank, and its gradient goes to each part once. As one operation, so that backward
    runs through all of the network whichever of the two a rank's loss uses.
    """

    @staticmethod
    def forward(
        ctx, communicator: Communicator, anchor: Tensor | None, output: Tensor, h_n: Tensor
    ) -> tuple[Tensor, Tensor]:
        return output.view_as(output), global_sum(communicator, h_n)

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_all_but_first_derivatives(gradients)
        return None, None, *gradients


def anchor_for(communicator: Communicator) -> Tensor | None:
    """What makes every rank's backward run; None on one process."""
    return torch.zeros((), requires_grad=True) if communicator.size > 1 else None
