"""The network of a run, as its checkpoint has it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.runs.checkpoint import checkpoint_level, load_checkpoint
from lpgpu.train.runs.run import Run
from lpgpu.train.setup.errors import InputError


def trained(
    folder: Path, device: str | None = None, *, recipe_name: str | None = None, changes: Mapping[str, Any] | None = None
) -> tuple[Run, Trainer]:
    """The run in `folder` and a trainer in the state of its checkpoint, on `device` or that of the run.

    `changes`: to the run's options, as a resumed run may have them.

    Raises `InputError` where there is no such run or no checkpoint, or a coarser network is still being trained; where
    the run is not of the recipe `recipe_name`, or a change would make it another run.
    """
    run = Run.resume(
        folder, {**(changes or {}), **({} if device is None else {"device": device})}, recipe_name=recipe_name
    )
    if level := checkpoint_level(run.checkpoint):
        raise InputError(f"{folder} still trains the coarser network of level {level}; continue it with --resume")
    trainer = Trainer(run.recipe, run.options)
    load_checkpoint(run.checkpoint, trainer)
    trainer.network.eval()
    return run, trainer
