"""One call of a network propagated: the forward solve, the adjoint that may follow, and graphs to replay them from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu.comm import Communicator
from lpgpu.mgrit import MGRIT, AllPoints, CPointsOnly, Partition, Solver, SolveResult, States, solve
from lpgpu.mgrit.exchange import state_of_rank
from lpgpu.mgrit.grid import Grid
from lpgpu.mgrit.slices import length
from lpgpu.nn.as_called import AsCalled
from lpgpu.nn.derivatives import Kept
from lpgpu.nn.graphs import Graphs, Run, Solve
from lpgpu.nn.propagators import AdjointPropagator, ForwardPropagator, Layers
from lpgpu.nn.statistics import warn_of_inexact_statistics
from lpgpu.nn.watching import ForwardSolve, is_watched, tell_watcher


@dataclass(frozen=True)
class Propagation:
    """How one call is propagated, and who hears of its results: all but the tensors.

    `num_steps` are those of all ranks, `partition` says whose they are (None: all are this process's own).
    `forward_done` and `adjoint_done` receive the results of the solves. `differentiable`: an adjoint may follow.
    `plain` computes what an exact solve does, of the operation's tensors, in plain PyTorch. `graphs`: those that the
    network's solves may be replayed from. `module` has what is evaluated. `walked`: how many layers
    are walked one by one before and after, for the results to count them, `walked_here` by this rank. `is_told`: who
    watches hears of it.
    """

    num_steps: int
    partition: Partition | None
    solver: Solver
    communicator: Communicator
    forward_done: Callable[[SolveResult], None]
    adjoint_done: Callable[[SolveResult], None]
    differentiable: bool
    plain: Callable[..., Tensor]
    graphs: Graphs
    module: nn.Module
    walked: int = 0
    walked_here: int = 0
    is_told: bool = True

    @property
    def is_exact(self) -> bool:
        """Whether this is serial propagation on one process, so that `plain` computes the same."""
        return self.communicator.size == 1 and len(self.solver.hierarchy(self.num_steps, self.partition).grids) == 1

    def tell_of_statistics(self, result: SolveResult) -> None:
        """Warn where running statistics come from a solve that may be inexact; not of trials, which are watched."""
        is_exact = self.solver.is_exact_for(self.num_steps) or bool(result.converged)
        if not (is_exact or is_watched()) and self.communicator.rank == 0:
            warn_of_inexact_statistics(self.module)

    def keep(self, solve: Any, inputs: Sequence[Tensor | None], watched: Sequence[Tensor | None]) -> Kept:
        """What backward needs; see `lpgpu.nn.derivatives`."""
        return Kept(solve, self.plain if self.is_exact else None, inputs, watched, AsCalled(self.module))

    def forward(self, layers: Layers, start: Tensor) -> "ForwardSolution":
        """Solve u_{k+1} = Φ_k(u_k) from u_0 = `start`, which is the same on every rank."""
        layers.hold()
        hierarchy = self.solver.hierarchy(self.num_steps, self.partition)
        u = self._states(hierarchy.grids[0], layers, start)
        if u.grid.begins:
            u.start.copy_(start)
        keep = self.differentiable and isinstance(u, AllPoints)
        layers.width = u.width
        propagator = ForwardPropagator(layers, len(hierarchy.grids), keep=keep)
        result = self._counted(solve(propagator, hierarchy, u, self.solver, communicator=self.communicator))
        u.release_sources()
        propagated = ForwardSolution(self, propagator, u, result)
        if not self.is_told:
            return propagated
        told = ForwardSolve(self.num_steps, self.walked, self.communicator, propagator, result, propagated.all_points)
        return replace(propagated, adjoint_done=tell_watcher(told))

    def _counted(self, result: SolveResult) -> SolveResult:
        return result.with_walked(self.walked, self.walked_here) if self.walked else result

    def solved(
        self, run: Run, moving: Sequence[Tensor], fixed: Sequence[Tensor], layers: Callable[[], Layers]
    ) -> tuple[Solve, tuple[Any, ...]]:
        """`run(*moving)`, by a CUDA graph where there may be one; arguments as of `Graphs.forward`.

        Raises:
            RuntimeError: where there may be none, and the solver wants one always.
        """
        signature, refusal = None, self._graph_refusal() or self.graphs.recorder.refusal(moving[0].device)
        if refusal is None and (signature := layers().signature) is None:
            refusal = (
                "only DenseBlock, ConvBlock and GRU without resets, as they were written, are known to do the same at "
                "every call"
            )
        if refusal is None:
            what = self.solver, self.num_steps, self.differentiable, signature
            strict = self.solver.cuda_graph is True
            done, outputs, result = self.graphs.forward(run, moving, fixed, what, strict=strict)
        elif self.solver.cuda_graph is True:
            raise RuntimeError(f'cuda_graph is True, but {refusal}; use cuda_graph="auto"')
        else:
            state, outputs, result = run(*moving)
            done = Solve(state)
        self.forward_done(result)
        return done, outputs

    def _graph_refusal(self) -> str | None:
        """Why no CUDA graph comes into question, or None."""
        if self.solver.cuda_graph is False:
            return "cuda_graph is False"
        if is_watched():
            return "someone looks at its solves (`watching`)"
        if self.communicator.size > 1:
            return "several ranks share the solve, and their messages cannot be replayed"
        if isinstance(self.solver, MGRIT) and not (self.solver.tolerance is None is self.solver.adjoint_tolerance):
            return "a tolerance waits for the device"
        return None

    def _states(self, grid: Grid, layers: Layers, like: Tensor) -> States:
        """States for the finest level, stored as the solver says."""
        store, chunk = (self.solver.store, self.solver.chunk) if isinstance(self.solver, MGRIT) else ("all", None)
        if store == "c_points":
            return CPointsOnly(grid, lambda points: layers.empty_states(points, like), chunk)
        return AllPoints(grid, layers.empty_states(grid.local_points, like), chunk)

    def sentinel(self) -> Tensor | None:
        """See `sentinel_for`."""
        return sentinel_for(self.communicator)


@dataclass(frozen=True)
class ForwardSolution:
    """A forward solve that has been done: its states, for the adjoint to be linearised at."""

    propagation: Propagation
    propagator: ForwardPropagator
    u: States
    result: SolveResult
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
                del u  # before the next window is swept
        return out

    def visit(self, see: Callable[[slice, Tensor], None]) -> None:
        """`see(layers, u)` for this rank's layers of the network, some at a time, and their states u_k [K, ...]."""
        grid = self.u.grid
        for window in self.u.windows():
            with self.u.read(window) as u:
                if not isinstance(self.u, AllPoints):
                    self.propagator.sweep(window, grid.f_positions, u)
                for layers in map(window.layers, grid.all_positions):
                    if length(layers):
                        see(grid.of_network(layers), u[window.local(layers)])
                del u  # before the next window is swept

    def adjoint(
        self, lam_N: Tensor, g: Tensor | None, *, parameters: bool
    ) -> tuple[Tensor, list[Tensor | None], SolveResult]:
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
        result = propagation._counted(
            solve(adjoint, transposed, lam, propagation.solver, g=g, communicator=propagation.communicator)
        )
        if self.adjoint_done is not None:
            self.adjoint_done(result)
        gradients = adjoint.parameter_gradients(lam, g) if parameters else []
        return state_of_rank(propagation.communicator, lam.end, 0), gradients, result


def sentinel_for(communicator: Communicator) -> Tensor | None:
    """What makes every rank's backward run, whatever its own tensors want; None on one process."""
    return torch.zeros((), requires_grad=True) if communicator.size > 1 else None
