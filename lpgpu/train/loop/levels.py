"""The levels of nested iteration as training sees them: 0 is the network itself, a higher one a coarser network.

The mathematics is in `lpgpu.train.methods.nested`.
"""

from dataclasses import replace

from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.methods.nested import prolong_
from lpgpu.train.methods.transfer import coarse_layers
from lpgpu.train.setup.networks import ODEOptions
from lpgpu.train.setup.options import TrainOptions
from lpgpu.train.setup.recipe import Recipe


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
