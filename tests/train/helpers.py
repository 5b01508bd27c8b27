"""Small, fast runs for the tests."""

import dataclasses
from pathlib import Path
from typing import Any

from lpgpu.train import GRUOptions, Run, find_recipe


def tiny_run(folder: Path, recipe_name: str = "digits", **options: Any) -> Run:
    """A run of a few layers, or a narrow GRU, in `folder`."""
    recipe = find_recipe(recipe_name)
    small: dict[str, Any] = {"epochs": 2, "batch_size": 400, "levels": 2, "device": "cpu", "threads": 1}
    if isinstance(recipe.defaults, GRUOptions):
        small |= {"hidden_size": 4, "num_layers": 1}
    else:
        small |= {"layers": 8, "channels": 2}
    return Run.create(recipe, dataclasses.replace(recipe.defaults, **{**small, **options, "run_dir": folder}))
