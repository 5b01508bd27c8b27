"""The recipes. Each module of this package defines one, as `RECIPE`; to add a recipe, add a module."""

from importlib import import_module
from pkgutil import iter_modules

from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.recipe import Recipe

_modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]

RECIPES: dict[str, Recipe] = {module.RECIPE.name: module.RECIPE for module in _modules}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises `InputError` with the names that exist.

    >>> find_recipe("digits").defaults.epochs
    16
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name]


__all__ = ["RECIPES", "find_recipe"]
