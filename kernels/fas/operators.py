"""The functions of the FAS arithmetic, unchecked; see the package."""

import torch
from torch import Tensor

from lpgpu.kernels.fas import reference
from lpgpu.kernels.operation import Operation


def _norm_of(phi: Tensor, u: Tensor, coarse_phi: Tensor | None = None, first: int = 0) -> Tensor:
    return phi.new_empty((), dtype=torch.float64)


residual_norm = Operation(reference.residual_norm, fake=_norm_of)
coarse_right_hand_side_ = Operation(reference.coarse_right_hand_side_, mutates=("coarse_phi",))
restrict_ = Operation(reference.restrict_, mutates=("coarse_phi",), fake=_norm_of)
