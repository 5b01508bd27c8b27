"""Small, fast runs for the tests."""

import dataclasses
from pathlib import Path
from typing import Any

from lpgpu.train import Run, find_recipe


def tiny_run(folder: Path, recipe_name: str = "digits", **options: Any) -> Run:
    """A run of a few layers in `folder`."""
    recipe = find_recipe(recipe_name)
    small = {"epochs": 2, "batch_size": 400, "layers": 8, "channels": 2, "levels": 2, "device": "cpu", "threads": 1}
    return Run.create(recipe, dataclasses.replace(recipe.defaults, **{**small, **options, "run_dir": folder}))
