"""Penalties on the weights of an ODE network.

Tikhonov:          γ/2 Σ ‖θ‖²
depth smoothness:  γ/2 Σ_k ‖θ_{k+1} − θ_k‖² / Δt,   which asks the weights θ(t) to be smooth in the layers' time
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from lpgpu import LayerParallel


def tikhonov(parameters: Iterable[Tensor]) -> Tensor:
    """½ Σ ‖θ‖² over all parameters, a scalar."""
    return _half_sum_of_squares(parameters)


def depth_smoothness(stacked: Iterable[Tensor], dt: float) -> Tensor:
    """½ Σ_k ‖θ_{k+1} − θ_k‖² / Δt for parameters stacked `[layers, ...]`, a scalar; zero for a single layer."""
    return _half_sum_of_squares(theta.diff(dim=0) for theta in stacked) / dt


def smoothness_between_ranks(part: LayerParallel, rank: int) -> Tensor | float:
    """What `depth_smoothness` lacks where ranks share the layers: ½ ‖θ_{k+1} − θ_k‖² / Δt over this rank's boundaries.

    The neighbour's layer counts as given, so that each rank has the gradient of its own. Collective.
    """
    if not part.is_shared:
        return 0.0
    terms = []
    for theta in part.parameters():
        ends = part.of_all_ranks(theta.detach()[[0, -1]])  # first and last layer of every rank, in order
        if rank > 0:
            terms.append(theta[0] - ends[2 * rank - 1])
        if 2 * rank + 2 < len(ends):
            terms.append(ends[2 * rank + 2] - theta[-1])
    return _half_sum_of_squares(terms) / part.dt


def _half_sum_of_squares(tensors: Iterable[Tensor]) -> Tensor:
    return 0.5 * torch.stack([tensor.square().sum() for tensor in tensors]).sum()
