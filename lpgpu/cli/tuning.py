"""`lpgpu tune RECIPE [options]`: the cheapest solver for a recipe, and the command that trains with it."""

import argparse
from dataclasses import replace
from pathlib import Path

from lpgpu.cli.training import add_options, given_options
from lpgpu.comm.launcher import launched_rank
from lpgpu.train import RECIPES, InputError, find_recipe
from lpgpu.train.after.tuning import tune_recipe, words_of

WITHOUT = (
    "run_dir",
    "epochs",
    "solver",
    "control",
    "gradient_error",
    "tune_by",
    "tune_tries",
    "safetensors",
    "timeline",
)


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `tune`, with one sub-command for each recipe."""
    parser = commands.add_parser("tune", help="find the cheapest solver for a recipe by trying, within an error")
    recipes = parser.add_subparsers(metavar="RECIPE", required=True, dest="recipe")
    for recipe in RECIPES.values():
        options = recipes.add_parser(recipe.name, help=recipe.summary, description=recipe.summary)
        options.add_argument(
            "--run", metavar="RUN", type=Path, help="tune on the trained weights of this run, with its options"
        )
        options.add_argument(
            "--gradient-error",
            metavar="X",
            type=float,
            default=1e-2,
            help="how far the gradient may be off [0.01]",
        )
        options.add_argument(
            "--by", choices=("time", "depth"), default="time", help="what is to be small: seconds here, or depth [time]"
        )
        options.add_argument("--tries", metavar="N", type=int, default=60, help="solvers to try at most [60]")
        add_options(options, recipe.defaults, without=WITHOUT)
        options.set_defaults(command=_tune, parser=options)


def _tune(arguments: argparse.Namespace) -> None:
    recipe = find_recipe(arguments.recipe)
    given = given_options(recipe, arguments)
    try:
        tuning = tune_recipe(
            recipe,
            replace(recipe.defaults, **given),
            folder=arguments.run,
            changes=given,
            gradient_error=arguments.gradient_error,
            by=arguments.by,
            max_tries=arguments.tries,
        )
    except ValueError as error:  # of its own arguments, or of a step that cannot be tuned on
        raise InputError(str(error)) from error
    if not launched_rank():
        words = words_of(tuning.solver, recipe.defaults)
        print(tuning.table(), f"lpgpu train {recipe.name} {words}".rstrip(), sep="\n")
