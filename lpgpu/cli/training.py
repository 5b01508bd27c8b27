"""`lpgpu train RECIPE [options]`: the options come from the recipe's dataclass."""

import argparse
import inspect
from collections.abc import Callable, Collection
from dataclasses import Field, replace
from pathlib import Path
from shlex import quote
from typing import Any, Literal, get_args, get_origin

from lpgpu.train import RECIPES, Recipe, Run, TrainOptions, find_recipe, format_summary, train
from lpgpu.train.setup.mgrit_options import MGRIT_FIELDS
from lpgpu.train.setup.option_types import metavar, parse, shown


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `train`, with one sub-command for each recipe."""
    parser = commands.add_parser(
        "train", help="train a recipe", epilog="`lpgpu train RECIPE --help` lists its options with their defaults."
    )
    recipes = parser.add_subparsers(metavar="RECIPE", required=True, dest="recipe")
    for recipe in RECIPES.values():
        options = recipes.add_parser(recipe.name, help=recipe.summary, description=recipe.summary)
        options.add_argument(
            "--resume", metavar="RUN_DIR", type=Path, help="continue that run from its last checkpoint"
        )
        add_options(options, recipe.defaults)
        options.set_defaults(command=_train, parser=options)


def add_options(parser: argparse.ArgumentParser, defaults: TrainOptions, *, without: Collection[str] = ()) -> None:
    """One argument for each field, in groups, the recipe's own first.

    Absent ones stay absent, so that a resumed run knows what was asked for.
    """
    groups = {}
    for cls in type(defaults).__mro__[:-1]:
        group = parser.add_argument_group((cls.__doc__ or "").partition(".")[0])
        groups |= dict.fromkeys(inspect.get_annotations(cls), group)
    for field, hint in defaults.typed_fields():
        if field.name in without:
            continue
        default = getattr(defaults, field.name)
        says_default = default is None and field.name not in MGRIT_FIELDS  # it is not None that is done then
        groups[field.name].add_argument(
            f"--{field.name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help=(field.metadata["help"] + ("" if says_default else f" [{shown(default)}]")).replace("%", "%%"),
            **_argument_type(field, hint),
        )


def _argument_type(field: Field, hint: Any) -> dict[str, Any]:
    """argparse's words for the type of an option: choices, or a parser and a name for the value."""
    if get_origin(hint) is Literal and all(isinstance(choice, str) for choice in get_args(hint)):
        return {"choices": get_args(hint)}
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if hint == Path | None:
        hint = Path  # every text is a path, "none" as well
    bare = {} if field.metadata["bare"] is None else {"nargs": "?", "const": field.metadata["bare"]}
    return {"type": parser_of(hint), "metavar": metavar(hint), **bare}


def parser_of(hint: Any) -> Callable[[str], Any]:
    """Text → its value of the type `hint`, for argparse, whose error says what was expected."""

    def value_of(text: str) -> Any:
        try:
            return parse(hint, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"it is {text!r}; expected {metavar(hint)}") from error

    return value_of


def _train(arguments: argparse.Namespace) -> None:
    recipe = find_recipe(arguments.recipe)
    run = _run(recipe, arguments)
    try:
        summary = train(run)
    except KeyboardInterrupt as interrupt:
        interrupt.args = (f"continue with: lpgpu train {recipe.name} --resume {quote(str(run.folder))}",)
        raise
    if run.ranks.is_root:
        print(format_summary(run, summary))


def given_options(recipe: Recipe, arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that the user named."""
    names = {field.name for field, _ in recipe.defaults.typed_fields()}
    return {name: value for name, value in vars(arguments).items() if name in names}


def _run(recipe: Recipe, arguments: argparse.Namespace) -> Run:
    """A new run, or the one to resume, with the options that were given."""
    given = given_options(recipe, arguments)
    if arguments.resume is None:
        return Run.create(recipe, replace(recipe.defaults, **given))
    return Run.resume(arguments.resume, given, recipe_name=recipe.name)
