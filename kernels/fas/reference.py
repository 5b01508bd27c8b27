"""FAS arithmetic in plain PyTorch."""

import torch
from torch import Tensor


def residual_norm(phi: Tensor, u: Tensor) -> Tensor:
    """‖φ − u‖², in fp64: a 0-d tensor on the states' device."""
    return torch.linalg.vector_norm(phi - u, dtype=torch.float64).square()


def coarse_right_hand_side_(coarse_phi: Tensor, phi: Tensor) -> None:
    """coarse_phi becomes φ − coarse_phi."""
    coarse_phi.neg_().add_(phi)


def restrict_(phi: Tensor, u: Tensor, coarse_phi: Tensor, first: int) -> Tensor:
    """‖φ_k − u_k‖² over the points of u, and coarse_phi_K becomes φ_{first + K} − coarse_phi_K."""
    coarse_right_hand_side_(coarse_phi, phi[first : first + len(coarse_phi)])
    return residual_norm(phi[: len(u)], u)
