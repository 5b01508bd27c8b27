"""`lpgpu compare RECIPE [options]`: the ways to train a recipe side by side, from several seeds."""

import argparse
from dataclasses import replace
from pathlib import Path
from shlex import quote

from lpgpu.cli.training import add_options, given_options, parser_of
from lpgpu.train import RECIPES, Comparison, find_recipe, variants_of
from lpgpu.train.loop.compare import VARIED
from lpgpu.train.reports.console import tell


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `compare`, with one sub-command for each recipe."""
    parser = commands.add_parser(
        "compare",
        help="train a recipe in several ways from several seeds, and tabulate what they reach",
        epilog="The same command with the same --run-dir continues: finished runs are kept, begun ones resumed.",
    )
    recipes = parser.add_subparsers(metavar="RECIPE", required=True, dest="recipe")
    for recipe in RECIPES.values():
        options = recipes.add_parser(recipe.name, help=recipe.summary, description=recipe.summary)
        options.add_argument(
            "--seeds",
            metavar="N[,N…]",
            type=parser_of(tuple[int, ...]),
            default=(0, 1, 2),
            help="one run of each kind per seed [0,1,2]",
        )
        names = ",".join(variant.name for variant in variants_of(recipe))
        options.add_argument(
            "--variants", metavar="NAME[,NAME…]", type=parser_of(tuple[str, ...]), help=f"ways to train [{names}]"
        )
        options.add_argument(
            "--run-dir",
            metavar="DIR",
            default=argparse.SUPPRESS,
            type=Path,
            help="folder for the runs, new or begun [runs/compare-RECIPE-DATE-TIME]",
        )
        add_options(options, recipe.defaults, without=VARIED)
        options.set_defaults(command=_compare, parser=options)


def _compare(arguments: argparse.Namespace) -> None:
    recipe = find_recipe(arguments.recipe)
    options = replace(recipe.defaults, **given_options(recipe, arguments))
    comparison = Comparison.create(recipe, options, arguments.seeds, arguments.variants)
    try:
        table = comparison.run(tell)
    except KeyboardInterrupt as interrupt:
        interrupt.args = (f"continue with the same options and --run-dir {quote(str(comparison.folder))}",)
        raise
    print(f"{table}\n\n{comparison.folder / 'comparison.md'}\n{comparison.folder / 'comparison.png'}")
