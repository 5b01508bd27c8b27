"""Checkpoints: all that makes a continued run the same, bit for bit, as one that was never interrupted."""

import pickle
import random
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from lpgpu.train.atomic import atomic_write
from lpgpu.train.errors import InputError

FORMAT = 1


class Resumable(Protocol):
    """What a checkpoint holds the state of."""

    epoch: int
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    shuffle: torch.Generator


def save_checkpoint(path: Path, trainer: Resumable, config: dict[str, Any]) -> None:
    """Write weights, optimizer, epoch, random states and `config` to `path`, atomically."""
    state = {
        "format": FORMAT,
        "config": config,
        "epoch": trainer.epoch,
        "network": trainer.network.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "random": _random_states(trainer.shuffle),
    }
    with atomic_write(path) as file:
        torch.save(state, file)


def load_checkpoint(path: Path, trainer: Resumable) -> None:
    """Bring `trainer`, and the global random generators, to the state saved in `path`.

    Raises `InputError` when the file is missing, damaged, or of another network.
    """
    state = _read(path)
    try:
        trainer.network.load_state_dict(state["network"])
        trainer.optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{path} is the checkpoint of another network or optimizer: {error}") from error
    trainer.epoch = state["epoch"]
    _restore_random_states(state["random"], trainer.shuffle)


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; expected the checkpoint of a run") from error
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is damaged and cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path} is no checkpoint of lpgpu (format {FORMAT})")
    return state


def _random_states(shuffle: torch.Generator) -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "shuffle": shuffle.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
    }


def _restore_random_states(states: dict[str, Any], shuffle: torch.Generator) -> None:
    shuffle.set_state(states["shuffle"])
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():  # the run may continue on another machine
        torch.cuda.set_rng_state_all(states["cuda"])
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
