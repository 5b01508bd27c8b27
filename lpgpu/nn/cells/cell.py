"""Cell: what a recurrent cell must offer for its sequence to be solved, beside the `Layers` of its steps."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lpgpu.nn.frozen_draws import Draws
from lpgpu.nn.propagators import Layers


@dataclass(frozen=True)
class Masks:
    """What is special about steps, in the order they are marched; None: nothing.

    `padded` [T, B, 1]: past a sequence's end, where the state is passed on. `resets` [T or more, B, 1]: where a new
    sequence begins, so that the state that arrives counts as zero; the rows beyond T are those of ranks further on.
    """

    padded: Tensor | None = None
    resets: Tensor | None = None


class Cell(ABC):
    """h_{k+1} = cell(x_k, h_k): one layer of a recurrent network in one direction, in one call.

    `weights` are the tensors, beside the inputs, that gradients are wanted of. `module` is what a step calls; None: it
    is a formula of the weights. `may_draw`: a step may draw random numbers; `draws`, and `first`, which step of the
    whole sequence the first one is, are set before `layers` is called. So is `low`, the precision of products where
    autocast lowers it; what arrives has been made of the dtype `states_in`.
    """

    weights: tuple[Tensor, ...]
    module: nn.Module | None = None
    may_draw = False
    draws: Draws | None = None
    first = 0
    low: torch.dtype | None = None

    def states_in(self, like: Tensor) -> torch.dtype:
        """What states are kept in where `low` is given, and those that come are like `like`."""
        return like.dtype

    def inputs(self, x: Tensor) -> Tensor:
        """What the steps need of the inputs `x` [T, B, ...], computed for all at once by autograd: [T, B, ...]."""
        return x

    @abstractmethod
    def layers(self, x: Tensor, *weights: Tensor) -> Layers:
        """The steps as layers, of `inputs(…)` and `weights`."""

    def gradients(self, h: Tensor, of_steps: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Those of the inputs [T, B, ...] and of the weights, from what the layers' `parameter_gradients` give.

        `h` [T + 1, B, ...] are the states. As they are, where the layers' parameters are inputs and weights.
        """
        return of_steps

    @abstractmethod
    def plain(self, x: Tensor, h_0: Tensor, *weights: Tensor) -> Tensor:
        """h_1 … h_T [T, B, ...] in plain PyTorch, step after step."""

    def output(self, h: Tensor) -> Tensor:
        """What the network returns of the states [T, B, ...]."""
        return h
