"""The arithmetic of the full approximation scheme, on the C-points of one level.

Shapes: C points by any state shape, `[C, ...]`. `phi` is Φ(u) + g at the C-points, from the F-point before each.
"""

import torch
from torch import Tensor

from lpgpu.kernels.checks import check_tensors
from lpgpu.kernels.dispatch import is_fused
from lpgpu.kernels.fas import reference
from lpgpu.kernels.layout import refusal

__all__ = ["coarse_right_hand_side_", "correct_", "residual_norm", "restrict_"]


def residual_norm(phi: Tensor, u: Tensor) -> Tensor:
    """‖r‖₂² of r_K = Φ(u_{Km−1}) + g_{Km} − u_{Km} over all points and entries: a 0-d tensor on the states' device.

    Squared, so that ranks can add theirs up, and in fp64, where no square of fp32 under- or overflows. The fused
    kernels read both once, and add in the same order every time.

    Raises:
        ValueError: for tensors that differ in shape, dtype or device.
    """
    check_tensors(phi, u=(u, phi.shape))
    return (_residual_norm if torch.compiler.is_compiling() else _run_residual_norm)(phi, u)


def coarse_right_hand_side_(coarse_phi: Tensor, phi: Tensor) -> Tensor:
    """g^c_{K+1} = Φ(u_{(K+1)m−1}) + g_{(K+1)m} − Φ_c(u_{Km}), overwriting `coarse_phi`, which comes in as Φ_c(u_{Km}).

    The state itself is neither added nor subtracted: that would lose digits, and overflow in half precision.

    Raises:
        ValueError: for tensors that differ in shape, dtype or device.
    """
    check_tensors(phi, coarse_phi=(coarse_phi, phi.shape))
    (_right_hand_side if torch.compiler.is_compiling() else _run_right_hand_side)(coarse_phi, phi)
    return coarse_phi


def restrict_(coarse_phi: Tensor, phi: Tensor, u: Tensor) -> Tensor:
    """`residual_norm(phi, u)`, and `coarse_right_hand_side_(coarse_phi, phi[: len(coarse_phi)])`, in one pass.

    Raises:
        ValueError: for tensors that differ in state shape, dtype or device, or more coarse points than there are fine.
    """
    layers = min(len(coarse_phi), len(phi))
    check_tensors(phi, u=(u, phi.shape), coarse_phi=(coarse_phi, (layers, *phi.shape[1:])))
    return (_restrict if torch.compiler.is_compiling() else _run_restrict)(coarse_phi, phi, u)


def correct_(u: Tensor, v: Tensor) -> Tensor:
    """u_{Km} ← u_{Km} + (v_K − u_{Km}), which is v_K: one copy, the same on every backend.

    Raises:
        ValueError: for tensors that differ in shape, dtype or device.
    """
    check_tensors(u, v=(v, u.shape))
    return u.copy_(v)


def _run_residual_norm(phi: Tensor, u: Tensor) -> Tensor:
    if is_fused("fas.residual_norm", phi, refusal(phi, u)):
        from lpgpu.kernels.fas import fused

        return fused.residual_norm(phi, u)
    return reference.residual_norm(phi, u)


def _run_right_hand_side(coarse_phi: Tensor, phi: Tensor) -> None:
    if is_fused("fas.coarse_right_hand_side", phi, refusal(phi, coarse_phi)):
        from lpgpu.kernels.fas import fused

        fused.coarse_right_hand_side_(coarse_phi, phi)
    else:
        reference.coarse_right_hand_side_(coarse_phi, phi)


def _run_restrict(coarse_phi: Tensor, phi: Tensor, u: Tensor) -> Tensor:
    if is_fused("fas.restrict", phi, refusal(phi, u, coarse_phi)):
        from lpgpu.kernels.fas import fused

        return fused.residual_norm(phi, u, coarse_phi)
    reference.coarse_right_hand_side_(coarse_phi, phi[: len(coarse_phi)])
    return reference.residual_norm(phi, u)


_residual_norm = torch.library.custom_op("lpgpu::residual_norm", _run_residual_norm, mutates_args=())
_right_hand_side = torch.library.custom_op(
    "lpgpu::coarse_right_hand_side", _run_right_hand_side, mutates_args=("coarse_phi",)
)
_restrict = torch.library.custom_op("lpgpu::fas_restrict", _run_restrict, mutates_args=("coarse_phi",))


@_residual_norm.register_fake
def _(phi, u) -> Tensor:
    return phi.new_empty((), dtype=torch.float64)


@_right_hand_side.register_fake
def _(coarse_phi, phi) -> None: ...


@_restrict.register_fake
def _(coarse_phi, phi, u) -> Tensor:
    return phi.new_empty((), dtype=torch.float64)
