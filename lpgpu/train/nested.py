"""Nested iteration: train a shallow network first, and let it start the deeper one.

    for l = coarsest … 1:  train the network of ⌈N/m^l⌉ layers for n_l epochs;  θ^(l−1) = P θ^(l)

E. Cyr, S. Günther, J. Schroder, Multilevel initialization for layer-parallel deep neural network training (2019). The
coarsest network is trained serially. The state of the optimizer is carried too: a layer's gradient is smaller by
Δt_h/Δt_H on the finer network, so first moments are scaled by that, second ones by its square. L-BFGS, whose state is a
history of the coarse network, starts anew.
"""

from dataclasses import replace

import torch
from torch import nn

from lpgpu.train.networks import ODEOptions
from lpgpu.train.options import TrainOptions
from lpgpu.train.recipe import Recipe
from lpgpu.train.trainer import Trainer
from lpgpu.train.transfer import Interpolation, Transfer, coarse_layers

MOMENTS = {"momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2}  # by which power of the gradient they scale


def deepest_level(options: TrainOptions) -> int:
    """How many coarser networks are trained first: at most `options.nested`, none of less than two layers."""
    if not isinstance(options, ODEOptions):
        return 0
    level = 0
    while level < options.nested and coarse_layers(options.layers, options.nested_coarsening, level + 1) >= 2:
        level += 1
    return level


def options_of_level(options: TrainOptions, level: int) -> TrainOptions:
    """The options that train the network of `level`; 0 is the network itself."""
    if level == 0 or not isinstance(options, ODEOptions):
        return options
    deepest, epochs = deepest_level(options), options.nested_epochs
    return replace(
        options,
        layers=coarse_layers(options.layers, options.nested_coarsening, level),
        epochs=epochs if isinstance(epochs, int) else epochs[min(deepest - level, len(epochs) - 1)],
        solver="serial" if level == deepest else options.solver,
        control="fixed",
        nested=0,
        mgopt=0,
    )


def trainer_of_level(recipe: Recipe, options: TrainOptions, level: int) -> Trainer:
    """The trainer of the network of `level`, with initial weights of its own."""
    mine = options_of_level(options, level)
    depth = mine.layers / options.layers if isinstance(mine, ODEOptions) and isinstance(options, ODEOptions) else 1.0
    return Trainer(recipe, mine, level=level, depth=depth)


def refined(coarse: Trainer, recipe: Recipe, options: TrainOptions) -> Trainer:
    """The trainer of the next finer level, its weights and its optimizer's state prolonged from `coarse`."""
    if not isinstance(options, ODEOptions):
        raise TypeError(f"options are {type(options).__name__}, of a network without levels; expected ODEOptions")
    fine = trainer_of_level(recipe, options, coarse.level - 1)
    carries = options.optimizer != "lbfgs" and not options.mgopt
    prolong_(
        fine.network,
        coarse.network,
        coarsening=options.nested_coarsening,
        transfer=options.transfer,
        optimizers=(fine.optimizer, coarse.optimizer) if carries else None,
    )
    return fine


@torch.no_grad()
def prolong_(
    fine: nn.Module,
    coarse: nn.Module,
    *,
    coarsening: int = 2,
    transfer: Interpolation = "constant",
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] | None = None,
) -> None:
    """θ_h = P θ_H: let `fine` start from the trained `coarse`, the network of every m-th of its layers.

    `optimizers`, SGD, Adam or AdamW of the one and of the other, go along: moments are prolonged as the weights are.
    Where several ranks share the layers, all call together.

    Raises:
        ValueError: when `coarse` is not the network of `fine` with ⌈N/m⌉ layers.
    """
    between = Transfer(fine, coarse, coarsening, transfer)
    for theta, value in zip(fine.parameters(), between.prolong(list(coarse.parameters())), strict=True):
        theta.copy_(value)
    if optimizers is not None:
        _prolong_moments(between, *optimizers, fine, coarse)


def _prolong_moments(
    transfer: Transfer,
    fine: torch.optim.Optimizer,
    coarse: torch.optim.Optimizer,
    fine_network: nn.Module,
    coarse_network: nn.Module,
) -> None:
    """Give `fine` the state of `coarse`: moments prolonged and scaled, all else as it is."""
    parameters = list(coarse_network.parameters())
    if not all(theta in coarse.state for theta in parameters):
        return  # not one step was made
    for name in coarse.state[parameters[0]]:
        values = [coarse.state[theta][name] for theta in parameters]
        if name in MOMENTS:
            scales = [transfer.ratio ** MOMENTS[name] if stacked else 1.0 for stacked in transfer.stacked]
            values = [scale * value for scale, value in zip(scales, transfer.prolong(values), strict=True)]
        for theta, value in zip(fine_network.parameters(), values, strict=True):
            fine.state[theta][name] = value.clone() if isinstance(value, torch.Tensor) else value
