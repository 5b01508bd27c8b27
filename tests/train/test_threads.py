"""The option `threads`: what trains and what tunes computes with so many; 0 leaves the number as it is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lpgpu.nn.tune import search
from lpgpu.train import Run, find_recipe, train, tune_recipe
from lpgpu.train.loop.trainer import Trainer
from tests.train.helpers import tiny_run


@pytest.fixture
def before() -> Iterator[int]:
    """The number of threads outside of training, different from all that the tests ask for."""
    found = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(found)


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.usefixtures("no_plots")
def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, threads: int) -> None:
    seen = set()
    original = Trainer._step
    monkeypatch.setattr(Trainer, "_step", lambda *given: (seen.add(torch.get_num_threads()), original(*given))[1])
    run: Run = tiny_run(tmp_path / "run", threads=threads, epochs=1)
    train(run)
    assert seen == {threads or before} and torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [0, 3])
def test_tuning(monkeypatch: pytest.MonkeyPatch, before: int, threads: int) -> None:
    seen = set()
    monkeypatch.setattr(
        "lpgpu.train.after.tuning.search",
        lambda *given, **options: (seen.add(torch.get_num_threads()), search(*given, **options))[1],
    )
    recipe = find_recipe("peaks")
    tune_recipe(recipe, replace(recipe.defaults, layers=8, device="cpu", threads=threads), by="depth", max_tries=1)
    assert seen == {threads or before} and torch.get_num_threads() == before
