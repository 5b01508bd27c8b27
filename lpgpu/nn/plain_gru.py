"""The GRU of both formulations in plain PyTorch, step after step: differentiable as often as wanted."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gru_states(x: Tensor, h: Tensor, w: Tensor, b: Tensor | None, dt: float, formulation: str) -> Tensor:
    """h_1 … h_T [T, B, H] from h_0 = `h` [B, H] and the inputs' products `x` [T, B, 3H]; W [3H, H], b [3H] or None."""
    states = []
    for x_BG in x:
        h = gru_cell(x_BG, h, w, b, dt, formulation)
        states.append(h)
    return torch.stack(states)


def gru_cell(x_BG: Tensor, h: Tensor, w: Tensor, b: Tensor | None, dt: float, formulation: str) -> Tensor:
    """h⁺ = (h + d ⊙ n)/(1 + d) (implicit) or h + d ⊙ (n − h) (classic), d = Δt (1 − z)."""
    x_r, x_z, x_n = x_BG.chunk(3, -1)
    y_r, y_z, q = F.linear(h, w, b).chunk(3, -1)
    r, z = torch.sigmoid(x_r + y_r), torch.sigmoid(x_z + y_z)
    n = torch.tanh(x_n + r * q)
    d = dt * (1 - z)
    if formulation == "implicit":
        return (h + d * n) / (1 + d)
    return h + d * (n - h)
