"""Layers of `ConvBlock` under Euler's scheme, by the operation `lpgpu.kernels.conv_step`."""

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Self

from torch import Tensor

from lpgpu.kernels import conv_step
from lpgpu.kernels.conv_step import operators
from lpgpu.kernels.dispatch import could_fuse
from lpgpu.kernels.picard import Runs
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms
from lpgpu.nn.propagators.extended import HaloOf, extended
from lpgpu.nn.propagators.layers import Layers, Linearisation, preferred_for


class ConvLayers(Layers):
    """u + Δt g(K_k ∗ … + b_k): for each convolution weights [layers, C, C, 3, 3] and biases [layers, C] or None."""

    def __init__(self, filters: list[conv_step.Filter], activation: str, dt: float) -> None:
        self._given = [conv_step.Filter(w.detach(), None if b is None else b.detach()) for w, b in filters]
        self.activation = activation
        self.dt = dt
        self.preferred = preferred_for(filters[0].w)

    is_sliceable = True

    @cached_property
    def filters(self) -> list[conv_step.Filter]:
        """As the operation wants them in memory; copied where they are first needed."""
        return conv_step.packed(self._given)

    def coarsened(self, m: int) -> Self:
        _ = self.filters  # one copy for all levels
        return super().coarsened(m)

    @property
    def signature(self) -> Hashable:
        return "convolution", self.activation, self.dt

    def take_halo(self, halo_of: HaloOf) -> None:
        self.filters = [
            conv_step.Filter(extended(w, halo_of), None if b is None else extended(b, halo_of)) for w, b in self.filters
        ]

    def advance(
        self,
        layers: slice,
        u: Tensor,
        out: Tensor,
        *,
        keep: bool = False,
        diagonal: Tensor | None = None,
        decay: Tensor | None = None,
    ) -> conv_step.Saved | None:
        kept = operators.advance(u, self._of(layers), self.dt, self.activation, out, keep)
        return kept if keep else None

    def linearise(self, layers: slice, u: Tensor, kept: conv_step.Saved | None = None) -> Linearisation:
        filters = self._of(layers)
        return _Linearised(
            filters, self.activation, self.dt, u, kept or operators.linearise(u, filters, self.activation)
        )

    def fuses_sweeps(self, like: Tensor) -> bool:
        return could_fuse(like)

    def sweep(self, layers: slice, u: Tensor, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
        conv_step.sweep(u, self._of(layers), self.dt, self.activation, sweep, terms)

    def fuses_picard(self, like: Tensor) -> bool:
        return could_fuse(like)

    def picard(self, runs: Runs, order: int, u: Tensor, out: Tensor) -> None:
        operators.picard(u, self._of_runs(runs), self.dt, self.activation, order, out)

    def picard_sweep(self, runs: Runs, order: int, u: Tensor, sweep: Sweep, g: Tensor | None) -> None:
        operators.picard_sweep(u, self._of_runs(runs), self.dt, self.activation, order, sweep, g)

    def empty_states(self, points: int, like: Tensor) -> Tensor:
        return conv_step.empty_states(points, like)

    def _of(self, layers: slice) -> list[conv_step.Filter]:
        return [each.of_layers(layers) for each in self.filters]

    def _of_runs(self, runs: Runs) -> list[conv_step.Filter]:
        return [each.of_runs(runs) for each in self.filters]


class _Linearised(Linearisation):
    def __init__(
        self, filters: list[conv_step.Filter], activation: str, dt: float, u: Tensor, kept: conv_step.Saved
    ) -> None:
        self.filters = filters
        self.activation = activation
        self.dt = dt
        self.u = u
        self.kept = kept

    def __getitem__(self, steps: slice) -> "_Linearised":
        filters = [each.of_layers(steps) for each in self.filters]
        return _Linearised(filters, self.activation, self.dt, self.u[steps], self.kept[steps])

    def vjp(self, lam: Tensor, out: Tensor) -> None:
        operators.vjp(lam, self.kept, self.filters, self.dt, self.activation, out)

    def sweep(self, lam: Tensor, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
        conv_step.adjoint_sweep(lam, self.kept, self.filters, self.dt, self.activation, sweep, terms)

    def picard(self, runs: Runs, order: int, lam: Tensor, out: Tensor) -> None:
        operators.adjoint_picard(lam, *self._of_runs(runs), self.dt, self.activation, order, out)

    def picard_sweep(self, runs: Runs, order: int, lam: Tensor, sweep: Sweep, g: Tensor | None) -> None:
        operators.adjoint_picard_sweep(lam, *self._of_runs(runs), self.dt, self.activation, order, sweep, g)

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        gradients = operators.parameter_gradient(lam, self.kept, self.u, self.filters, self.dt, self.activation)
        with_bias = [each.b is not None for each in self.filters]
        return [d for pair, both in zip(gradients, with_bias, strict=True) for d in pair[: 1 + both]]

    def _of_runs(self, runs: Runs) -> tuple[conv_step.Saved, list[conv_step.Filter]]:
        saved = conv_step.Saved([runs.within(each) for each in self.kept.stacked()])
        own = runs.from_first()
        return saved, [each.of_runs(own) for each in self.filters]
