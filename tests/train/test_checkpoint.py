"""Checkpoints: whole or not at all, and refused with a reason when they do not fit."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from lpgpu.train import InputError, find_recipe
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.runs.atomic import atomic_write
from lpgpu.train.runs.checkpoint import load_checkpoint, save_checkpoint
from lpgpu.train.setup.networks import ODEOptions


def tiny_trainer(recipe: str = "digits", **options) -> Trainer:
    small = {"layers": 4, "channels": 2, "levels": 2, "batch_size": 700, "device": "cpu"}
    return Trainer(find_recipe(recipe), ODEOptions(**{**small, **options}))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, tiny_trainer(), {"recipe": "digits"})
    return path


def test_everything_random_comes_back(tmp_path: Path):
    trainer = tiny_trainer()
    save_checkpoint(tmp_path / "checkpoint.pt", trainer, {})

    def draws():
        return [torch.rand(3).tolist(), random.random(), np.random.random()]

    first = draws()
    load_checkpoint(tmp_path / "checkpoint.pt", trainer)
    assert draws() == first


def test_missing(tmp_path: Path):
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(tmp_path / "checkpoint.pt", tiny_trainer())


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint at all", None])
def test_damaged(saved: Path, damage: bytes | None):
    content = saved.read_bytes()
    saved.write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged"):
        load_checkpoint(saved, tiny_trainer())


def test_foreign(tmp_path: Path):
    torch.save({"weights": torch.ones(1)}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="is no checkpoint of lpgpu"):
        load_checkpoint(tmp_path / "checkpoint.pt", tiny_trainer())


@pytest.mark.parametrize("other", [{"channels": 3}, {"layers": 5}, {"recipe": "peaks"}])
def test_another_network(saved: Path, other: dict):
    with pytest.raises(InputError, match="is the checkpoint of another network"):
        load_checkpoint(saved, tiny_trainer(**other))


def test_interrupted_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch):
    before = saved.read_bytes()
    trainer = tiny_trainer(seed=1)

    def half_a_save(state, file):
        file.write(b"half of a check")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half_a_save)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, trainer, {})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_interrupted_first_write_leaves_nothing(tmp_path: Path, interruption: type[BaseException]):
    def write_half() -> None:
        with atomic_write(tmp_path / "file") as file:
            file.write(b"half")
            raise interruption

    with pytest.raises(interruption):
        write_half()
    assert list(tmp_path.iterdir()) == []
