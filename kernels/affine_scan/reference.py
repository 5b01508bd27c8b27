"""The affine scan in plain PyTorch: one step after the other, or one cumulative sum where D = 1."""

from torch import Tensor


def affine_scan(v: Tensor, phi: Tensor, anchors: Tensor, decay: Tensor | None, reverse: bool) -> None:
    """Fill `v` from its first state, or its last; see the package."""
    if decay is None:
        change = phi - anchors
        if reverse:
            v[:, :-1] = change.flip(1).cumsum(1).flip(1).add_(v[:, -1:])
        else:
            v[:, 1:] = change.cumsum(1).add_(v[:, :1])
        return
    steps = phi.shape[1]
    for j in range(steps)[:: -1 if reverse else 1]:
        source, target = (j + 1, j) if reverse else (j, j + 1)
        v[:, target] = (v[:, source] - anchors[:, j]).mul_(decay[:, j]).add_(phi[:, j])
