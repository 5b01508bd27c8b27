"""Stacked tensors of this rank's layers with those of its halo, sliced as if they were one."""

import torch
from torch import Tensor

from lpgpu.mgrit.halo import HaloOf

__all__ = ["Extended", "HaloOf", "extended"]


class Extended:
    """`own` [n, ...] and `halo` [h, ...]: slices are views as long as they stay within `own`, else copies."""

    def __init__(self, own: Tensor, halo: Tensor) -> None:
        self.own = own
        self.halo = halo

    def __len__(self) -> int:
        return len(self.own) + len(self.halo)

    def __getitem__(self, layers: slice) -> Tensor:
        count = len(self.own)
        if layers.stop <= count:
            return self.own[layers]
        of_halo = range(layers.start, layers.stop, layers.step or 1)
        first = next((k for k in of_halo if k >= count), layers.stop)
        return torch.cat([self.own[layers], self.halo[first - count : layers.stop - count : layers.step]])

    def is_inference(self) -> bool:
        """As this rank's own."""
        return self.own.is_inference()

    @property
    def requires_grad(self) -> bool:
        """As this rank's own."""
        return self.own.requires_grad

    @property
    def _version(self) -> int:
        return self.own._version


def extended(own: Tensor, halo_of: HaloOf) -> Tensor:
    """`own` with its halo, which stands for a tensor where layers are sliced; one that has it already keeps it."""
    return own if isinstance(own, Extended) else Extended(own, halo_of(own))  # pyright: ignore[reportReturnType]
