"""Checks of what a recurrent network is told of its sequences."""

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lpgpu.nn.checks import check_ordinary
from lpgpu.nn.layout import Layout

_SHOWN = 8
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_tensor(name: str, x: Any, weight: Tensor | None) -> None:
    """Refuse what is no dense, finite tensor of the dtype and on the device of the weights.

    Raises:
        TypeError, ValueError: saying what came and what was expected.
        NotImplementedError: inside a transform of torch.func.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is {type(x).__name__}; expected a tensor")
    check_ordinary(name, x, weight)
    if weight is not None and (x.dtype != weight.dtype or x.device != weight.device):
        raise ValueError(
            f"{name} is {x.dtype} on {x.device}, the weights are {weight.dtype} on {weight.device}; convert one of "
            "them with .to(...)"
        )
    if x.device.type == "cpu" and x.dtype.is_floating_point and not torch.isfinite(x).all():
        raise ValueError(f"{name} has entries that are NaN or infinite; expected finite numbers")


def fact_of_input(x: Tensor, *, batch_first: bool) -> str:
    """What must be the same on every rank of an input, of which each has its own steps."""
    sizes: list[Any] = list(x.shape)
    sizes[1 if batch_first and len(sizes) > 2 else 0] = "time"
    return f"{x.dtype} {sizes}"


def fact_of_argument(value: Any, *, wait: bool) -> str:
    """What must be the same on every rank of lengths, resets or states to start from, which all pass alike.

    A few values are shown, many by a digest of their bytes. `wait`: also of tensors on a GPU, for which it then waits.
    """

    def shown(leaf: Any) -> str:
        if not isinstance(leaf, Tensor) or leaf.is_meta:
            return str(leaf)
        fact = f"{leaf.dtype} {tuple(leaf.shape)}"
        if leaf.device.type != "cpu" and not wait:
            return fact
        if leaf.numel() <= _SHOWN:
            return f"{fact} {leaf.tolist()}"
        values = leaf.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        return f"{fact}, values of digest {hashlib.sha256(values.tobytes()).hexdigest()[:12]}"

    return ", ".join(map(shown, tree_leaves(value)))


def checked_lengths(lengths: Any, steps: int, x: Tensor) -> Tensor:
    """`lengths` [B] on the device of `x` [T, B, ...], where they fit its batch and the sequence's steps.

    Nothing waits for a GPU: lengths that are there already are looked at there, and those that do not fit stop it.

    Raises:
        ValueError: where they do not.
    """
    batch = x.shape[1]
    lengths = torch.as_tensor(lengths)
    check_ordinary("lengths", lengths, None)
    if lengths.dtype not in _INTEGERS or lengths.shape != (batch,):
        raise ValueError(f"lengths is {lengths.dtype} {tuple(lengths.shape)}; expected integers, ({batch},)")
    if lengths.device.type != "cpu":
        torch._assert_async(((lengths >= 1) & (lengths <= steps)).all(), f"lengths exceed 1 to {steps}")
    elif batch and (int(lengths.min()) < 1 or int(lengths.max()) > steps):
        raise ValueError(f"lengths go from {int(lengths.min())} to {int(lengths.max())}; expected 1 to {steps}")
    return lengths.to(x.device, torch.int64, non_blocking=True)


def checked_resets(resets: Any, steps: int, x: Tensor, layout: Layout) -> Tensor:
    """`resets` as boolean [steps, B] on the device of `x` [T, B, ...], of an input that came as `layout` says.

    Raises:
        TypeError, ValueError: where they are no dense boolean tensor of all steps and the batch.
    """
    if not isinstance(resets, Tensor):
        raise TypeError(f"resets is {type(resets).__name__}; expected a boolean tensor")
    check_ordinary("resets", resets, None)
    expected = (x.shape[1], steps) if layout.batch_first else (steps, x.shape[1])
    if not layout.batched:
        expected = (steps,)
    if resets.dtype != torch.bool or tuple(resets.shape) != expected:
        raise ValueError(f"resets is {resets.dtype} {tuple(resets.shape)}; expected torch.bool {expected}")
    resets = resets.to(x.device)
    if not layout.batched:
        return resets[:, None]
    return resets.T if layout.batch_first else resets
