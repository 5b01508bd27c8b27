"""Training: recipes, their options, the loop, and the folder a run leaves behind.

recipe = find_recipe("digits")
run = Run.create(recipe, replace(recipe.defaults, epochs=2))
summary = train(run)

Rooms, each of which imports only from those below it:

after     runs verified, exported; solvers tuned
loop      from the first batch to the last epoch: Trainer, objective, measures, levels, progress; comparisons
reports   what people read and look at: summaries, plots, tables
methods   nested iteration, iteration control, MG/OPT, and the optimizers
runs      the folder of a run: config, records, checkpoints
recipes   the recipes, one file each
setup     what recipes are made of: options, kinds of networks, ranks, schedulers, errors
"""

from lpgpu.train.after.export import export_run, plain_network
from lpgpu.train.after.tuning import tune_recipe
from lpgpu.train.after.verification import verify_run
from lpgpu.train.loop.compare import Comparison, variants_of
from lpgpu.train.loop.training import train
from lpgpu.train.methods.control import Adaptive, BiasBudget, Fixed, Moment
from lpgpu.train.methods.mgopt import MGOPT
from lpgpu.train.methods.nested import prolong_
from lpgpu.train.methods.solvers import Probe, gradient_probe
from lpgpu.train.methods.transfer import Transfer
from lpgpu.train.recipes import RECIPES, find_recipe
from lpgpu.train.reports.plots import draw_plots
from lpgpu.train.reports.several import draw_runs
from lpgpu.train.reports.summary import format_summary
from lpgpu.train.runs.run import Run
from lpgpu.train.setup.errors import InputError, TrainingDivergedError, TrainingInterrupted
from lpgpu.train.setup.metric import MEAN_SQUARED_ERROR, Metric
from lpgpu.train.setup.networks import GRUOptions, ODEOptions
from lpgpu.train.setup.option_types import option
from lpgpu.train.setup.options import TrainOptions
from lpgpu.train.setup.recipe import Problem, Recipe

__all__ = [
    "MEAN_SQUARED_ERROR",
    "MGOPT",
    "RECIPES",
    "Adaptive",
    "BiasBudget",
    "Comparison",
    "Fixed",
    "GRUOptions",
    "InputError",
    "Metric",
    "Moment",
    "ODEOptions",
    "Probe",
    "Problem",
    "Recipe",
    "Run",
    "TrainOptions",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "Transfer",
    "draw_plots",
    "draw_runs",
    "export_run",
    "find_recipe",
    "format_summary",
    "gradient_probe",
    "option",
    "plain_network",
    "prolong_",
    "train",
    "tune_recipe",
    "variants_of",
    "verify_run",
]
