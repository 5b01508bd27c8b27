"""The forward and the adjoint propagator of a stack of layers: two propagators for one solver."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from torch import Tensor

from lpgpu.mgrit import AllPoints, CPointsOnly, Delta, Grid, Propagator, States, Window
from lpgpu.mgrit.hierarchy import length
from lpgpu.nn.propagators.layers import Layers, Linearisation


class ForwardPropagator(Propagator):
    """u_{k+1} = Φ_k(u_k). On level ℓ the step is σ_ℓ Δt, with the parameters of the first layer that it spans.

    With `keep`, what the latest sweep of the finest level leaves behind is kept for the adjoint: a solve ends with a
    sweep, so that is what the final states would give, of all layers but those that lead to C-points.
    """

    def __init__(self, layers: Layers, dt: float, num_levels: int, *, keep: bool = False) -> None:
        super().__init__(num_levels)
        self.layers = layers
        self.dt = dt
        self.keep = keep
        self.has_diagonal = layers.has_diagonal
        self.prefers_delta = layers.prefers_delta
        self._kept: dict[tuple[int, int], Any] = {}

    def kept(self, grid: Grid, layers: slice) -> Any:
        """What the latest sweep left behind at `layers` of the finest level; None where it was not kept."""
        kept = self._kept.get((layers.start, layers.step)) if grid.level == 0 else None
        return kept[: length(layers)] if kept is not None and len(kept) >= length(layers) else None

    def _step(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        self.layers.advance(_of_network(layers, grid), self.dt * grid.stride, u, out, diagonal=diagonal)

    def _step_in_sweep(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        if not (self.keep and grid.level == 0):
            return self._step(grid, layers, u, out, diagonal)
        key = layers.start, layers.step
        self._kept.pop(key, None)  # its memory first
        kept = self.layers.advance(_of_network(layers, grid), self.dt, u, out, keep=True, diagonal=diagonal)
        if kept is not None:
            self._kept[key] = kept


class AdjointPropagator(Propagator):
    """λ_k = (∂Φ_k/∂u)ᵀ(u_k) λ_{k+1}, linearised at the states `u` that the forward solve ended with.

    A linearisation is made once and serves every sweep, except at F-points that were not stored: those are swept again,
    and linearised, window by window.
    """

    def __init__(self, forward: ForwardPropagator, grid: Grid, u: States) -> None:
        super().__init__(len(forward.work.evaluations))
        self.forward = forward
        self.grid = grid
        self.u = u
        self.has_diagonal = forward.has_diagonal
        self.prefers_delta = forward.prefers_delta
        self._linearisations: dict[tuple[int, int, int, int], Linearisation] = {}
        self._swept_again: tuple[Window, Tensor] | None = None

    def parameter_gradients(self, lam: States, g: Tensor | None = None) -> list[Tensor | None]:
        """∂loss/∂θ_k = (∂Φ_k/∂θ)ᵀ(u_k) λ_{k+1} of every layer k: [layers, ...] for each parameter, or None.

        `lam` and `g` are the solved states and the right-hand side of the adjoint problem.
        """
        if (whole := self._whole) is not None and isinstance(lam, AllPoints):
            return list(whole.parameter_gradients(lam.u[lam.grid.sources(lam.grid.all_layers)]))
        gather = _Gather(self.grid.num_steps)
        grid = lam.grid
        for window in lam.windows():
            with self._forward_states_in(window), lam.open(window) as lam_here:
                if isinstance(lam, CPointsOnly):
                    self.sweep(window, grid.f_positions, lam_here, g)
                for layers in map(window.layers, grid.f_positions):
                    if length(layers):
                        sources = lam_here[window.local(grid.sources(layers))]
                        gather.put(layers, self._linearise(grid, layers).parameter_gradients(sources))
        layers = grid.c_layers
        gather.put(layers, self._linearise(grid, layers).parameter_gradients(lam.c_sources))
        return gather.gradients

    def _step(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        linearisation = self._linearise(grid, layers)
        linearisation.vjp(u, out)
        if diagonal is not None:
            linearisation.diagonal(diagonal)

    def _sweep(
        self,
        window: Window,
        steps: list[slice],
        u: Tensor,
        g: Tensor | None,
        delta: Delta | None,
        products: Tensor | None,
    ) -> None:
        with self._forward_states_in(window):
            super()._sweep(window, steps, u, g, delta, products)

    def _linearise(self, grid: Grid, layers: slice) -> Linearisation:
        """∂Φ at `layers`: from the states that are stored, and then kept; else from those that were swept again."""
        dt, of_network = self.forward.dt * grid.stride, _of_network(layers, grid)
        if grid.level == 0 and self._swept_again is not None:
            window, states = self._swept_again
            return self.forward.layers.linearise(of_network, dt, states[window.local(layers)])
        if self._whole is not None:
            return self._whole[layers]
        key = (grid.level, layers.start, layers.stop, layers.step)
        if key not in self._linearisations:
            kept = self.forward.kept(grid, layers)
            u = self._stored(of_network)
            self._linearisations[key] = self.forward.layers.linearise(of_network, dt, u, kept)
        return self._linearisations[key]

    @cached_property
    def _whole(self) -> Linearisation | None:
        """∂Φ at all layers of a single level, made in one pass from what each step kept; None where that is not so."""
        if self.grid.coarsening is not None or not isinstance(self.u, AllPoints):
            return None
        layers, all_layers = self.forward.layers, self.grid.all_layers
        steps = [slice(k, k + 1, self.grid.interval) for k in self.grid.all_positions]
        kept = [self.forward.kept(self.grid, step) for step in steps]
        joined = None if any(each is None for each in kept) else layers.join(kept)
        if joined is None:
            return None
        return layers.linearise(all_layers, self.forward.dt, self._stored(all_layers), joined)

    def _stored(self, layers: slice) -> Tensor:
        """u at the points that `layers` of the network start from, all of which are stored."""
        if isinstance(self.u, AllPoints):
            return self.u.u[layers]
        m = self.grid.interval
        return self.u.c_points[layers.start // m : -(-layers.stop // m) : max(1, layers.step // m)]

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
    """Gradients that arrive a slice of layers at a time."""

    def __init__(self, num_layers: int) -> None:
        self.num_layers = num_layers
        self.gradients: list[Tensor | None] = []

    def put(self, layers: slice, gradients: Sequence[Tensor | None]) -> None:
        if not self.gradients:
            self.gradients = [None if d is None else d.new_empty(self.num_layers, *d.shape[1:]) for d in gradients]
        for whole, part in zip(self.gradients, gradients, strict=True):
            if whole is not None and part is not None:
                whole[layers] = part


def _of_network(layers: slice, grid: Grid) -> slice:
    return slice(layers.start * grid.stride, layers.stop * grid.stride, layers.step * grid.stride)
