"""The shard of a sequence that one rank has: where it lies, and what of the sequence's last states is in it."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.comm import Communicator
from lpgpu.mgrit import Partition
from lpgpu.mgrit.exchange import global_sum
from lpgpu.nn.propagation import sentinel_for
from lpgpu.nn.stacking import draw_seed


@dataclass(frozen=True)
class SequenceShard:
    """This rank's steps of a sequence of `steps`; `partition` is None where they are all of them."""

    communicator: Communicator
    steps: int
    partition: Partition | None

    @classmethod
    def of(cls, communicator: Communicator, x: Tensor) -> Self:
        """The shard `x` [T, ...]. Collective."""
        if communicator.size == 1:
            return cls(communicator, len(x), None)
        lengths = torch.zeros(communicator.size, dtype=torch.int64)
        lengths[communicator.rank] = len(x)
        blocks = global_sum(communicator, lengths).tolist()
        return cls(communicator, sum(blocks), Partition.of_blocks(blocks, communicator.rank))

    @property
    def is_whole(self) -> bool:
        """Whether this process has the whole sequence."""
        return self.partition is None

    @property
    def first(self) -> int:
        """The sequence's step that is the first one here."""
        return self.partition.first if self.partition else 0

    @property
    def local_steps(self) -> int:
        """The steps here."""
        return self.partition.num_local_layers if self.partition else self.steps

    def reversed(self) -> Self:
        """The same shard of the sequence read from its end, by the ranks in the opposite order."""
        if self.partition is None:
            return self
        lengths = [stop - first for first, stop in pairwise((*self.partition.cuts[:-1], self.steps))]
        communicator = self.communicator.reversed()
        return type(self)(communicator, self.steps, Partition.of_blocks(lengths[::-1], communicator.rank))

    def times(self, device: torch.device) -> Tensor:
        """The indices of the steps here, [T]."""
        return torch.arange(self.first, self.first + self.local_steps, device=device)

    def last_state(self, states: Tensor, lengths: Tensor | None) -> Tensor:
        """h at each sequence's length, or at the end, [B, ...], of this rank's h_1 … h_T; zero where it is not here."""
        if lengths is None:
            return states[-1] if self.first + self.local_steps == self.steps else torch.zeros_like(states[-1])
        index = lengths - 1 - self.first
        at = states[index.clamp(0, self.local_steps - 1), torch.arange(len(lengths), device=states.device)]
        here = (index >= 0) & (index < self.local_steps)
        return at if self.is_whole else at.where(here.view(-1, *(1,) * (at.ndim - 1)), 0)

    def dropout(self, x: Tensor, p: float, training: bool) -> Tensor:
        """F.dropout, drawn apart on every rank though their generators be in the same state."""
        if self.is_whole or not training or p == 0:
            return F.dropout(x, p, training)
        generator = torch.Generator(x.device)
        generator.manual_seed((draw_seed() + self.first) % 2**62)
        kept = torch.empty_like(x).bernoulli_(1 - p, generator=generator)
        return x * kept / max(1 - p, torch.finfo(x.dtype).tiny)

    def sentinel(self) -> Tensor | None:
        """See `lpgpu.nn.propagation.sentinel_for`."""
        return sentinel_for(self.communicator)
