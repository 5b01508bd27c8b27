"""The objective on one batch, its mean loss and the penalties, and its gradient."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from lpgpu import LayerParallel, clip_grad_norm_
from lpgpu.train.networks import ODEOptions
from lpgpu.train.options import TrainOptions
from lpgpu.train.recipe import Problem, propagated_parts
from lpgpu.train.regularization import depth_smoothness, smoothness_between_ranks, tikhonov

Timed = Callable[[str], AbstractContextManager[None]]


class Objective:
    """What training decreases: w · mean loss of these examples + penalties.

    Args:
        timed: name of a part of a step → the context that times it.
    """

    def __init__(self, problem: Problem, options: TrainOptions, timed: Timed):
        self.problem, self.options, self.timed = problem, options, timed
        self.ranks, self.device = options.ranks, options.torch_device()

    def loss(self, network: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss, and the scores it is of."""
        with torch.autocast(self.device.type, torch.bfloat16) if self.options.amp else nullcontext():
            scores = network(inputs)
            return self.problem.loss(scores, labels), scores

    def closure(
        self, inputs: Tensor, labels: Tensor, first: list[Tensor] | None = None, weight: float = 1.0
    ) -> Callable[[nn.Module], Tensor]:
        """network → its objective on a batch, and, where gradients are enabled, the gradient in its parameters.

        `weight` is w, that of these examples' mean loss in the mean over data ranks. `first` receives mean loss and
        scores of the first call.
        """

        def closure(network: nn.Module) -> Tensor:
            network.zero_grad(set_to_none=True)
            with self.timed("forward"):
                loss, scores = self.loss(network, inputs, labels)
                objective = weight * loss + self.penalty(network)
            if first is not None and not first:
                first.extend((loss.detach(), scores.detach()))
            if torch.is_grad_enabled():
                with self.timed("backward"):
                    objective.backward()
                self._finish_gradient(network)
            return objective

        return closure

    def penalty(self, network: nn.Module) -> Tensor | float:
        """γ/2 Σ‖θ‖² and the smoothness of the layers' weights over depth, of this rank's layers."""
        options, penalty = self.options, 0.0
        if options.tikhonov:
            penalty += options.tikhonov * tikhonov(network.parameters())
        if isinstance(options, ODEOptions) and options.smoothness:
            for part in propagated_parts(network):
                if isinstance(part, LayerParallel):
                    penalty += options.smoothness * depth_smoothness(part.parameters(), part.dt)
                    penalty += options.smoothness * smoothness_between_ranks(part, self.ranks.grid.layer_rank)
        return penalty

    def _finish_gradient(self, network: nn.Module) -> None:
        if self.ranks.grid.data_ranks > 1:
            with self.timed("communication"):
                self.ranks.average_gradients(network)
        if self.options.clip:
            clip_grad_norm_(network, self.options.clip)
