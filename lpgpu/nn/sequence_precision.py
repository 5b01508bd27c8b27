"""The precision of a recurrent network's call under torch.autocast: of products, of arguments, of what it returns."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lpgpu.nn.arguments import with_tensors_mapped
from lpgpu.nn.block_precision import surrounding_autocast, taken_back

Returns = Literal["low", "like the state", "as it is"]
"""The dtype of results under autocast: autocast's; that too, but on a CPU the starting state's; that of the states."""


@dataclass(frozen=True)
class SequencePrecision:
    """`around`: the autocast around a call; `own`: the precision of the weights, both None without autocast.

    `low`: what products are computed in, None: in that of the weights. `results`: what is returned, None: as it is.
    """

    around: torch.dtype | None = None
    own: torch.dtype | None = None
    low: torch.dtype | None = None
    results: torch.dtype | None = None

    @classmethod
    def of_call(cls, weight: Tensor | None, returns: Returns, input: Any, hx: Any) -> Self:
        """That of a call with these arguments, not checked yet, of a network with this `weight`.

        As torch.nn's, a network of float64 or of half precision computes in that.
        """
        around = surrounding_autocast()
        if around is None or weight is None:
            return cls()
        if weight.dtype != torch.float32:
            return cls(around, weight.dtype)
        start = input if hx is None else hx
        came_low = getattr(start.data if isinstance(start, PackedSequence) else start, "dtype", None) == around
        is_low = returns == "low" or (returns == "like the state" and (came_low or weight.device.type != "cpu"))
        return cls(around, weight.dtype, around, around if is_low else None)

    def taken(self, given: Any) -> Any:
        """The arguments in the precision of the weights, where autocast has lowered them."""
        return given if self.around is None or self.own is None else taken_back(given, self.own, self.around)

    def returned(self, results: Any) -> Any:
        """What the network is to return."""
        if self.results is None:
            return results
        return with_tensors_mapped(lambda value: value.to(self.results) if value.dtype == self.own else value, results)
