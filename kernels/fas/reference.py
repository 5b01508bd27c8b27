"""FAS arithmetic in plain PyTorch."""

import torch
from torch import Tensor


def residual_norm(phi: Tensor, u: Tensor) -> Tensor:
    """‖φ − u‖², in fp64: a 0-d tensor on the states' device."""
    return torch.linalg.vector_norm(phi - u, dtype=torch.float64).square()


def coarse_right_hand_side_(coarse_phi: Tensor, phi: Tensor) -> Tensor:
    """coarse_phi becomes φ − coarse_phi."""
    return coarse_phi.neg_().add_(phi)
