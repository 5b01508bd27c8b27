"""A pre-norm transformer's block, in plain PyTorch that `torch.vmap` batches over the layers on any device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TransformerBlock(nn.Module):
    """u + f, f = attention(norm(u)), then v + mlp(norm(v)): for `LayerParallel(..., form="residual")`.

    States are [batch, tokens, width]. Initialised as GPT-2: weights normal with 0.02, those that end a branch over
    √(2 layers), biases zero. Attention is written out, since PyTorch's fused one is not batched over layers on a CPU.

    Args:
        width, heads: of the states, and how many attention heads share it.
        layers: of the whole network, for the initialisation.
        causal: a token sees itself and those before it.
        dropout: of scores and of both branches, in training.

    Raises:
        ValueError: when heads do not divide the width.

    >>> TransformerBlock(8, 2, layers=12)(torch.zeros(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, width: int, heads: int, *, layers: int, causal: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads is {heads}, width {width}; expected a number of heads that divides the width")
        self.heads = heads
        self.causal = causal
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.qkv, self.up, self.project, self.down):
            ends_branch = linear in (self.project, self.down)
            nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * layers) if ends_branch else 0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, u: Tensor) -> Tensor:
        """The next state, like `u` [batch, tokens, width]."""
        v = u + self.dropout(self.project(self._attended(self.norm_attention(u))))
        return v + self.dropout(self.down(F.gelu(self.up(self.norm_mlp(v)))))

    def _attended(self, u: Tensor) -> Tensor:
        q_BHTD, k_BHTD, v_BHTD = (
            part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in self.qkv(u).chunk(3, -1)
        )
        scores_BHTT = q_BHTD @ k_BHTD.transpose(-2, -1) / math.sqrt(q_BHTD.shape[-1])
        if self.causal:
            past = torch.ones(scores_BHTT.shape[-2:], dtype=torch.bool, device=u.device).tril()
            scores_BHTT = scores_BHTT.masked_fill(~past, -math.inf)
        return (self.dropout(scores_BHTT.softmax(-1)) @ v_BHTD).transpose(-3, -2).flatten(-2)
