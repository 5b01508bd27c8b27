"""What one call of a layer-parallel network adds to its weights."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lpgpu.nn.arguments import NO_ARGUMENTS, Arguments
from lpgpu.nn.frozen_draws import Draws
from lpgpu.nn.packing import Packing


@dataclass
class Returned:
    """What blocks return beside the next state: nothing (None), or a tuple that begins with it and holds no tensor."""

    rest: tuple[Any, ...] | None = None

    def like(self, y: Any) -> Any:
        """`y` as a block would have returned it."""
        return y if self.rest is None else (y, *self.rest)


@dataclass(frozen=True)
class Call:
    """Arguments, random draws, which `layers` are here, and how the state and what a block returns look from outside.

    `packing` is that of a state of several tensors; None: of one. `rows` are those of these layers in what the block
    has stacked here. `block_dtype`: what blocks compute in; `autocast`: the same where they have no kernels.
    """

    arguments: Arguments = NO_ARGUMENTS
    layers: range = range(0)
    rows: slice = field(default_factory=lambda: slice(None))
    block_dtype: torch.dtype | None = None
    autocast: torch.dtype | None = None
    draws: Draws | None = None
    packing: Packing | None = None
    returned: Returned = field(default_factory=Returned)

    def index(self, like: Tensor) -> Tensor:
        """k of each layer here, [layers], on the device of `like`."""
        return torch.arange(self.layers.start, self.layers.stop, device=like.device)

    def times(self, dt: float, like: Tensor) -> Tensor:
        """t_k = k Δt at the start of each layer here, [layers]."""
        return dt * self.index(like).to(like.dtype)

    def opened(self, u: Tensor) -> Any:
        """The state as blocks take it."""
        return u if self.packing is None else self.packing.unpack(u)

    def closed(self, out: Any, u: Tensor, *, may_have_more: bool) -> Tensor:
        """What a block returned for the state `u`, as one tensor like `u`.

        `may_have_more`: it may be a tuple that begins with the next state, as the blocks of many libraries return.

        Raises:
            TypeError, ValueError: where it is no state like `u`.
        """
        if self.packing is not None:
            return self.packing.pack(out)
        if may_have_more and isinstance(out, tuple) and out:
            out, *rest = out
            self._keep(tuple(rest))
        return _checked_like(out, u)

    def _keep(self, rest: tuple[Any, ...]) -> None:
        further = [type(each).__name__ for each in rest if each is not None]
        if further:
            raise ValueError(
                f"the block returns {', '.join(further)} beside the next state, which cannot leave a solve; turn off "
                "what asks for it, such as use_cache and output_attentions"
            )
        self.returned.rest = rest


def _checked_like(out: object, u: Tensor) -> Tensor:
    if not isinstance(out, Tensor):
        raise TypeError(f"the block returned {type(out).__name__}; expected a tensor")
    for what in ("shape", "dtype", "device"):
        came, expected = getattr(out, what), getattr(u, what)
        if came != expected:
            came, expected = (tuple(came), tuple(expected)) if what == "shape" else (came, expected)
            raise ValueError(
                f"the block changes the state's {what} from {expected} to {came}; every layer must keep it"
            )
    return out
