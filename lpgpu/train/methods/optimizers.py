"""The optimizers of a run, from its options."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu import LayerParallel
from lpgpu.train.methods.transfer import parameters_and_parts
from lpgpu.train.setup.options import TrainOptions

Parameters = Iterable[torch.Tensor] | Iterable[dict[str, Any]]


def optimizer_of(options: TrainOptions, parameters: Parameters) -> torch.optim.Optimizer:
    """The optimizer that `options` name, for `parameters` or groups of them."""
    rate, decay = options.learning_rate, options.weight_decay
    if options.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=options.momentum, weight_decay=decay)
    return torch.optim.LBFGS(parameters, **_of_lbfgs(options))


def optimizer_of_network(options: TrainOptions, network: nn.Module) -> torch.optim.Optimizer:
    """The same for a whole network, on any number of ranks."""
    if options.optimizer == "lbfgs" and not options.ranks.alone:
        return SharedLBFGS(network, **_of_lbfgs(options))
    return optimizer_of(options, network.parameters())


class SharedLBFGS(torch.optim.LBFGS):
    """L-BFGS for a network whose layers several ranks share: each has a copy of the whole, and its history.

    Arguments as of torch.optim.LBFGS. The ranks step together; the closure returns the objective of the whole network,
    the same on every rank.
    """

    def __init__(self, network: nn.Module, **options: Any) -> None:
        self._own = list(parameters_and_parts(network))
        super().__init__([nn.Parameter(_whole(theta, part)) for theta, part in self._own], **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As torch's."""
        whole = self.param_groups[0]["params"]
        for copy, (theta, part) in zip(whole, self._own, strict=True):
            copy.copy_(_whole(theta, part))

        def of_whole() -> Tensor:
            self._spread(whole)
            value = closure()
            for copy, (theta, part) in zip(whole, self._own, strict=True):
                copy.grad = _whole(torch.zeros_like(theta) if theta.grad is None else theta.grad, part)
            return value

        value = super().step(of_whole)
        self._spread(whole)
        return value

    @torch.no_grad()
    def _spread(self, whole: list[Tensor]) -> None:
        for copy, (theta, part) in zip(whole, self._own, strict=True):
            theta.copy_(copy if part is None else part.of_this_rank(copy, "a parameter"))


def _whole(value: Tensor, part: LayerParallel | None) -> Tensor:
    """A copy of a parameter's value, of all ranks' layers."""
    return value.detach().clone() if part is None or not part.is_shared else part.of_all_ranks(value)


def _of_lbfgs(options: TrainOptions) -> dict[str, Any]:
    return {
        "lr": options.learning_rate,
        "max_iter": options.lbfgs_iterations,
        "line_search_fn": "strong_wolfe",
    }
