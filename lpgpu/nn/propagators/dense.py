"""Layers of `DenseBlock` under Euler's scheme, by the operation `lpgpu.kernels.dense_step`."""

from collections.abc import Hashable, Sequence

from torch import Tensor

from lpgpu.kernels import dense_step
from lpgpu.kernels.dense_step import operators
from lpgpu.kernels.dispatch import could_fuse
from lpgpu.kernels.picard import Runs
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms
from lpgpu.nn.propagators.extended import HaloOf, extended
from lpgpu.nn.propagators.layers import Layers, Linearisation, preferred_for


class DenseLayers(Layers):
    """u + Δt g(W_k u + b_k): weights [layers, H, H], biases [layers, H] or None, states [points, B, H]."""

    def __init__(self, w: Tensor, b: Tensor | None, activation: str, dt: float) -> None:
        self.w = w.detach()
        self.b = None if b is None else b.detach()
        self.activation = activation
        self.dt = dt
        self.preferred = preferred_for(w)

    has_diagonal = True
    is_sliceable = True

    @property
    def signature(self) -> Hashable:
        return "dense", self.activation, self.dt

    def take_halo(self, halo_of: HaloOf) -> None:
        self.w = extended(self.w, halo_of)
        self.b = None if self.b is None else extended(self.b, halo_of)

    def advance(
        self,
        layers: slice,
        u: Tensor,
        out: Tensor,
        *,
        keep: bool = False,
        diagonal: Tensor | None = None,
        decay: Tensor | None = None,
    ) -> Tensor | None:
        w, b = self._of(layers)
        kept = operators.advance(u, w, b, self.dt, self.activation, out, diagonal)
        return kept if keep else None

    def fuses_sweeps(self, like: Tensor) -> bool:
        return could_fuse(like)

    def sweep(self, layers: slice, u: Tensor, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
        w, b = self._of(layers)
        dense_step.sweep(u, w, b, self.dt, self.activation, sweep, terms)

    def fuses_picard(self, like: Tensor) -> bool:
        return could_fuse(like)

    def picard(self, runs: Runs, order: int, u: Tensor, out: Tensor) -> None:
        operators.picard(u, *self._of_runs(runs), self.dt, self.activation, order, out)

    def picard_sweep(self, runs: Runs, order: int, u: Tensor, sweep: Sweep, g: Tensor | None) -> None:
        operators.picard_sweep(u, *self._of_runs(runs), self.dt, self.activation, order, sweep, g)

    def linearise(self, layers: slice, u: Tensor, kept: Tensor | None = None) -> Linearisation:
        w, b = self._of(layers)
        return _Linearised(self, w, u, operators.linearise(u, w, b, self.activation) if kept is None else kept)

    def empty_states(self, points: int, like: Tensor) -> Tensor:
        return dense_step.empty_states(points, like)

    def _of(self, layers: slice) -> tuple[Tensor, Tensor | None]:
        return self.w[layers], None if self.b is None else self.b[layers]

    def _of_runs(self, runs: Runs) -> tuple[Tensor, Tensor | None]:
        return runs.of(self.w), None if self.b is None else runs.of(self.b)


class _Linearised(Linearisation):
    def __init__(self, stack: DenseLayers, w: Tensor, u: Tensor, kept: Tensor) -> None:
        self.stack = stack
        self.w = w
        self.u = u
        self.kept = kept

    def __getitem__(self, steps: slice) -> "_Linearised":
        return _Linearised(self.stack, self.w[steps], self.u[steps], self.kept[steps])

    def vjp(self, lam: Tensor, out: Tensor) -> None:
        operators.vjp(lam, self.kept, self.w, self.stack.dt, self.stack.activation, out)

    def diagonal(self, out: Tensor) -> None:
        operators.diagonal(self.kept, self.w, self.stack.dt, self.stack.activation, out)

    def sweep(self, lam: Tensor, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
        dense_step.adjoint_sweep(lam, self.kept, self.w, self.stack.dt, self.stack.activation, sweep, terms)

    def picard(self, runs: Runs, order: int, lam: Tensor, out: Tensor) -> None:
        saved, w = runs.within(self.kept), runs.within(self.w)
        operators.adjoint_picard(lam, saved, w, self.stack.dt, self.stack.activation, order, out)

    def picard_sweep(self, runs: Runs, order: int, lam: Tensor, sweep: Sweep, g: Tensor | None) -> None:
        saved, w = runs.within(self.kept), runs.within(self.w)
        operators.adjoint_picard_sweep(lam, saved, w, self.stack.dt, self.stack.activation, order, sweep, g)

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        dw, db = dense_step.parameter_gradient(lam, self.kept, self.u, self.stack.dt, self.stack.activation)
        return (dw,) if self.stack.b is None else (dw, db)
