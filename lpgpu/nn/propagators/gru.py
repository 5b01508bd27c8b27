"""Time steps of a GRU as layers, by the operation `lpgpu.kernels.implicit_gru`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lpgpu.kernels import implicit_gru
from lpgpu.kernels.implicit_gru import Coefficients, Gates
from lpgpu.nn.propagators.layers import Layers, Linearisation


class GRULayers(Layers):
    """h_{k+1} = cell(x_k, h_k): states [T + 1, B, H], the inputs' products `x` [T, B, 3H], weights shared by all steps.

    A step's parameters, as the adjoint sees them, are x_k and q_k; the weights' gradients come from theirs.
    """

    has_diagonal = True
    prefers_delta = True

    def __init__(self, x: Tensor, w: Tensor, b: Tensor | None, formulation: str) -> None:
        self.x = x
        self.w = w
        self.b = b
        self.formulation = formulation

    def advance(
        self, layers: slice, dt: float, u: Tensor, out: Tensor, *, keep: bool = False, diagonal: Tensor | None = None
    ) -> Gates | Coefficients | None:
        gates = implicit_gru.advance(u, self.x[layers], self.w, self.b, dt, self.formulation, out)
        if diagonal is None:
            return gates if keep else None
        at = implicit_gru.coefficients(u, gates, dt, self.formulation)
        implicit_gru.diagonal(at, self.w, diagonal)
        return at if keep else None

    def linearise(self, layers: slice, dt: float, u: Tensor, kept: Gates | Coefficients | None = None) -> Linearisation:
        if kept is None:
            h_next = u.new_empty(u.shape)
            kept = implicit_gru.advance(u, self.x[layers], self.w, self.b, dt, self.formulation, h_next)
        if isinstance(kept, Gates):
            kept = implicit_gru.coefficients(u, kept, dt, self.formulation)
        return _Linearised(kept, self.w)

    def join(self, kept: Sequence[Gates | Coefficients]) -> Gates | Coefficients:
        first = kept[0]
        return type(first)(*(torch.cat(parts) for parts in zip(*(each.tensors() for each in kept), strict=True)))


class _Linearised(Linearisation):
    def __init__(self, at: Coefficients, w: Tensor) -> None:
        self.at = at
        self.w = w

    def vjp(self, lam: Tensor, out: Tensor) -> None:
        implicit_gru.vjp(lam, self.at, self.w, out)

    def __getitem__(self, steps: slice) -> "_Linearised":
        return _Linearised(self.at[steps], self.w)

    def diagonal(self, out: Tensor) -> None:
        implicit_gru.diagonal(self.at, self.w, out)

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        return implicit_gru.gate_gradients(lam, self.at)
