"""Δ-correction of a coarse operator (Vargas et al. 2022, arXiv:2208.12629), by Jacobian diagonals.

    Φ_c(v) + Δ_K ⊙ (v − u_{Km}),   Δ_K = Π_j diag(∂Φ_j/∂u) − diag(∂Φ_c/∂u),   j over the m layers of interval K

At v = u_{Km} nothing changes, so FAS is as without; away from it the coarse operator follows the fine one more closely.
The factors of a deeper level are those of the operator it has: diag(∂Φ_j/∂u) + Δ_j.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Delta:
    """Δ_K, and the states u_{Km} it was taken at: both [layers of the coarse level, ...]."""

    values: Tensor
    anchors: Tensor

    def correct_(self, out: Tensor, layers: slice, u: Tensor) -> None:
        """out += Δ ⊙ (u − u_{Km}) for `layers`."""
        out.addcmul_(self.values[layers], u - self.anchors[layers])
