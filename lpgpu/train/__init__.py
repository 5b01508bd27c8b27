"""Training: recipes, their options, the loop, and the folder a run leaves behind.

recipe = find_recipe("digits")
run = Run.create(recipe, replace(recipe.defaults, epochs=2))
summary = train(run)
"""

from lpgpu.train.compare import Comparison, variants_of
from lpgpu.train.control import Adaptive, BiasBudget, Fixed, Moment
from lpgpu.train.errors import InputError, TrainingDivergedError
from lpgpu.train.loop import train
from lpgpu.train.mgopt import MGOPT
from lpgpu.train.nested import prolong_
from lpgpu.train.networks import GRUOptions, ODEOptions
from lpgpu.train.options import TrainOptions, option
from lpgpu.train.plots import draw_plots, draw_runs
from lpgpu.train.recipe import Problem, Recipe
from lpgpu.train.recipes import RECIPES, find_recipe
from lpgpu.train.report import format_summary
from lpgpu.train.run import Run
from lpgpu.train.solvers import Probe, gradient_probe
from lpgpu.train.transfer import Transfer

__all__ = [
    "MGOPT",
    "RECIPES",
    "Adaptive",
    "BiasBudget",
    "Comparison",
    "Fixed",
    "GRUOptions",
    "InputError",
    "Moment",
    "ODEOptions",
    "Probe",
    "Problem",
    "Recipe",
    "Run",
    "TrainOptions",
    "TrainingDivergedError",
    "Transfer",
    "draw_plots",
    "draw_runs",
    "find_recipe",
    "format_summary",
    "gradient_probe",
    "option",
    "prolong_",
    "train",
    "variants_of",
]
