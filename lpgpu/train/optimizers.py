"""The optimizers of a run, from its options."""

from collections.abc import Iterable
from typing import Any

import torch

from lpgpu.train.options import TrainOptions

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
    return torch.optim.LBFGS(parameters, lr=rate, max_iter=options.lbfgs_iterations, line_search_fn="strong_wolfe")
