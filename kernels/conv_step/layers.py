"""What the convolutional step is made of: the convolutions of its layers, and what is saved of them for the adjoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, overload

import torch
from torch import Tensor

from lpgpu.kernels.picard import Runs


class Filter(NamedTuple):
    """One convolution of every layer: weights [K, C, C, 3, 3] and biases [K, C] or None.

    >>> Filter(torch.zeros(4, 2, 2, 3, 3), None).of_layers(slice(1, 3)).w.shape
    torch.Size([2, 2, 2, 3, 3])
    """

    w: Tensor
    b: Tensor | None

    def layer(self, k: int) -> tuple[Tensor, Tensor | None]:
        """Weight [C, C, 3, 3] and bias [C] of layer k."""
        return self.w[k], None if self.b is None else self.b[k]

    def of_layers(self, layers: slice) -> "Filter":
        """The same convolution of some of the layers."""
        return Filter(self.w[layers], None if self.b is None else self.b[layers])

    def flat(self) -> "Filter":
        """Of runs of layers, [K, S, ...], those of all layers one after the other."""
        return Filter(self.w.flatten(0, 1), None if self.b is None else self.b.flatten(0, 1))

    def of_runs(self, runs: Runs) -> "Filter":
        """Those of some runs of layers, [K, S, ...]."""
        return Filter(runs.of(self.w), None if self.b is None else runs.of(self.b))


def packed(filters: list[Filter]) -> list[Filter]:
    """The same filters, on a GPU with the weights in the memory order [K, 3, 3, C in, C out], where they load fastest.

    A copy, to be made once for many steps; the shapes stay as they are.

    >>> [same] = packed([Filter(torch.zeros(4, 2, 2, 3, 3), None)])
    >>> same.w.shape
    torch.Size([4, 2, 2, 3, 3])
    """
    if all(each.w.device.type == "cpu" for each in filters):
        return filters
    return [Filter(w.permute(0, 3, 4, 2, 1).contiguous().permute(0, 4, 3, 1, 2), b) for w, b in filters]


@dataclass(frozen=True)
class Saved:
    """What the adjoint needs to know of K layers: `by_convolution[i][k]`, [B, C, Y, X], of convolution i in layer k.

    The fused kernels write one tensor [K, B, C, Y, X] for each convolution; the reference lists K tensors, and is
    spared a copy. As a sequence it is one over the layers: the length is K, a slice keeps what is of some of them.

    >>> saved = Saved([torch.zeros(4, 1, 2, 5, 5)])
    >>> len(saved), len(saved[1:3])
    (4, 2)
    """

    by_convolution: Sequence[Tensor | list[Tensor]] = ()

    SCHEMA: ClassVar[str] = "Tensor[]"

    def as_operand(self) -> list[Tensor]:
        """As operators of torch take it."""
        return self.stacked()

    @classmethod
    def of_operand(cls, stacked: Sequence[Tensor]) -> "Saved":
        """What `as_operand` gave."""
        return cls(stacked)

    def tensors(self) -> list[Tensor]:
        """All tensors."""
        return [t for each in self.by_convolution for t in ([each] if isinstance(each, Tensor) else each)]

    def __len__(self) -> int:
        return len(self.by_convolution[0]) if self.by_convolution else 0

    @overload
    def __getitem__(self, k: int) -> list[Tensor]: ...
    @overload
    def __getitem__(self, k: slice) -> "Saved": ...
    def __getitem__(self, k: int | slice) -> "list[Tensor] | Saved":
        if isinstance(k, slice):
            return Saved([each[k] for each in self.by_convolution])
        return [each[k] for each in self.by_convolution]

    def stacked(self) -> list[Tensor]:
        """One tensor [K, B, C, Y, X] for each convolution."""
        return [each if isinstance(each, Tensor) else torch.stack(each) for each in self.by_convolution]
