"""The affine scan v_{j+1} = φ_j + D_j ⊙ (v_j − a_j), over the steps of K independent intervals.

Shapes: K intervals of S steps, states of any shape: `v` [K, S + 1, ...], written but for the given end; `phi`, the
anchors a and D [K, S, ...], by step. In reverse v_j = φ_j + D_j ⊙ (v_{j+1} − a_j). This is what Picard iterations and
the linear coarse operator come down to. Fused, all steps are one launch.
"""

from torch import Tensor

from lpgpu.kernels.affine_scan import operators
from lpgpu.kernels.checks import check_tensors

__all__ = ["affine_scan"]


def affine_scan(v: Tensor, phi: Tensor, anchors: Tensor, decay: Tensor | None, *, reverse: bool = False) -> None:
    """Fill `v` from its first state (`reverse`: its last); `decay` is D, None for 1.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together.

    >>> import torch
    >>> v = torch.zeros(1, 4, 2)
    >>> affine_scan(v, torch.ones(1, 3, 2), torch.zeros(1, 3, 2), torch.full((1, 3, 2), 0.5))
    >>> v[0, :, 0].tolist()
    [0.0, 1.0, 1.5, 1.75]
    """
    steps = (v.shape[0], max(v.shape[1] - 1, 0), *v.shape[2:])
    check_tensors(v, phi=(phi, steps), anchors=(anchors, steps), decay=(decay, steps))
    operators.affine_scan(v, phi, anchors, decay, reverse)
