"""The forward and the adjoint propagator of a stack of layers: two propagators for one solver."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lpgpu.kernels.picard import Runs
from lpgpu.kernels.sweep import Sweep, Terms, march
from lpgpu.mgrit import AllPoints, Grid, Propagator, States, Window
from lpgpu.mgrit.halo import HaloOf
from lpgpu.mgrit.slices import length
from lpgpu.nn.propagators.fine_states import FineStates
from lpgpu.nn.propagators.layers import Layers, Linearisation


class ForwardPropagator(Propagator):
    """u_{k+1} = Φ_k(u_k). On level ℓ the layers are coarsened by σ_ℓ: a step of σ_ℓ Δt, with the parameters of the
    first layer that it spans.

    With `keep`, what the latest sweep of the finest level leaves behind is kept for the adjoint: a solve ends with a
    sweep, so that is what the final states would give, of all layers but those that lead to C-points.
    """

    def __init__(self, layers: Layers, num_levels: int, *, keep: bool = False) -> None:
        super().__init__(num_levels)
        self.layers = layers
        self.keep = keep
        self.has_diagonal = layers.has_diagonal
        self.has_decay = layers.has_decay
        self.is_free_at_zero = layers.is_free_at_zero
        self.preferred = layers.preferred
        self.prefers_delta = layers.prefers_delta
        self._of_stride = {1: layers}
        self._kept: dict[tuple[int, int], Any] = {}

    def kept(self, grid: Grid, layers: slice) -> Any:
        """What the latest sweep left behind at `layers` of the finest level; None where it was not kept."""
        kept = self._kept.get((layers.start, layers.step)) if grid.level == 0 else None
        return kept[: length(layers)] if kept is not None and len(kept) >= length(layers) else None

    def of_level(self, grid: Grid) -> Layers:
        """The layers that a level steps with."""
        if grid.stride not in self._of_stride:
            self._of_stride[grid.stride] = self.layers.coarsened(grid.stride)
        return self._of_stride[grid.stride]

    def prefers_wide_steps(self, like: Tensor) -> bool:
        return self.layers.fuses_sweeps(like)

    def at_zero(self, window: Window, out: Tensor, diagonal: Tensor) -> None:
        self.layers.at_zero(window.grid.of_network(window.own_layers), out, diagonal)

    def fuses_picard(self, like: Tensor) -> bool:
        return self.layers.fuses_picard(like)

    def picard_step(self, runs: Runs, order: int, u: Tensor, out: Tensor) -> None:
        self.layers.picard(runs, order, u, out)

    def picard_sweep(self, runs: Runs, order: int, u: Tensor, sweep: Sweep, g: Tensor | None) -> None:
        self.layers.picard_sweep(runs, order, u, sweep, g)

    def take_halo(self, halo_of: HaloOf) -> None:
        self.layers.take_halo(halo_of)
        self._of_stride = {1: self.layers}

    def _step(
        self,
        grid: Grid,
        layers: slice,
        u: Tensor,
        out: Tensor,
        diagonal: Tensor | None,
        decay: Tensor | None = None,
    ) -> None:
        self.of_level(grid).advance(grid.of_network(layers), u, out, diagonal=diagonal, decay=decay)

    def _sweep(self, window: Window, sweep: Sweep, u: Tensor, terms: Terms) -> None:
        if not self.layers.fuses_sweeps(u):
            return super()._sweep(window, sweep, u, terms)
        self.of_level(window.grid).sweep(window.grid.of_network(window.own_layers), u, sweep, terms)

    def _step_in_sweep(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        if not (self.keep and grid.level == 0):
            return self._step(grid, layers, u, out, diagonal)
        key = layers.start, layers.step
        self._kept.pop(key, None)  # its memory first
        kept = self.layers.advance(grid.of_network(layers), u, out, keep=True, diagonal=diagonal)
        if kept is not None:
            self._kept[key] = kept


class AdjointPropagator(Propagator):
    """λ_k = (∂Φ_k/∂u)ᵀ(u_k) λ_{k+1}, linearised at the states `u` that the forward solve ended with.

    A linearisation is made once and serves every sweep. Where F-points are not stored it is made anew for each, and the
    F-points are swept again, window by window.
    """

    def __init__(self, forward: ForwardPropagator, grid: Grid, u: States) -> None:
        super().__init__(len(forward.work.evaluations))
        self.forward = forward
        self.grid = grid
        self.u = u
        self.has_diagonal = forward.has_diagonal
        self.has_decay = forward.has_decay
        self.is_free_at_zero = forward.is_free_at_zero
        self.preferred = forward.preferred
        self.prefers_delta = forward.prefers_delta
        self._sources = FineStates(grid, u)
        self._linearisations: dict[tuple[int, range], Linearisation] = {}
        self._expects_runs = False
        self._whole_levels: dict[int, Linearisation | None] = {}
        self._swept_again: tuple[Window, Tensor] | None = None

    def parameter_gradients(self, lam: States, g: Tensor | None = None) -> list[Tensor | None]:
        """∂loss/∂θ_k = (∂Φ_k/∂θ)ᵀ(u_k) λ_{k+1} of every layer k: [layers, ...] for each parameter, or None.

        Last come those of the tensors that all layers share, summed over this rank's layers.

        `lam` and `g` are the solved states and the right-hand side of the adjoint problem.
        """
        if (whole := self._whole(self.grid)) is not None and isinstance(lam, AllPoints):
            whole = whole[lam.grid.all_layers] if self._sources.num_in_halo else whole
            return list(whole.parameter_gradients(lam.u[lam.grid.sources(lam.grid.all_layers)]))
        grid, stack = lam.grid, self.forward.layers
        gather = _Gather(self.grid.local_steps, stack.num_shared)

        def take(layers: slice, sources: Tensor) -> None:
            for part, rows in stack.parts(layers):
                gather.put(part, self._linearise(grid, part).parameter_gradients(sources[rows]))

        all_stored = isinstance(lam, AllPoints)
        lam.release_sources()
        for window in lam.windows():
            with self._forward_states_in(window), lam.read(window) as lam_here:
                if not all_stored:
                    self.sweep(window, grid.f_positions, lam_here, Terms(None if g is None else g[window.points]))
                for layers in map(window.layers, grid.f_positions if all_stored else grid.all_positions):
                    take(layers, lam_here[window.local(grid.sources(layers))])
                del lam_here  # before the next window is swept
        if all_stored:  # linearised together with those of other windows
            take(grid.c_layers, lam.c_sources)
        return gather.gradients

    def prefers_wide_steps(self, like: Tensor) -> bool:
        return self.forward.prefers_wide_steps(like)

    def at_zero(self, window: Window, out: Tensor, diagonal: Tensor) -> None:
        out.zero_()
        with self._forward_states_in(window):
            if self._swept_again is not None or self._whole(window.grid) is not None:
                return self._linearise(window.grid, window.own_layers).diagonal(diagonal)
            for layers in map(window.layers, window.grid.all_positions):  # as sweeps linearise them, once
                if length(layers):
                    self._linearise(window.grid, layers).diagonal(diagonal[window.local(layers)])

    def fuses_picard(self, like: Tensor) -> bool:
        return self.forward.fuses_picard(like)

    def picard_step(self, runs: Runs, order: int, u: Tensor, out: Tensor) -> None:
        self._linearise(self.grid, runs.layers).picard(runs, order, u, out)

    def picard_sweep(self, runs: Runs, order: int, u: Tensor, sweep: Sweep, g: Tensor | None) -> None:
        if isinstance(self.u, AllPoints):
            return self._linearise(self.grid, runs.layers).picard_sweep(runs, order, u, sweep, g)

        def step(layers: slice, source: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
            self.picard_step(runs[layers], order, source, out)

        march(sweep, step, u, Terms(g))  # a linearisation of all layers would outweigh the states that are not stored

    def _step(
        self,
        grid: Grid,
        layers: slice,
        u: Tensor,
        out: Tensor,
        diagonal: Tensor | None,
        decay: Tensor | None = None,
    ) -> None:
        linearisation = self._linearise(grid, layers)
        linearisation.vjp(u, out)
        if diagonal is not None:
            linearisation.diagonal(diagonal)
        if decay is not None:
            linearisation.decay(decay)

    def _sweep(self, window: Window, sweep: Sweep, u: Tensor, terms: Terms) -> None:
        with self._forward_states_in(window):
            if not self.forward.layers.fuses_sweeps(u):
                return super()._sweep(window, sweep, u, terms)
            self._linearise(window.grid, window.own_layers).sweep(u, sweep, terms)

    def _linearise(self, grid: Grid, layers: slice) -> Linearisation:
        """∂Φ at `layers`: from the states that are stored, and then kept; else from those that were swept again."""
        stack, of_network = self.forward.of_level(grid), grid.of_network(layers)
        if grid.level == 0 and self._swept_again is not None:
            window, states = self._swept_again
            return stack.linearise_once(of_network, states[window.local(layers)])
        if (whole := self._whole(grid)) is not None:
            return whole[layers]
        u = self._sources.stored(of_network)
        if u is None:
            return stack.linearise_once(of_network, self._sources.at_c_points_before(of_network))
        if not isinstance(self.u, AllPoints):  # a linearisation that was kept would outweigh the states that are not
            return stack.linearise_once(of_network, u)
        key = grid.level, range(layers.start, layers.stop, layers.step or 1)
        if key not in self._linearisations:
            self._linearisations[key] = stack.linearise(of_network, u, self.forward.kept(grid, layers))
        return self._linearisations[key]

    def _whole(self, grid: Grid) -> Linearisation | None:
        """∂Φ at all layers of a level, made in one pass; None where it is made slice by slice."""
        if grid.level not in self._whole_levels:
            self._whole_levels[grid.level] = self._linearise_whole(grid)
        return self._whole_levels[grid.level]

    def _linearise_whole(self, grid: Grid) -> Linearisation | None:
        """For fused sweeps and for runs of layers; and for a single level, from what each step kept, if that joins."""
        if grid.level == 0 and not isinstance(self.u, AllPoints):
            return None
        layers, of_network = self.forward.of_level(grid), grid.of_network(grid.all_layers)
        if grid.level == 0:
            of_network = slice(0, of_network.stop + self._sources.num_in_halo, 1)
        u = self._sources.stored(of_network)
        if u is None:
            return None
        if layers.fuses_sweeps(u) or (grid.level == 0 and self._expects_runs and layers.is_sliceable):
            return layers.linearise(of_network, u)
        if grid.level > 0 or grid.coarsening is not None:
            return None
        kept = [self.forward.kept(grid, slice(k, k + 1, grid.interval)) for k in range(grid.local_steps)]
        joined = None if any(each is None for each in kept) else layers.join(kept)
        return None if joined is None else layers.linearise(of_network, u, joined)

    def expect_runs(self) -> None:
        self._expects_runs = True

    def take_halo(self, halo_of: HaloOf) -> None:
        self._sources.take_halo(halo_of)

    @contextmanager
    def _forward_states_in(self, window: Window) -> Iterator[None]:
        """Sweep the forward states of a window again, where they were not all stored."""
        stored = isinstance(self.u, AllPoints) or window.grid.level > 0
        if stored or self._swept_again is not None:
            yield
            return
        again = Window(self.grid, window.first, window.stop)
        with self.u.read(again) as states:
            self.forward.sweep(again, self.grid.f_positions, states)
            self._swept_again = again, states
            try:
                yield
            finally:
                self._swept_again = None


class _Gather:
    """Gradients that arrive a slice of layers at a time; the last `num_shared` are of all layers, and add up."""

    def __init__(self, num_layers: int, num_shared: int) -> None:
        self.num_layers = num_layers
        self.num_shared = num_shared
        self.gradients: list[Tensor | None] = []

    def put(self, layers: slice, gradients: Sequence[Tensor | None]) -> None:
        of_layers = len(gradients) - self.num_shared
        if not self.gradients:
            stacked = [None if d is None else d.new_empty(self.num_layers, *d.shape[1:]) for d in gradients[:of_layers]]
            self.gradients = stacked + [None if d is None else torch.zeros_like(d) for d in gradients[of_layers:]]
        for i, (whole, part) in enumerate(zip(self.gradients, gradients, strict=True)):
            if whole is not None and part is not None:
                if i < of_layers:
                    whole[layers] = part
                else:
                    whole += part
