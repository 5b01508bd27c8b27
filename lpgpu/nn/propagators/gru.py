"""Time steps of a GRU as layers, by the operation `lpgpu.kernels.implicit_gru`."""

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from lpgpu.kernels import implicit_gru
from lpgpu.kernels.dispatch import could_fuse
from lpgpu.kernels.implicit_gru import Cell, Coefficients, Gates, operators
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms
from lpgpu.nn.propagators.extended import HaloOf, extended
from lpgpu.nn.propagators.layers import Layers, Linearisation


class GRULayers(Layers):
    """h_{k+1} = cell(x_k, h_k): states [T + 1, B, H], the inputs' products `x` [T, B, 3H], weights shared by all steps.

    A step's parameters, as the adjoint sees them, are x_k and q_k; the weights' gradients come from theirs.
    """

    has_diagonal = True
    has_decay = True
    prefers_delta = True  # with a rediscretised operator, which is preferred: docs/experiments/coarse_operators.md
    is_sliceable = True

    def __init__(self, x: Tensor, w: Tensor, b: Tensor | None, formulation: str, dt: float) -> None:
        self.x = x
        self.w = w
        self.b = b
        self.formulation = formulation
        self.dt = dt

    @property
    def cell(self) -> Cell:
        """What all steps share."""
        return Cell(self.w, self.b, self.dt, self.formulation)

    @property
    def signature(self) -> Hashable:
        return "GRU", self.formulation, self.dt

    def coarsened(self, m: int) -> Self:
        """As any layers, but that the classic cell, which diverges with a larger step, becomes the implicit one."""
        coarse = super().coarsened(m)
        coarse.formulation = "implicit"
        return coarse

    def take_halo(self, halo_of: HaloOf) -> None:
        self.x = extended(self.x, halo_of)

    def advance(
        self,
        layers: slice,
        u: Tensor,
        out: Tensor,
        *,
        keep: bool = False,
        diagonal: Tensor | None = None,
        decay: Tensor | None = None,
    ) -> Gates | Coefficients | None:
        at = operators.advance(u, self.x[layers], self.cell, out, diagonal, decay)
        return at if keep else None

    def linearise(self, layers: slice, u: Tensor, kept: Gates | Coefficients | None = None) -> Linearisation:
        if kept is None:
            kept = operators.linearise(u, self.x[layers], self.cell)
        if isinstance(kept, Gates):
            kept = implicit_gru.coefficients(u, kept, self.cell)
        return _Linearised(kept, self.w)

    def linearise_once(self, layers: slice, u: Tensor) -> Linearisation:
        return _Once(self, layers, u)

    def fuses_sweeps(self, like: Tensor) -> bool:
        return could_fuse(like)

    def sweep(self, layers: slice, u: Tensor, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
        implicit_gru.sweep(u, self.x[layers], self.cell, sweep, terms)

    def join(self, kept: Sequence[Gates | Coefficients]) -> Gates | Coefficients:
        first = kept[0]
        return type(first)(*(torch.cat(parts) for parts in zip(*(each.tensors() for each in kept), strict=True)))


class _Linearised(Linearisation):
    def __init__(self, at: Coefficients, w: Tensor) -> None:
        self.at = at
        self.w = w

    def vjp(self, lam: Tensor, out: Tensor) -> None:
        operators.vjp(lam, self.at, self.w, out)

    def __getitem__(self, steps: slice) -> "_Linearised":
        return _Linearised(self.at[steps], self.w)

    def sweep(self, lam: Tensor, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
        implicit_gru.adjoint_sweep(lam, self.at, self.w, sweep, terms)

    def diagonal(self, out: Tensor) -> None:
        operators.diagonal(self.at, self.w, out)

    def decay(self, out: Tensor) -> None:
        out.copy_(self.at.a)

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        return operators.gate_gradients(lam, self.at)


class _Once(Linearisation):
    """∂Φ for one sweep: where the kernels can, the gates are computed again in it, and no coefficient is stored."""

    def __init__(self, stack: GRULayers, layers: slice, u: Tensor) -> None:
        self.stack = stack
        self.layers = layers
        self.u = u

    @cached_property
    def _stored(self) -> Linearisation:
        return self.stack.linearise(self.layers, self.u)

    def vjp(self, lam: Tensor, out: Tensor) -> None:
        self._stored.vjp(lam, out)

    def sweep(self, lam: Tensor, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
        if not implicit_gru.can_recompute(lam, terms):
            return self._stored.sweep(lam, sweep, terms)
        x, cell = self.stack.x[self.layers], self.stack.cell
        implicit_gru.adjoint_sweep_recomputed(lam, self.u, x, cell, sweep, terms)

    def diagonal(self, out: Tensor) -> None:
        self._stored.diagonal(out)

    def decay(self, out: Tensor) -> None:
        self._stored.decay(out)

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        return self._stored.parameter_gradients(lam)
