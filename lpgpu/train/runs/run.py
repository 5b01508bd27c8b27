"""A run and its folder.

config.json       recipe, options, versions
metrics.jsonl     one object per epoch, then a summary
tensorboard/      the same for TensorBoard, where that is installed
checkpoint.pt     all that is needed to continue, written after every epoch or more often
weights.safetensors   the weights of that checkpoint alone, for other tools, with --safetensors
timeline.json     who computed and who waited in one training step, with --timeline
*.png             plots
"""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import lpgpu
from lpgpu.train.recipes import find_recipe
from lpgpu.train.runs.atomic import atomic_write
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.option_types import json_value
from lpgpu.train.setup.options import TrainOptions
from lpgpu.train.setup.ranks import Ranks
from lpgpu.train.setup.recipe import Recipe

CONFIG = "config.json"
# What a resumed run may change: where it computes and how long. All else would make it another run.
CHANGEABLE = (
    "epochs",
    "device",
    "layer_ranks",
    "data_ranks",
    "data_dir",
    "checkpoint_every",
    "safetensors",
    "timeline",
)


@dataclass(frozen=True)
class Run:
    """A recipe trained with certain options, its results in `folder`.

    >>> from dataclasses import replace
    >>> from lpgpu.train import train
    >>> recipe = find_recipe("peaks")
    >>> options = replace(recipe.defaults, epochs=1, layers=4, levels=2, device="cpu", run_dir=Path("peaks"))
    >>> run = Run.create(recipe, options)
    >>> train(run)["epochs"]
    1
    >>> sorted(path.name for path in run.folder.iterdir() if path.suffix != ".png" and path.is_file())
    ['checkpoint.pt', 'config.json', 'metrics.jsonl']
    """

    recipe: Recipe
    options: TrainOptions
    folder: Path

    @property
    def ranks(self) -> Ranks:
        """The ranks that train it, of which the root alone writes."""
        return self.options.ranks

    @property
    def metrics(self) -> Path:
        """The file of measurements."""
        return self.folder / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The file to continue from."""
        return self.folder / "checkpoint.pt"

    @property
    def weights(self) -> Path | None:
        """The file of the checkpoint's weights alone, where the options ask for one."""
        return self.folder / "weights.safetensors" if self.options.safetensors else None

    @classmethod
    def create(cls, recipe: Recipe, options: TrainOptions) -> "Run":
        """A new run, its data found, its folder made and its config written.

        Raises `DataError` when the data are not there or not right; `InputError` when the folder has something in it,
        or cannot be made: nothing is ever overwritten.
        """
        options.check_ranks()
        recipe.prepare(options)
        return cls(recipe, options, options.ranks.from_root(lambda: cls._new_folder(recipe, options)))

    @classmethod
    def _new_folder(cls, recipe: Recipe, options: TrainOptions) -> Path:
        folder = options.run_dir or Path("runs") / f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
        try:
            while not _claimed(folder):
                if options.run_dir is not None:
                    raise InputError(
                        f"{folder} is not empty, and nothing in it was touched; "
                        "choose another --run-dir, or continue that run with --resume"
                    )
                folder = unused_folder(folder)  # a run that began in the same second was quicker
        except OSError as error:
            raise InputError(
                f"{folder} cannot be made the folder of a run: {error}; choose another --run-dir"
            ) from error
        cls(recipe, options, folder)._write_config()
        return folder

    def abandon(self) -> None:
        """Take back what `create` has made, of a run that cannot even begin."""
        if self.ranks.is_root and not self.checkpoint.exists():
            (self.folder / CONFIG).unlink(missing_ok=True)
            with suppress(OSError):
                self.folder.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within the context no other process trains this run. Raises `InputError` where one does."""
        descriptor = self.ranks.from_root(self._lock)
        try:
            yield
        finally:
            if self.ranks.is_root:
                os.close(descriptor)

    def _lock(self) -> int:
        import fcntl  # not on Windows

        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InputError(f"another process is training the run of {self.folder} at this moment") from error
        except OSError:
            pass  # a file system without locks
        return descriptor

    @classmethod
    def resume(cls, folder: Path, changes: dict[str, Any], *, recipe_name: str | None = None) -> "Run":
        """The run of `folder`, with `changes` to the options it was started with: more epochs, another device.

        Raises `InputError` for a folder that holds no run, a run of another recipe than `recipe_name`, or a change that
        would make it another run.
        """
        config = _read_config(folder)
        recipe = find_recipe(config["recipe"])
        if recipe_name not in (None, recipe.name):
            raise InputError(f"{folder} is a run of {recipe.name}, not of {recipe_name}; resume it with that recipe")
        stored = config["options"]
        plain = {name: json_value(value) for name, value in changes.items()}
        for name, value in plain.items():
            if name not in CHANGEABLE and value != stored.get(name):
                raise InputError(
                    f"{name} is {value!r}, but the run of {folder} has {stored.get(name)!r}; "
                    f"a resumed run may only change {', '.join(CHANGEABLE)}"
                )
        # Checked only as changed: the device of the first part of the run may be absent here.
        run = cls(recipe, type(recipe.defaults).from_json(stored | plain), folder)
        run.options.check_ranks()
        if not run.checkpoint.exists():
            raise InputError(f"{run.checkpoint} does not exist: that run has nothing to continue from; start a new one")
        return run

    def _write_config(self) -> None:
        versions = {"lpgpu": lpgpu.__version__, "torch": torch.__version__, "python": platform.python_version()}
        config = {"recipe": self.recipe.name, "options": self.options.to_json(), "versions": versions}
        with atomic_write(self.folder / CONFIG) as file:
            file.write(json.dumps(config, indent=2).encode() + b"\n")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {"recipe": str(config["recipe"]), "options": dict(config["options"])}
    except OSError as error:
        raise InputError(f"{folder} is not the folder of a run: {path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); expected what `lpgpu train` wrote there") from error


def _claimed(folder: Path) -> bool:
    """Make `folder` that of a new run; False where something is in it, or another process was quicker."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        return False
    try:
        (folder / CONFIG).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def unused_folder(folder: Path) -> Path:
    """`folder`, or where two runs begin in one second, `folder`-2, -3, …"""
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
