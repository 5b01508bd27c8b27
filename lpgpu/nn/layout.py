"""How the sequences of a call come in, and go out again: time or batch first, without a batch, or packed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


@dataclass(frozen=True)
class Layout:
    """How a call's input came.

    A packed batch is solved in its own order, the longest sequence first, as torch's recurrent networks do: `arranged`
    brings what else came into that order, `restored` brings it back.
    """

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
        in_its_order = PackedSequence(input.data, input.batch_sizes)
        padded, lengths = pad_packed_sequence(in_its_order, batch_first)
        return padded, lengths, cls(batch_first, True, input, lengths)

    def check(self, num_ranks: int) -> None:
        """Raise ValueError for a PackedSequence of which each of several ranks would have a part."""
        if self.packed is not None and num_ranks > 1:
            raise ValueError(
                f"input is a PackedSequence, but {num_ranks} ranks share the sequence; pass each rank's padded shard, "
                "and lengths=, those of the whole sequences"
            )

    def arranged(self, tensors: Sequence[Tensor], *, dim: int = 0) -> list[Tensor]:
        """Each with its batch, which is dimension `dim`, in the order in which it is solved."""
        return _selected(tensors, None if self.packed is None else self.packed.sorted_indices, dim)

    def restored(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each [B, ...] in the order in which the batch came."""
        return _selected(tensors, None if self.packed is None else self.packed.unsorted_indices, 0)

    def output(self, y: Tensor) -> Any:
        """`y` [T, B, ...] as the input came."""
        if not self.batched:
            return y.squeeze(1)
        if self.packed is None or self.lengths is None:
            return y.transpose(0, 1) if self.batch_first else y
        data = pack_padded_sequence(y, self.lengths).data
        like = self.packed
        return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)


def _selected(tensors: Sequence[Tensor], indices: Tensor | None, dim: int) -> list[Tensor]:
    return list(tensors) if indices is None else [torch.index_select(tensor, dim, indices) for tensor in tensors]
