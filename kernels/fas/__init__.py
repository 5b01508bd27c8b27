"""The arithmetic of the full approximation scheme, on the C-points of one level.

Shapes: C points by any state shape, `[C, ...]`. `phi` is Φ(u) + g at the C-points, from the F-point before each.
"""

from lpgpu.kernels.fas.reference import coarse_right_hand_side_, residual_norm

__all__ = ["coarse_right_hand_side_", "residual_norm"]
