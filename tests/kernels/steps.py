"""Inputs for the tests of kernels: fresh, in several memory orders, with outputs that are NaN until written."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.kernels.operation import Operation

ETA = 0.1
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "silu": F.silu,
    "smooth_relu": lambda z: torch.where(z.abs() < ETA, z**2 / (4 * ETA) + z / 2 + ETA / 4, torch.relu(z)),
    "tanh": torch.tanh,
}
"""The formulas, term by term."""


def contiguous(t: Tensor) -> Tensor:
    return t.contiguous()


def batch_innermost(t: Tensor) -> Tensor:
    """Of dense states [K, B, H]: the batch is contiguous."""
    return t.transpose(1, 2).contiguous().transpose(1, 2)


def channels_last(t: Tensor) -> Tensor:
    """Of images [K, B, C, Y, X]: the channels are contiguous."""
    return t.movedim(2, -1).contiguous().movedim(-1, 2)


def every_third(t: Tensor) -> Tensor:
    """A strided slice of a larger tensor, as a sweep takes it; what lies between is NaN."""
    larger = t.new_full((3 * len(t), *t.shape[1:]), torch.nan)
    larger[1::3] = t
    return larger[1::3]


def poisoned_like(t: Tensor) -> Tensor:
    """NaN everywhere, in the same memory order and stride."""
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype).fill_(torch.nan)


def opcheck(operation: Operation, *args: Any, **options: Any) -> None:
    """What torch demands of the operator that stands for an operation's function."""
    torch.library.opcheck(operation.operator, tuple(operation.signature.flat(args)), **options)
