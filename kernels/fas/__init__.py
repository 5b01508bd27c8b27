"""The arithmetic of the full approximation scheme, on the C-points of one level.

Shapes: C points by any state shape, `[C, ...]`. `phi` is Φ(u) + g at the C-points, from the F-point before each.
`operators` has the same functions without a check. The correction u_{Km} ← u_{Km} + (v_K − u_{Km}) is a copy of v_K.
"""

from torch import Tensor

from lpgpu.kernels.checks import check_tensors
from lpgpu.kernels.fas import operators

__all__ = ["coarse_right_hand_side_", "residual_norm", "restrict_"]


def residual_norm(phi: Tensor, u: Tensor) -> Tensor:
    """‖r‖₂² of r_K = Φ(u_{Km−1}) + g_{Km} − u_{Km} over all points and entries: a 0-d tensor on the states' device.

    Squared, so that ranks can add theirs up, and in fp64, where no square of fp32 under- or overflows. The fused
    kernels read both once, and add in the same order every time.

    Raises:
        ValueError: for tensors that differ in shape, dtype or device.

    >>> import torch
    >>> residual_norm(torch.tensor([[3.0, 5.0]]), torch.tensor([[0.0, 1.0]])).item()
    25.0
    """
    check_tensors(phi, u=(u, phi.shape))
    return operators.residual_norm(phi, u)


def coarse_right_hand_side_(coarse_phi: Tensor, phi: Tensor) -> Tensor:
    """g^c_{K+1} = Φ(u_{(K+1)m−1}) + g_{(K+1)m} − Φ_c(u_{Km}), overwriting `coarse_phi`, which comes in as Φ_c(u_{Km}).

    The state itself is neither added nor subtracted: that would lose digits, and overflow in half precision.

    Raises:
        ValueError: for tensors that differ in shape, dtype or device.

    >>> import torch
    >>> coarse_right_hand_side_(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]])).tolist()
    [[2.0, 3.0]]
    """
    check_tensors(phi, coarse_phi=(coarse_phi, phi.shape))
    operators.coarse_right_hand_side_(coarse_phi, phi)
    return coarse_phi


def restrict_(coarse_phi: Tensor, phi: Tensor, u: Tensor, first: int = 0) -> Tensor:
    """Take the residual's squared norm, and turn `coarse_phi` into the coarse right-hand side, in one pass.

    The norm is `residual_norm(phi[: len(u)], u)`; coarse_phi_K becomes φ_{first + K} − coarse_phi_K. On ranks that
    share intervals φ may have points that u has not, and points that the coarse level has not.

    Raises:
        ValueError: for tensors that differ in state shape, dtype or device, or points that φ has not.

    >>> import torch
    >>> coarse_phi = torch.tensor([[1.0, 2.0]])
    >>> restrict_(coarse_phi, torch.tensor([[3.0, 5.0]]), torch.tensor([[0.0, 1.0]])).item(), coarse_phi.tolist()
    (25.0, [[2.0, 3.0]])
    """
    state = phi.shape[1:]
    check_tensors(phi, u=(u, (min(len(u), len(phi)), *state)))
    check_tensors(phi, coarse_phi=(coarse_phi, (max(0, min(len(coarse_phi), len(phi) - first)), *state)))
    if first < 0:
        raise ValueError(f"first is {first}; expected 0 or more")
    return operators.restrict_(phi, u, coarse_phi, first)
