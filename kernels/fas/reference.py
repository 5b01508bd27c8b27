"""FAS arithmetic in plain PyTorch."""

import torch
from torch import Tensor

PIECES = 8
"""In how many pieces a difference is taken, which is memory beside the states."""


def residual_norm(phi: Tensor, u: Tensor) -> Tensor:
    """‖φ − u‖², in fp64: a 0-d tensor on the states' device."""
    pieces = zip(phi.chunk(PIECES), u.chunk(PIECES), strict=True)
    return torch.stack([torch.linalg.vector_norm(p - q, dtype=torch.float64).square() for p, q in pieces]).sum()


def coarse_right_hand_side_(coarse_phi: Tensor, phi: Tensor) -> None:
    """coarse_phi becomes φ − coarse_phi."""
    coarse_phi.neg_().add_(phi)


def restrict_(phi: Tensor, u: Tensor, coarse_phi: Tensor, first: int) -> Tensor:
    """‖φ_k − u_k‖² over the points of u, and coarse_phi_K becomes φ_{first + K} − coarse_phi_K."""
    coarse_right_hand_side_(coarse_phi, phi[first : first + len(coarse_phi)])
    return residual_norm(phi[: len(u)], u)
