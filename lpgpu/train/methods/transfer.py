"""From a deep network to one of every m-th layer, and back.

Fine layer i = mK + j, 0 ≤ j < m, coarse layer K:

    P, constant:  θ_i = θ_K                              (fine layer i takes coarse layer ⌊i/m⌋)
    P, linear:    θ_i = (1 − j/m) θ_K + (j/m) θ_{K+1}    (θ_K again beyond the last coarse layer)
    R, injection: θ_K = θ_{mK},  so that R P = 1

Gradients go down with Pᵀ: d/dx_H f(P x_H) = Pᵀ ∇f. Both P have rows that sum to one and no negative entry. Parameters
outside of the `LayerParallel`s, such as those of a stem, are the same on all levels: P = R = 1.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lpgpu import LayerParallel

Interpolation = Literal["constant", "linear"]
Tensors = list[Tensor]
Owner = LayerParallel | None


def coarse_layers(layers: int, coarsening: int, level: int = 1) -> int:
    """The layers left after `level` coarsenings: ⌈N/m⌉ each time."""
    for _ in range(level):
        layers = -(-layers // coarsening)
    return layers


def prolongation(layers: int, coarsening: int, kind: Interpolation) -> Tensor:
    """P as a matrix, [N, ⌈N/m⌉] in fp64. Raises as `check_transfer`."""
    check_transfer(coarsening, kind)
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

    Tensors come and go as lists in the order of `network.parameters()`. Where several ranks share the layers, each
    gives and gets those of its own, and all call together.

    >>> network = lambda layers: LayerParallel(None, lambda: nn.Linear(1, 1), layers, 1.0)
    >>> transfer = Transfer(network(4), network(2), 2)
    >>> weights = torch.tensor([1.0, 2.0]).reshape(2, 1, 1)
    >>> transfer.prolong([weights, weights])[0].flatten()
    tensor([1., 1., 2., 2.])

    Attributes:
        stacked: for every parameter, whether it is of a `LayerParallel`, [layers, ...].
        ratio: Δt of the fine network over that of the coarse one. By it a layer's gradient is smaller there.

    Raises:
        TypeError, ValueError: as `check_transfer`.
        ValueError: when `coarse` is not the network of `fine` with ⌈N/m⌉ layers, or neither has a `LayerParallel`.
    """

    def __init__(self, fine: nn.Module, coarse: nn.Module, coarsening: int, kind: Interpolation = "constant"):
        check_transfer(coarsening, kind)
        self.coarsening = coarsening
        pairs = [list(parameters_and_parts(network)) for network in (fine, coarse)]
        if len(pairs[0]) != len(pairs[1]) or not all(map(self._follow, *pairs)):
            raise ValueError(f"the coarse network is not the fine one with every {coarsening}-th of its layers")
        if not any(isinstance(part, LayerParallel) for part in fine.modules()):
            raise ValueError("the networks have no LayerParallel, so no layers to leave out; expected one or more")
        self._owners = [(part, coarse_part) for (_, part), (_, coarse_part) in zip(*pairs, strict=True)]
        self.stacked = [part is not None for part, _ in self._owners]
        self.ratio = next((part.dt / coarse_part.dt for part, coarse_part in self._owners if part and coarse_part), 1.0)
        self._up: list[Tensor | None] = []  # this rank's rows of P, and of Pᵀ
        self._down: list[Tensor | None] = []
        for (theta, part), (_, coarse_part) in zip(*pairs, strict=True):
            p = prolongation(part.num_steps, coarsening, kind).to(theta) if part else None
            self._up.append(None if p is None or part is None else part.of_this_rank(p, "P"))
            self._down.append(None if p is None or coarse_part is None else coarse_part.of_this_rank(p.T, "Pᵀ"))

    def prolong(self, coarse: Sequence[Tensor]) -> Tensors:
        """P x_H."""
        return [_times(up, x, part) for up, x, (_, part) in zip(self._up, coarse, self._owners, strict=True)]

    def restrict(self, fine: Sequence[Tensor]) -> Tensors:
        """Pᵀ g_h."""
        return [_times(down, g, part) for down, g, (part, _) in zip(self._down, fine, self._owners, strict=True)]

    def inject(self, fine: Sequence[Tensor]) -> Tensors:
        """R x_h."""
        return [
            part_H.of_this_rank(part.of_all_ranks(x)[:: self.coarsening], "R x") if part and part_H else x
            for x, (part, part_H) in zip(fine, self._owners, strict=True)
        ]

    def _follow(self, fine: tuple[Tensor, Owner], coarse: tuple[Tensor, Owner]) -> bool:
        """Whether a parameter of the coarse network is what it has to be."""
        (theta, part), (theta_H, part_H) = fine, coarse
        if part is None or part_H is None:
            return part is part_H and theta.shape == theta_H.shape
        layers = coarse_layers(part.num_steps, self.coarsening)
        return part_H.num_steps == layers and theta.shape[1:] == theta_H.shape[1:]


def check_transfer(coarsening: object, kind: object, name: str = "kind") -> None:
    """Refuse what is no transfer; `name` is what the caller calls its kind.

    Raises:
        TypeError: for a `coarsening` that is no integer.
        ValueError: for one below 2, or a `kind` that there is not.
    """
    check_integer("coarsening", coarsening, 2)
    kinds = get_args(Interpolation)
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{name} is {kind!r}; expected {' or '.join(map(repr, kinds))}")


def check_integer(name: str, value: object, least: int) -> None:
    """Refuse a `value` of what is called `name`: TypeError if it is no integer, ValueError below `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; expected an integer ≥ {least}")
    if value < least:
        raise ValueError(f"{name} is {value}; expected at least {least}")


def parameters_and_parts(network: nn.Module) -> Iterator[tuple[Tensor, Owner]]:
    """Each parameter, and the `LayerParallel` whose layers it is of."""
    parts = [part for part in network.modules() if isinstance(part, LayerParallel)]
    owners = {id(theta): part for part in parts for theta in part.parameters()}
    return ((theta, owners.get(id(theta))) for theta in network.parameters())


def _times(matrix: Tensor | None, x: Tensor, owner: Owner) -> Tensor:
    """`matrix` times the `x` of all ranks, [layers, ...]; where there is none, `x`."""
    return x if matrix is None or owner is None else torch.tensordot(matrix, owner.of_all_ranks(x), 1)
