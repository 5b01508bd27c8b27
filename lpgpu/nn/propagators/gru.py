"""Time steps of a GRU as layers, by the operation `lpgpu.kernels.implicit_gru`."""

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from lpgpu.kernels import implicit_gru
from lpgpu.kernels.dispatch import could_fuse
from lpgpu.kernels.implicit_gru import Cell, Coefficients, Gates, operators
from lpgpu.kernels.picard import Runs
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms
from lpgpu.nn.propagators.extended import HaloOf, extended
from lpgpu.nn.propagators.layers import Layers, Linearisation
from lpgpu.nn.propagators.resets import arriving, spanned


class GRULayers(Layers):
    """h_{k+1} = cell(x_k, h_k): states [T + 1, B, H], the inputs' products `x` [T, B, 3H], weights shared by all steps.

    A step's parameters, as the adjoint sees them, are x_k and q_k; the weights' gradients come from theirs. Where
    `resets` [T or more, B, 1] is true, a step starts from zero instead of h_k; no fused sweep knows of it, so such a
    sequence is marched step by step. Off the fused kernels W and b may be of a lower precision than all else.
    """

    has_diagonal = True
    has_decay = True
    prefers_delta = True  # with a rediscretised operator, which is preferred: docs/experiments/coarse_operators.md
    is_sliceable = True
    is_free_at_zero = True

    def __init__(
        self, x: Tensor, w: Tensor, b: Tensor | None, formulation: str, dt: float, resets: Tensor | None = None
    ) -> None:
        self.x = x
        self.w = w
        self.b = b
        self.formulation = formulation
        self.dt = dt
        self.resets = resets

    @property
    def cell(self) -> Cell:
        """What all steps share."""
        return Cell(self.w, self.b, self.dt, self.formulation)

    @property
    def signature(self) -> Hashable | None:
        return ("GRU", self.formulation, self.dt, self.w.dtype) if self.resets is None else None

    def coarsened(self, m: int) -> Self:
        """As any layers, but that the classic cell, which diverges with a larger step, becomes the implicit one."""
        coarse = super().coarsened(m)
        coarse.formulation = "implicit"
        coarse.resets = None if self.resets is None else spanned(self.resets, m)
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
        resets = self._resets(layers)
        at = operators.advance(arriving(u, resets), self.x[layers], self.cell, out, diagonal, decay)
        if resets is not None:
            for each in (diagonal, decay):
                if each is not None:
                    each.masked_fill_(resets, 0)
        return at if keep else None

    def at_zero(self, layers: slice, out: Tensor, diagonal: Tensor) -> None:
        operators.at_zero(self.x[layers], self.cell, out, diagonal)
        if self.resets is not None:
            diagonal.masked_fill_(self.resets[layers], 0)

    def linearise(self, layers: slice, u: Tensor, kept: Gates | Coefficients | None = None) -> Linearisation:
        resets = self._resets(layers)
        u = arriving(u, resets)
        if kept is None:
            kept = operators.linearise(u, self.x[layers], self.cell)
        if isinstance(kept, Gates):
            kept = implicit_gru.coefficients(u, kept, self.cell)
        return _Linearised(kept, self.w) if resets is None else _WithResets(kept, self.w, resets)

    def linearise_once(self, layers: slice, u: Tensor) -> Linearisation:
        return _Once(self, layers, u)

    def fuses_sweeps(self, like: Tensor) -> bool:
        return self.resets is None and could_fuse(like)

    def _resets(self, layers: slice) -> Tensor | None:
        return None if self.resets is None else self.resets[layers]

    def sweep(self, layers: slice, u: Tensor, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
        implicit_gru.sweep(u, self.x[layers], self.cell, sweep, terms)

    def fuses_picard(self, like: Tensor) -> bool:
        return self.fuses_sweeps(like)

    def picard(self, runs: Runs, order: int, u: Tensor, out: Tensor) -> None:
        operators.picard(u, runs.of(self.x), self.cell, order, out)

    def picard_sweep(self, runs: Runs, order: int, u: Tensor, sweep: Sweep, g: Tensor | None) -> None:
        operators.picard_sweep(u, runs.of(self.x), self.cell, order, sweep, g)

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

    def picard(self, runs: Runs, order: int, lam: Tensor, out: Tensor) -> None:
        operators.adjoint_picard(lam, self._of_runs(runs), self.w, order, out)

    def picard_sweep(self, runs: Runs, order: int, lam: Tensor, sweep: Sweep, g: Tensor | None) -> None:
        operators.adjoint_picard_sweep(lam, self._of_runs(runs), self.w, order, sweep, g)

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        return operators.gate_gradients(lam, self.at)

    def _of_runs(self, runs: Runs) -> Coefficients:
        return Coefficients(*map(runs.within, self.at.tensors()))


class _WithResets(_Linearised):
    """∂Φ of steps of which some, where `resets` [K, B, 1] is true, do not depend on the state that arrives."""

    def __init__(self, at: Coefficients, w: Tensor, resets: Tensor) -> None:
        super().__init__(at, w)
        self.resets = resets

    def vjp(self, lam: Tensor, out: Tensor) -> None:
        super().vjp(lam, out)
        out.masked_fill_(self.resets, 0)

    def __getitem__(self, steps: slice) -> "_WithResets":
        return _WithResets(self.at[steps], self.w, self.resets[steps])

    def diagonal(self, out: Tensor) -> None:
        super().diagonal(out)
        out.masked_fill_(self.resets, 0)

    def decay(self, out: Tensor) -> None:
        super().decay(out)
        out.masked_fill_(self.resets, 0)


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

    def picard(self, runs: Runs, order: int, lam: Tensor, out: Tensor) -> None:
        self._stored.picard(runs, order, lam, out)

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        return self._stored.parameter_gradients(lam)
