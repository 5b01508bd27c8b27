"""Which solver to train a recipe with, found by trying on its network, first batch and device."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lpgpu import MGRIT, Serial
from lpgpu.nn.tune import By, Tuning, search
from lpgpu.train.after.trained import trained
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.setup.option_types import shown
from lpgpu.train.setup.options import TrainOptions
from lpgpu.train.setup.recipe import Recipe
from lpgpu.train.setup.threads import computing_with


def tune_recipe(
    recipe: Recipe,
    options: TrainOptions,
    *,
    folder: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    gradient_error: float = 1e-2,
    by: By = "time",
    max_tries: int = 60,
) -> Tuning:
    """Search for the cheapest solver within `gradient_error`, as `lpgpu.tune` does, on a recipe's first batch.

    `folder`: with the trained weights of that run and its options, but for `changes`, which a resumed run may have
    (another device or data folder); `options` is not read then. Fresh weights, as without, say little of later ones.

    >>> from lpgpu.train import find_recipe
    >>> recipe = find_recipe("peaks")
    >>> options = dataclasses.replace(recipe.defaults, layers=16, device="cpu")
    >>> tuning = tune_recipe(recipe, options, by="depth", max_tries=3)
    >>> tuning.solver in [tried.solver for tried in tuning.tried]
    True

    Raises:
        InputError: as a run of these options does; where there is no run of this recipe in `folder`, or a change would
            make it another run.
        DataError: where the recipe's data are not there.
        ValueError: for a `gradient_error` or `max_tries` out of bounds.
    """
    if folder is None:
        recipe.prepare(options)
        trainer = Trainer(recipe, options)
    else:
        _, trainer = trained(folder, recipe_name=recipe.name, changes=changes)
    inputs, labels = trainer.first_batch()

    def step() -> None:
        trainer.problem.loss(trainer.network(inputs), labels).backward()

    with computing_with(trainer.options.threads):
        return search(trainer.network, step, gradient_error=gradient_error, by=by, max_tries=max_tries, progress=True)


def words_of(solver: MGRIT | Serial, defaults: TrainOptions) -> str:
    """The options of `lpgpu train` that make `solver`, where they are not the recipe's own.

    >>> words_of(MGRIT(levels=2, coarsening=8), TrainOptions())
    '--levels 2 --coarsening 8'
    """
    if isinstance(solver, Serial):
        return "--solver serial"
    values = {field.name: getattr(solver, field.name) for field in dataclasses.fields(solver)}
    changed = {name: value for name, value in values.items() if value != getattr(defaults, name)}
    return " ".join(f"--{name.replace('_', '-')} {shown(value)}" for name, value in changed.items())
