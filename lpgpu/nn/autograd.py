"""The solve as one differentiable operation: MGRIT forward, MGRIT on the adjoint backward.

Ranks solve together, so backward must run on all of them, whatever a rank's own parameters and loss want: with several
ranks every operation takes a `sentinel`, a tensor that always requires a gradient and never gets one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lpgpu.comm import Communicator
from lpgpu.mgrit import SolveResult
from lpgpu.mgrit.exchange import global_sum, of_first_point, state_of_rank
from lpgpu.nn.cells import Cell
from lpgpu.nn.derivatives import Gradients, pulled_back, refuse_all_but_first_derivatives
from lpgpu.nn.propagation import ForwardSolution, Propagation
from lpgpu.nn.propagators import Layers


class PropagateEnd(torch.autograd.Function):
    """u_N from u_0 and the stacked parameters: `PropagateEnd.apply(propagation, layers_for, sentinel, x, *parameters)`.

    `layers_for(parameters)` makes the layers of these parameters; the last `Layers.num_shared` of them are tensors that
    all layers share.
    """

    @staticmethod
    def forward(
        ctx,
        propagation: Propagation,
        layers_for: Callable[..., Layers],
        sentinel: Tensor | None,
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        def run(x: Tensor) -> tuple[ForwardSolution, tuple[Tensor], SolveResult]:
            layers = layers_for(parameters)
            propagated = propagation.forward(layers, x)
            if layers.keeps_statistics:
                propagated.visit(layers.update_statistics)
                propagation.tell_of_statistics(propagated.result)
            return propagated, (propagated.end(),), propagated.result

        solve, (end,) = propagation.solved(run, (x,), parameters, lambda: layers_for(parameters))
        ctx.save_for_backward(*parameters)  # to raise when one was changed in place
        ctx.propagation = propagation
        ctx.kept = propagation.keep(solve, (x, *parameters), parameters)
        return end

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        wanted = ctx.needs_input_grad[4:]

        def run(propagated: ForwardSolution, dloss_du: Tensor) -> tuple[None, Gradients, SolveResult]:
            dx, dtheta, result = propagated.adjoint(dloss_du, None, parameters=any(wanted))
            return None, (dx, *(dtheta if any(wanted) else (None,) * len(wanted))), result

        def first(dloss_du: Tensor) -> Gradients:
            found, result = ctx.kept.solve.adjoint(run, (dloss_du,), any(wanted))
            ctx.propagation.adjoint_done(result)
            return found

        return None, None, None, *pulled_back(ctx, gradients, first, skip=3)


class PropagateSequence(torch.autograd.Function):
    """All states of a recurrent network: `PropagateSequence.apply(propagation, cell, sentinel, x, h_0, *weights)`.

    `x` [T, B, ...] is what the cell makes of the inputs beforehand; `h_0` [B, ...]. Returns h_1 … h_T [T, B, ...]. Of a
    sequence that ranks share, T are this rank's steps, and so are the gradients of `x` and `weights`; `h_0` and its
    gradient are the same on all.
    """

    @staticmethod
    def forward(
        ctx, propagation: Propagation, cell: Cell, sentinel: Tensor | None, x: Tensor, h_0: Tensor, *weights: Tensor
    ) -> Tensor:
        def run(x: Tensor, h_0: Tensor) -> tuple[tuple[ForwardSolution, Tensor, Cell], tuple[Tensor], SolveResult]:
            propagated = propagation.forward(cell.layers(x, *weights), h_0)
            h = propagated.all_points()
            return (propagated, h, cell), (h[1:],), propagated.result

        solve, (h,) = propagation.solved(run, (x, h_0), weights, lambda: cell.layers(x, *weights))
        ctx.save_for_backward(x, *weights)  # to raise when one was changed in place
        ctx.propagation = propagation
        ctx.kept = propagation.keep(solve, (x, h_0, *weights), (x, *weights))
        return h if solve.is_replayed else h.clone()

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        def run(state: tuple[ForwardSolution, Tensor, Cell], dloss_dh: Tensor) -> tuple[None, Gradients, SolveResult]:
            propagated, h, cell = state
            grid, communicator = propagated.u.grid, propagated.propagation.communicator
            g = torch.cat([of_first_point(communicator, grid, dloss_dh[-1])[None], dloss_dh])
            dh_0, of_steps, result = propagated.adjoint(dloss_dh[-1], g, parameters=True)
            dx, *dweights = cell.gradients(h, of_steps)
            return None, (dx, dh_0, *dweights), result

        def first(dloss_dh: Tensor) -> Gradients:
            found, result = ctx.kept.solve.adjoint(run, (dloss_dh,), "sequence")
            ctx.propagation.adjoint_done(result)
            return found

        return None, None, None, *pulled_back(ctx, gradients, first, skip=3)


class Replicated(torch.autograd.Function):
    """Tensors that all ranks hold: `Replicated.apply(communicator, sentinel, *weights)`, unchanged.

    Their gradients are summed over the ranks, in one message.
    """

    @staticmethod
    def forward(ctx, communicator: Communicator, sentinel: Tensor | None, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.communicator = communicator
        return tuple(weight.view_as(weight) for weight in weights)

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_all_but_first_derivatives(gradients)
        total = global_sum(ctx.communicator, torch.cat([each.flatten() for each in gradients]))
        sizes = [each.numel() for each in gradients]
        parts = zip(total.split(sizes), gradients, strict=True)
        return None, None, *(part.view_as(gradient).to(gradient.dtype) for part, gradient in parts)


class ToRank(torch.autograd.Function):
    """A state that all ranks hold, for one rank to compute with: `ToRank.apply(communicator, rank, sentinel, u)`.

    Its gradient is that of this rank, on all.
    """

    @staticmethod
    def forward(ctx, communicator: Communicator, rank: int, sentinel: Tensor, u: Tensor) -> Tensor:
        ctx.communicator, ctx.rank = communicator, rank
        return u.view_as(u)

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_all_but_first_derivatives(gradients)
        return None, None, None, state_of_rank(ctx.communicator, gradients[0], ctx.rank)


class OfRank(torch.autograd.Function):
    """What one rank has computed, on all: `OfRank.apply(communicator, rank, sentinel, u)`; others pass a state like it.

    The loss sees the same state on every rank, and its gradient goes to this rank's once.
    """

    @staticmethod
    def forward(ctx, communicator: Communicator, rank: int, sentinel: Tensor, u: Tensor) -> Tensor:
        return state_of_rank(communicator, u, rank)

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_all_but_first_derivatives(gradients)
        return None, None, None, *gradients


class Results(torch.autograd.Function):
    """What a recurrent network returns: `Results.apply(communicator, sentinel, output, h_n)`.

    `output` is this rank's own; `h_n` comes in as this rank's part of it, zero elsewhere, and is summed over ranks. The
    loss sees the same h_n on every rank, and its gradient goes to each part once. As one operation, so that backward
    runs through all of the network whichever of the two a rank's loss uses.
    """

    @staticmethod
    def forward(
        ctx, communicator: Communicator, sentinel: Tensor | None, output: Tensor, h_n: Tensor
    ) -> tuple[Tensor, Tensor]:
        return output.view_as(output), global_sum(communicator, h_n)

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_all_but_first_derivatives(gradients)
        return None, None, *gradients
