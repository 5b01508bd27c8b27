"""How sequences come in and go out, and checks of what a recurrent network is told of them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lpgpu.nn.checks import check_ordinary

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class Layout:
    """How a call's input came: batch first or second, without a batch, or packed."""

    batch_first: bool
    batched: bool = True
    packed: PackedSequence | None = None
    lengths: Tensor | None = None

    @classmethod
    def taken(cls, input: Any, lengths: Any, *, batch_first: bool) -> tuple[Any, Any, "Layout"]:
        """Input and lengths as they would have come padded, and how they came.

        Raises:
            ValueError: for lengths beside a PackedSequence.
        """
        if not isinstance(input, PackedSequence):
            return input, lengths, cls(batch_first)
        if lengths is not None:
            raise ValueError("lengths came with a PackedSequence, which has its own; expected only one of the two")
        padded, lengths = pad_packed_sequence(input, batch_first)
        lengths = lengths.to(padded.device)
        return padded, lengths, cls(batch_first, True, input, lengths)

    def output(self, y: Tensor) -> Any:
        """`y` [T, B, ...] as the input came."""
        if not self.batched:
            return y.squeeze(1)
        y = y.transpose(0, 1) if self.batch_first else y
        if self.packed is None or self.lengths is None:
            return y
        data = pack_padded_sequence(y, self.lengths.cpu(), self.batch_first, enforce_sorted=False).data
        like = self.packed
        return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)


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


def facts_of_sequence(x: Tensor, lengths: Any, *, batch_first: bool) -> dict[str, object]:
    """What must be the same on every rank of an input, of which each has its own steps."""
    sizes: list[Any] = list(x.shape)
    sizes[1 if batch_first and len(sizes) > 2 else 0] = "time"
    return {
        "input": f"{x.dtype} {sizes}",
        "lengths": lengths.tolist() if isinstance(lengths, Tensor) else lengths,
    }


def checked_lengths(lengths: Any, steps: int, x: Tensor) -> Tensor:
    """`lengths` [B] on the device of `x` [T, B, ...], where they fit its batch and the sequence's steps.

    Raises:
        ValueError: where they do not.
    """
    batch = x.shape[1]
    lengths = torch.as_tensor(lengths, device=x.device)
    if lengths.dtype not in _INTEGERS or lengths.shape != (batch,):
        raise ValueError(f"lengths is {lengths.dtype} {tuple(lengths.shape)}; expected integers, ({batch},)")
    if batch and (int(lengths.min()) < 1 or int(lengths.max()) > steps):
        raise ValueError(f"lengths go from {int(lengths.min())} to {int(lengths.max())}; expected 1 to {steps}")
    return lengths.long()


def checked_resets(resets: Any, steps: int, x: Tensor, *, batch_first: bool) -> Tensor:
    """`resets` as boolean [steps, B] on the device of `x` [T, B, ...].

    Raises:
        TypeError, ValueError: where they are no boolean tensor of all steps and the batch.
    """
    if not isinstance(resets, Tensor):
        raise TypeError(f"resets is {type(resets).__name__}; expected a boolean tensor")
    expected = (x.shape[1], steps) if batch_first else (steps, x.shape[1])
    if resets.dtype != torch.bool or tuple(resets.shape) != expected:
        raise ValueError(f"resets is {resets.dtype} {tuple(resets.shape)}; expected torch.bool {expected}")
    resets = resets.to(x.device)
    return resets.T if batch_first else resets
