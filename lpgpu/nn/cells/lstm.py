"""The LSTM's cell (Hochreiter & Schmidhuber 1997), as torch.nn.LSTM has it, with a projection or without.

    i, f, o = σ(…), g = tanh(…) of W_i x + b_i + W_h h + b_h,   c⁺ = f ⊙ c + i ⊙ g,   h⁺ = W_r (o ⊙ tanh c⁺)

Over m steps with the gates frozen at their first values the memory decays exactly:

    c⁺ = f^m ⊙ c + (1 + f + … + f^{m−1}) ⊙ i ⊙ g
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.nn.cells.cell import Masks
from lpgpu.nn.cells.vmapped import VmappedCell


class LSTMCell(VmappedCell):
    """States (h, c) side by side, [B, P + H].

    `of_input` are W_i [4H, F] and b_i [4H] or None; `named` holds "weight_hh" [4H, P] and, where they are, "bias_hh"
    [4H] and "weight_hr" [P, H].
    """

    def __init__(self, of_input: tuple[Tensor, Tensor | None], named: dict[str, Tensor], masks: Masks) -> None:
        self.of_input = of_input
        self.names = tuple(named)
        self.weights = tuple(named.values())
        self.masks = masks
        self.projected = named["weight_hh"].shape[1]

    def inputs(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.of_input)

    def output(self, h: Tensor) -> Tensor:
        return h[..., : self.projected].contiguous()

    def step(self, x: Tensor, h: Tensor, weights: Sequence[Tensor], spans: int) -> Tensor:
        named = dict(zip(self.names, weights, strict=True))
        h, c = h[..., : self.projected], h[..., self.projected :]
        i, f, g, o = (x + F.linear(h, named["weight_hh"], named.get("bias_hh"))).chunk(4, -1)
        decay, total = powers(torch.sigmoid(f), spans)
        c = decay * c + total * torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return torch.cat([h if "weight_hr" not in named else F.linear(h, named["weight_hr"]), c], -1)


def powers(a: Tensor, m: int) -> tuple[Tensor, Tensor | float]:
    """a^m and 1 + a + … + a^{m−1}, by doubling: exact at a = 1 too."""
    power, total = a, torch.ones_like(a)
    for bit in bin(m)[3:]:
        power, total = power * power, total * (1 + power)
        if bit == "1":
            power, total = power * a, 1 + a * total
    return power, total
