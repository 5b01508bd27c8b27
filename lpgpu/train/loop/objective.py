"""The objective on one batch, its mean loss and the penalties, and its gradient."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from lpgpu import LayerParallel, clip_grad_norm_
from lpgpu.nn.gradients import network_dot
from lpgpu.nn.solver_module import solver_modules
from lpgpu.train.loop.regularization import depth_smoothness, smoothness_between_ranks, tikhonov
from lpgpu.train.setup.networks import ODEOptions
from lpgpu.train.setup.options import TrainOptions
from lpgpu.train.setup.recipe import Problem

Timed = Callable[[str], AbstractContextManager[None]]


class Objective:
    """What training decreases: w · mean loss of these examples + penalties.

    Args:
        timed: name of a part of a step → the context that times it.
    """

    def __init__(self, problem: Problem, options: TrainOptions, timed: Timed):
        self.problem, self.options, self.timed = problem, options, timed
        self.ranks, self.device = options.ranks, options.torch_device()
        mgopt = isinstance(options, ODEOptions) and options.mgopt > 0
        self.searches = not self.ranks.alone and (mgopt or options.optimizer == "lbfgs")

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
        scores of the first call. Of several ranks the objective returned is this one's share, or where the optimizer
        searches along a line, that of all, the same on every rank.
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
            return self._of_all_ranks(network, weight * loss.detach()) if self.searches else objective.detach()

        return closure

    def penalty(self, network: nn.Module) -> Tensor | float:
        """γ/2 Σ‖θ‖² and the smoothness of the layers' weights over depth, of this rank's layers."""
        options, penalty = self.options, 0.0
        if options.tikhonov:
            penalty += options.tikhonov * tikhonov(network.parameters())
        for weight, _, own, between in self._smoothness(network):
            penalty += weight * (own + between)
        return penalty

    def _smoothness(self, network: nn.Module) -> Iterator[tuple[float, LayerParallel, Tensor, Tensor | float]]:
        """Of each network of layers: γ, it, its smoothness within this rank's layers, and across their boundaries."""
        if isinstance(self.options, ODEOptions) and self.options.smoothness:
            for part in solver_modules(network):
                if isinstance(part, LayerParallel):
                    between = smoothness_between_ranks(part, self.ranks.grid.layer_rank)
                    yield self.options.smoothness, part, depth_smoothness(part.parameters(), part.dt), between

    @torch.no_grad()
    def _of_all_ranks(self, network: nn.Module, loss: Tensor) -> Tensor:
        """The objective of the whole network on the whole batch."""
        parameters = list(network.parameters())
        value = self.ranks.mean_over_data(loss)
        if self.options.tikhonov:
            value = value + self.options.tikhonov * network_dot(network, parameters, parameters) / 2
        for weight, part, own, between in self._smoothness(network):
            value = value + weight * part.sum_over_ranks(own + between / 2)  # both neighbours have a boundary
        return torch.tensor(self.ranks.from_root(lambda: float(value)), dtype=torch.float64, device=self.device)

    def _finish_gradient(self, network: nn.Module) -> None:
        if self.ranks.grid.data_ranks > 1:
            with self.timed("communication"):
                self.ranks.average_gradients(network)
        if self.options.clip:
            clip_grad_norm_(network, self.options.clip)
