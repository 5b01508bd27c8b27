"""FAS arithmetic in plain PyTorch."""

import torch
from torch import Tensor


def residual_norm(phi: Tensor, u: Tensor) -> Tensor:
    """‖r‖₂² of r_K = Φ(u_{Km−1}) + g_{Km} − u_{Km} over all points and entries: a 0-d tensor on the states' device.

    Squared, so that ranks can add theirs up, and in fp64, where no square of fp32 under- or overflows.
    """
    return torch.linalg.vector_norm(phi - u, dtype=torch.float64).square()


def coarse_right_hand_side_(coarse_phi: Tensor, phi: Tensor) -> Tensor:
    """g^c_{K+1} = Φ(u_{(K+1)m−1}) + g_{(K+1)m} − Φ_c(u_{Km}), overwriting `coarse_phi`, which comes in as Φ_c(u_{Km}).

    The state itself is neither added nor subtracted: that would lose digits, and overflow in half precision.
    """
    return coarse_phi.neg_().add_(phi)
