"""Blocks and networks that the tests of this room share: tiny, in fp64 where nothing else is said."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu import MGRIT, LayerParallel
from lpgpu.nn import DenseBlock

WIDTH = 4


class GatedStep(nn.Module):
    """form="step": u + Δt σ(a·u) tanh(W u), with a bare parameter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate = nn.Parameter(torch.randn(WIDTH))
        self.register_buffer("scale", torch.rand(WIDTH))

    def forward(self, dt: float, u: Tensor) -> Tensor:
        return u + dt * torch.sigmoid(self.gate * u) * torch.tanh(self.linear(u)) * self.scale


class Attention(nn.Module):
    """form="rhs" on [batch, tokens, WIDTH]: an attention head behind a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, u: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(u)).chunk(3, dim=-1)
        return torch.softmax(q @ k.transpose(-2, -1) / WIDTH**0.5, dim=-1) @ v


class MaskedAttention(nn.Module):
    """form="rhs" on [batch, tokens, WIDTH]: attention with a mask and a bias of its scores, from the call."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, u: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(u).chunk(3, dim=-1)
        scores = (q @ k.transpose(-2, -1)).masked_fill(~mask, -torch.inf)
        return torch.softmax(scores if bias is None else scores + bias, dim=-1) @ v


class Pendulum(nn.Module):
    """form="rhs" without parameters."""

    def forward(self, u: Tensor) -> Tensor:
        return torch.sin(u.roll(1, -1))


def mlp() -> nn.Module:
    """form="rhs": two linear layers."""
    return nn.Sequential(nn.Linear(WIDTH, 6), nn.Tanh(), nn.Linear(6, WIDTH))


def normed_convolution() -> nn.Module:
    """form="rhs" on images [batch, 4, y, x]."""
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU())


BLOCKS: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...]]] = {
    "dense": (lambda: DenseBlock(WIDTH), "rhs", (3, WIDTH)),
    "two linear layers": (mlp, "rhs", (3, WIDTH)),
    "step with gate and buffer": (GatedStep, "step", (2, WIDTH)),
    "attention": (Attention, "rhs", (2, 3, WIDTH)),
    "no parameters": (Pendulum, "rhs", (2, 3)),
    "normed convolution": (normed_convolution, "rhs", (2, 4, 3, 3)),
}
"""Name → block, form, shape of the input."""


def network(
    block: Callable[[], nn.Module] = lambda: DenseBlock(WIDTH),
    num_steps: int = 18,
    *,
    dtype: torch.dtype = torch.float64,
    solver: MGRIT | None = None,
    Tf: float = 1.0,
    **options: Any,
) -> LayerParallel:
    """A LayerParallel network; the default solver stays inexact at this depth."""
    return LayerParallel(None, block, num_steps, Tf, solver=solver, **options).to(dtype)


def exactly(num_steps: int = 18, **options: Any) -> MGRIT:
    """MGRIT with so many cycles that it is serial propagation to rounding."""
    return MGRIT(iterations=num_steps // 8 + 1, adjoint_iterations=num_steps // 8 + 1, **options)


def inputs(*shape: int, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> Tensor:
    """Fresh random states."""
    return torch.randn(*(shape or (3, WIDTH)), dtype=dtype).requires_grad_(requires_grad)
