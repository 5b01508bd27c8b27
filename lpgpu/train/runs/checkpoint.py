"""Checkpoints: all that makes a continued run the same, bit for bit, as one that was never interrupted."""

import pickle
import random
import zipfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from lpgpu.nn.weights_file import write_weights
from lpgpu.train.runs.atomic import atomic_write
from lpgpu.train.setup.errors import InputError

FORMAT = 2


class Resumable(Protocol):
    """What a checkpoint holds the state of."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def save_checkpoint(
    path: Path, trainer: Resumable, config: dict[str, Any], *, write: bool = True, weights: Path | None = None
) -> None:
    """Write the state of `trainer`, the global random states and `config` to `path`, atomically.

    `weights`: a file of safetensors that gets the network's weights as well, after that; nothing is resumed from it.
    Several ranks give their states together, and one of them writes. Raises OSError where that fails.
    """
    state = {"format": FORMAT, "config": config, "random": _random_states(), **trainer.state_dict()}
    if write:
        with atomic_write(path) as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # its word for a disk that is full
                raise OSError(f"{path.name} could not be written: {' '.join(str(error).split())}") from error
    if write and weights is not None:
        about = {"recipe": str(config.get("recipe")), "level": str(state["level"]), "epoch": str(state["epoch"])}
        write_weights(state["network"], weights, about)


def checkpoint_level(path: Path) -> int:
    """Of which level of nested iteration the checkpoint is; 0: the network itself. Raises `InputError` as loading."""
    return _read(path)["level"]


def load_checkpoint(path: Path, trainer: Resumable) -> None:
    """Bring `trainer`, and the global random generators, to the state saved in `path`.

    Raises `InputError` when the file is missing, damaged, or of another network.
    """
    state = _read(path)
    try:
        trainer.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is the checkpoint of another network or optimizer: {error}") from error
    _restore_random_states(state["random"])


def _read(path: Path) -> dict[str, Any]:
    try:
        _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; expected the checkpoint of a run") from error
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged and cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path} is no checkpoint of lpgpu (format {FORMAT})")
    return state


def _check_sums(path: Path) -> None:
    """Raise BadZipFile where a byte has changed: a checkpoint is a zip with checksums, which torch.load passes over."""
    with zipfile.ZipFile(path) as archive:
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {name} is wrong")


def _random_states() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
    }


def _restore_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():  # the run may continue on another machine
        torch.cuda.set_rng_state_all(states["cuda"])
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
