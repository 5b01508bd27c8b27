"""From a deep network to one of every m-th layer, and back.

Fine layer i = mK + j, 0 ≤ j < m, coarse layer K:

    P, constant:  θ_i = θ_K                              (fine layer i takes coarse layer ⌊i/m⌋)
    P, linear:    θ_i = (1 − j/m) θ_K + (j/m) θ_{K+1}    (θ_K again beyond the last coarse layer)
    R, injection: θ_K = θ_{mK},  so that R P = 1

Gradients go down with Pᵀ: d/dx_H f(P x_H) = Pᵀ ∇f. Both P have rows that sum to one and no negative entry. Parameters
outside of the `LayerParallel`s, such as those of a stem, are the same on all levels: P = R = 1.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lpgpu import LayerParallel

Interpolation = Literal["constant", "linear"]
Tensors = list[Tensor]


def coarse_layers(layers: int, coarsening: int, level: int = 1) -> int:
    """The layers left after `level` coarsenings: ⌈N/m⌉ each time."""
    for _ in range(level):
        layers = -(-layers // coarsening)
    return layers


def prolongation(layers: int, coarsening: int, kind: Interpolation) -> Tensor:
    """P as a matrix, [N, ⌈N/m⌉] in fp64."""
    coarse = coarse_layers(layers, coarsening)
    fine = torch.arange(layers)
    left = fine // coarsening
    right = (left + 1).clamp(max=coarse - 1)
    weight = (fine % coarsening).double() / coarsening if kind == "linear" else torch.zeros(layers, dtype=torch.float64)
    p = torch.zeros(layers, coarse, dtype=torch.float64)
    p[fine, left] += 1 - weight
    p[fine, right] += weight
    return p


class Transfer:
    """P, R and Pᵀ between the parameters of a network and of the one that has every m-th of its layers.

    Tensors come and go as lists in the order of `network.parameters()`.

    Attributes:
        stacked: for every parameter, whether it is of a `LayerParallel`, [layers, ...].
        ratio: Δt of the fine network over that of the coarse one. By it a layer's gradient is smaller there.

    Raises:
        ValueError: when `coarse` is not the network of `fine` with ⌈N/m⌉ layers.
    """

    def __init__(self, fine: nn.Module, coarse: nn.Module, coarsening: int, kind: Interpolation = "constant"):
        self.coarsening = coarsening
        parts = [[part for part in net.modules() if isinstance(part, LayerParallel)] for net in (fine, coarse)]
        sizes = {id(theta): part.num_steps for part in parts[0] for theta in part.parameters()}
        self.stacked = [id(theta) in sizes for theta in fine.parameters()]
        self.ratio = 1.0
        self._p: list[Tensor | None] = [None] * len(self.stacked)
        expected = []
        for place, theta in enumerate(fine.parameters()):
            p = prolongation(sizes[id(theta)], coarsening, kind).to(theta) if self.stacked[place] else None
            self._p[place] = p
            expected.append(theta.shape if p is None else (p.shape[1], *theta.shape[1:]))
        if [theta.shape for theta in coarse.parameters()] != expected:
            raise ValueError(f"the coarse network is not the fine one with every {coarsening}-th of its layers")
        if parts[0]:
            self.ratio = parts[0][0].dt / parts[1][0].dt

    def prolong(self, coarse: Sequence[Tensor]) -> Tensors:
        """P x_H."""
        return [x if p is None else torch.tensordot(p, x, 1) for p, x in zip(self._p, coarse, strict=True)]

    def restrict(self, fine: Sequence[Tensor]) -> Tensors:
        """Pᵀ g_h."""
        return [g if p is None else torch.tensordot(p.T, g, 1) for p, g in zip(self._p, fine, strict=True)]

    def inject(self, fine: Sequence[Tensor]) -> Tensors:
        """R x_h."""
        return [x if p is None else x[:: self.coarsening] for p, x in zip(self._p, fine, strict=True)]
