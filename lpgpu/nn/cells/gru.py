"""The GRU's cell: by the operation `lpgpu.kernels.implicit_gru`, and by its formula for what that cannot do."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.kernels.dispatch import could_fuse
from lpgpu.nn.block_precision import products_in
from lpgpu.nn.cells.cell import Cell, Masks
from lpgpu.nn.cells.lstm import powers
from lpgpu.nn.cells.vmapped import VmappedCell
from lpgpu.nn.plain_gru import gru_states, past_the_end
from lpgpu.nn.propagators import Layers
from lpgpu.nn.propagators.gru import GRULayers
from lpgpu.nn.propagators.resets import arriving


class GRUCell(Cell):
    """The implicit or the classic GRU, with gates in the order r, z, n.

    `of_input` are W_i [3H, F] and b_i [3H] or None, `weights` W_h [3H, H] and b_h [3H], or W_h alone.
    """

    def __init__(
        self,
        of_input: tuple[Tensor, Tensor | None],
        weights: tuple[Tensor, ...],
        *,
        dt: float,
        formulation: str,
        masks: Masks,
    ) -> None:
        self.of_input = of_input
        self.weights = weights
        self.dt = dt
        self.formulation = formulation
        self.masks = masks

    def inputs(self, x: Tensor) -> Tensor:
        products = F.linear(x, *self.of_input)
        return products if self.masks.padded is None else past_the_end(products, self.masks.padded)

    def states_in(self, like: Tensor) -> torch.dtype:
        """On a GPU in that of products, as the fused kernels take tensors of one dtype."""
        return self.low if self.low is not None and could_fuse(like) else like.dtype

    def layers(self, x: Tensor, *weights: Tensor) -> Layers:
        w, b = _pair(tuple(each.detach().to(self.low or each.dtype) for each in weights))
        return GRULayers(x.detach(), w, b, self.formulation, self.dt, self.masks.resets)

    def gradients(self, h: Tensor, of_steps: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        dx, dq = of_steps
        if dx is None or dq is None:
            raise ValueError("the gradients of the gates were not taken")
        dy = dx.flatten(0, 1).clone()  # W h + b enters the gates r and z as x does, but n through q
        dy[:, 2 * dq.shape[-1] :] = dq.flatten(0, 1)
        sources = arriving(h[:-1], None if self.masks.resets is None else self.masks.resets[: len(dx)])
        dw = dy.T @ sources.flatten(0, 1)
        return dx, *(dw, dy.sum(0))[: len(self.weights)]

    def plain(self, x: Tensor, h_0: Tensor, *weights: Tensor) -> Tensor:
        with products_in(self.low, x.device.type):
            return gru_states(x, h_0, *_pair(weights), self.dt, self.formulation, self.masks.resets)


class FrozenGatesGRUCell(VmappedCell):
    """The classic GRU in plain PyTorch; over m steps, with the gates frozen at their first values,

        h⁺ = z^m ⊙ h + (1 − z^m) ⊙ n

    `named` holds "weight_hh" [3H, H] and, where there is one, "bias_hh" [3H].
    """

    def __init__(self, of_input: tuple[Tensor, Tensor | None], named: dict[str, Tensor], masks: Masks) -> None:
        self.of_input = of_input
        self.weights = tuple(named.values())
        self.masks = masks

    def inputs(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.of_input)

    def step(self, x: Tensor, h: Tensor, weights: Sequence[Tensor], spans: int) -> Tensor:
        x_r, x_z, x_n = x.chunk(3, -1)
        y_r, y_z, q = F.linear(h, *_pair(tuple(weights))).chunk(3, -1)
        decay, _ = powers(torch.sigmoid(x_z + y_z), spans)
        n = torch.tanh(x_n + torch.sigmoid(x_r + y_r) * q)
        return n + decay * (h - n)


def _pair(weights: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    return weights[0], weights[1] if len(weights) > 1 else None
