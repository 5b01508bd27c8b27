"""One step of a GRU on many time steps at once: implicit (Moon & Cyr 2022) or classic, in ODE form with step Δt.

    r, z = σ(x_r + W_hr h + b_hr), σ(x_z + W_hz h + b_hz);  q = W_hn h + b_hn;  n = tanh(x_n + r ⊙ q);  d = Δt (1 − z)
    implicit: h⁺ = (h + d ⊙ n) / (1 + d)        classic: h⁺ = h + d ⊙ (n − h), torch.nn.GRU's cell at Δt = 1

Shapes: K steps, B batch rows, H units, gates in the order r, z, n: `h_KBH`; `x_KBG` = W_i x + b_i with G = 3H, made
beforehand for all steps by one product; `w_GH`, `b_G` (or None) shared by all steps. Where x_z is +∞, z is exactly 1
and h⁺ exactly h: that is how a step past a sequence's end is skipped.

The adjoint is linear in λ once its coefficients are known (`Coefficients`); they are taken for many steps in one pass.
"""

from lpgpu.kernels.implicit_gru.reference import (
    FORMULATIONS,
    Coefficients,
    Gates,
    advance,
    coefficients,
    diagonal,
    gate_gradients,
    vjp,
)

__all__ = ["FORMULATIONS", "Coefficients", "Gates", "advance", "coefficients", "diagonal", "gate_gradients", "vjp"]
