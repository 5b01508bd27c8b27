"""Penalties on the weights of an ODE network.

Tikhonov:          γ/2 Σ ‖θ‖²
depth smoothness:  γ/2 Σ_k ‖θ_{k+1} − θ_k‖² / Δt,   which asks the weights θ(t) to be smooth in the layers' time
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def tikhonov(parameters: Iterable[Tensor]) -> Tensor:
    """½ Σ ‖θ‖² over all parameters, a scalar."""
    return _half_sum_of_squares(parameters)


def depth_smoothness(stacked: Iterable[Tensor], dt: float) -> Tensor:
    """½ Σ_k ‖θ_{k+1} − θ_k‖² / Δt for parameters stacked `[layers, ...]`, a scalar; zero for a single layer."""
    return _half_sum_of_squares(theta.diff(dim=0) for theta in stacked) / dt


def _half_sum_of_squares(tensors: Iterable[Tensor]) -> Tensor:
    return 0.5 * torch.stack([tensor.square().sum() for tensor in tensors]).sum()
