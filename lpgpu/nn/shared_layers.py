"""Stacked layers of which each of several ranks has a run, and what all ranks do with them together."""

import torch
from torch import Tensor, nn

from lpgpu.mgrit import Partition
from lpgpu.nn.solver_module import SolverModule
from lpgpu.nn.stacking import stacked_tensors, with_tensors


class SharedLayers(SolverModule):
    """`layers` are stacked, [layers of this rank, ...]; `_partition` says whose all are (None: this process')."""

    layers: nn.Module
    num_steps: int
    local_num_steps: int
    _partition: Partition | None

    @property
    def is_shared(self) -> bool:
        """Whether several ranks share the layers."""
        return self._partition is not None

    @property
    def has_first_layer(self) -> bool:
        """Whether this is the rank with the first layers."""
        return self._partition is None or self._partition.first == 0

    def of_all_ranks(self, stacked: Tensor) -> Tensor:
        """The stacked values of all ranks' layers, [layers, ...], of this rank's, on its device. Collective."""
        if not self.is_shared:
            return stacked
        parts = self._communicator.allgather(stacked.detach().cpu())
        return torch.cat(parts).to(stacked.device)

    def of_this_rank(self, stacked: Tensor, name: str) -> Tensor:
        """This rank's part of the stacked values of all layers.

        Raises:
            ValueError: when they are not of as many layers.
        """
        if len(stacked) != self.num_steps:
            raise ValueError(f"{name} is of {len(stacked)} layers; this network has {self.num_steps}")
        first = self._partition.first if self._partition else 0
        return stacked[first : first + self.local_num_steps].clone()

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """The sum over the ranks that share the layers. Collective."""
        return self._communicator.sum(value)

    def _all_layers(self) -> nn.Module:
        """The layers of all ranks in one stack."""
        if not self.is_shared:
            return self.layers
        return with_tensors(self.layers, [self.of_all_ranks(tensor) for tensor in stacked_tensors(self.layers)])

    @property
    def _own_layers(self) -> range:
        first = self._partition.first if self._partition else 0
        return range(first, first + self.local_num_steps)
