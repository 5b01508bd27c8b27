"""Training: recipes, their options, the loop, and the folder a run leaves behind.

recipe = find_recipe("digits")
run = Run.create(recipe, replace(recipe.defaults, epochs=2))
summary = train(run)
"""

from lpgpu.train.compare import Comparison, variants_of
from lpgpu.train.errors import InputError, TrainingDivergedError
from lpgpu.train.loop import train
from lpgpu.train.networks import GRUOptions, ODEOptions
from lpgpu.train.options import TrainOptions, option
from lpgpu.train.plots import draw_plots
from lpgpu.train.recipe import Problem, Recipe
from lpgpu.train.recipes import RECIPES, find_recipe
from lpgpu.train.report import format_summary
from lpgpu.train.run import Run

__all__ = [
    "RECIPES",
    "Comparison",
    "GRUOptions",
    "InputError",
    "ODEOptions",
    "Problem",
    "Recipe",
    "Run",
    "TrainOptions",
    "TrainingDivergedError",
    "draw_plots",
    "find_recipe",
    "format_summary",
    "option",
    "train",
    "variants_of",
]
