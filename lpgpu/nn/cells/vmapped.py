"""Cells without kernels: one step as a function, batched over the steps by `torch.func`."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from lpgpu.nn.block_precision import lowered
from lpgpu.nn.cells.cell import Cell, Masks
from lpgpu.nn.propagators.functional import FunctionalLayers, Named
from lpgpu.nn.propagators.resets import spanned


class VmappedCell(Cell):
    """A cell by its formula; states are [B, S]."""

    masks: Masks

    @abstractmethod
    def step(self, x: Tensor, h: Tensor, weights: Sequence[Tensor], spans: int) -> Tensor:
        """The state after one step of input `x`, [B, S]; or, about, after `spans` steps of which `x` is the first."""

    def layers(self, x: Tensor, *weights: Tensor) -> "CellLayers":
        masks = {"padded": self.masks.padded, "resets": self.masks.resets}
        present = {name: mask for name, mask in masks.items() if mask is not None}
        return CellLayers(self._phi, {"x": x}, present, weights, draws=self.draws, first=self.first)

    def plain(self, x: Tensor, h_0: Tensor, *weights: Tensor) -> Tensor:
        layers, h, states = self.layers(x, *weights), h_0[None], []
        for k in range(len(x)):
            h = layers.differentiable(slice(k, k + 1), h)
            states.append(h)
        return torch.cat(states)

    def _phi(self, theta: Named, masks: Named, weights: Sequence[Tensor], dt: float, spans: int, h: Tensor) -> Tensor:
        """One layer, with its masks."""
        resets, padded = masks.get("resets"), masks.get("padded")
        arriving = h if resets is None else torch.where(resets, 0, h)
        stepped = lowered(self.step, self.low, h)(theta["x"], arriving, weights, spans)
        return stepped if padded is None else torch.where(padded, h, stepped)


class CellLayers(FunctionalLayers):
    """The steps of a cell. On a coarser level a step begins a new sequence where any of those that it spans does."""

    preferred = ("rediscretised", 1)  # a cell has a coarse step of its own; sums of its increments overshoot

    def coarsened(self, m: int) -> Self:
        coarse = super().coarsened(m)
        if (resets := self.constants.get("resets")) is not None:
            coarse.constants = {**self.constants, "resets": spanned(resets, m)}
        return coarse
