"""Stacked layers of which each of several ranks has a run, and what all ranks do with them together."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from lpgpu.mgrit import Partition
from lpgpu.nn.arguments import Arguments
from lpgpu.nn.autograd import Replicated
from lpgpu.nn.exclusively import lock_of
from lpgpu.nn.per_layer import apply_to_layers
from lpgpu.nn.solver_module import SolverModule
from lpgpu.nn.stacking import stacked_tensors, with_tensors


class SharedLayers(SolverModule):
    """`layers` are stacked, [layers of this rank, ...]; `_partition` says whose all are (None: this process')."""

    layers: nn.Module
    num_steps: int
    local_num_steps: int
    _partition: Partition | None

    def apply(self, fn: Callable[[nn.Module], Any]) -> Self:
        """`fn` of every module inside, and of each layer in turn, as if it were a module of its own; returns self.

        This is how to initialise: nn.init and reset_parameters() see one layer's weights, and draw as in
        `to_sequential().apply(fn)`; on several ranks every rank calls. On a stacked weight itself they would take
        [layers, ...] for the shape of one matrix.

        >>> net = LayerParallel(None, lambda: nn.Linear(8, 8), 100, Tf=1.0)
        >>> _ = net.apply(lambda m: nn.init.orthogonal_(m.weight) if isinstance(m, nn.Linear) else None)
        >>> w = net.layers.weight[99]
        >>> bool(torch.allclose(w @ w.T, torch.eye(8), atol=1e-5))
        True

        Raises:
            ValueError: when `fn` changes which parameters and buffers there are, their shapes or dtypes, or makes
                layers unlike.
        """
        apply_to_layers(self.layers, fn, self._own_layers, self.num_steps)
        fn(self)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As every module's, also while another thread calls the network."""
        with lock_of(self.layers):
            return super().state_dict(*args, **kwargs)

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

    def _tensors_of(self, arguments: Arguments, sentinel: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """The arguments' tensors for this rank's layers, and for all, with gradients that are summed over the ranks."""
        per_layer, shared = list(arguments.per_layer), list(arguments.shared)
        if self.is_shared:
            everything = [*per_layer, *shared]
            wanted = [i for i, tensor in enumerate(everything) if tensor.requires_grad]
            if wanted and torch.is_grad_enabled():
                values = Replicated.apply(self._communicator, sentinel, *(everything[i] for i in wanted))
                for i, value in zip(wanted, values, strict=True):
                    everything[i] = value
            per_layer, shared = everything[: len(per_layer)], everything[len(per_layer) :]
        own = self._own_layers
        return [values[own.start : own.stop] for values in per_layer], shared
