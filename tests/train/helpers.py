"""Small, fast runs for the tests."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from lpgpu.train import GRUOptions, Run, find_recipe
from lpgpu.train.loop.trainer import Trainer


def tiny_run(folder: Path, recipe_name: str = "digits", **options: Any) -> Run:
    """A run of a few layers, or a narrow GRU, in `folder`."""
    recipe = find_recipe(recipe_name)
    small: dict[str, Any] = {"epochs": 2, "batch_size": 400, "levels": 2, "device": "cpu", "threads": 1}
    if isinstance(recipe.defaults, GRUOptions):
        small |= {"hidden_size": 4, "num_layers": 1}
    else:
        small |= {"layers": 8, "channels": 2}
    return Run.create(recipe, dataclasses.replace(recipe.defaults, **{**small, **options, "run_dir": folder}))


def network_of(run: Run) -> dict[str, torch.Tensor]:
    """The weights of the run's checkpoint."""
    return torch.load(run.checkpoint, weights_only=True)["network"]


def without_seconds(record: dict) -> dict:
    """A record without what differs from run to run."""
    return {name: value for name, value in record.items() if name != "seconds"}


class InterruptAtStep:
    """Makes the n-th training step raise KeyboardInterrupt."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int):
        self.left, self.original = step, Trainer._step
        monkeypatch.setattr(Trainer, "_step", lambda trainer, *rest: self(trainer, *rest))

    def __call__(self, trainer: Trainer, *rest) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        self.original(trainer, *rest)
