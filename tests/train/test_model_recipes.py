"""The recipes of transformers and of sequential MNIST: tiny runs to the end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lpgpu.data import Dataset
from lpgpu.train import find_recipe, train
from lpgpu.train.recipes import seq_mnist
from tests.train.helpers import tiny_run

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.mark.parametrize(
    ("recipe", "options"),
    [("char-lm", {"characters": 2000, "context": 8, "dropout": 0.1}), ("vit-digits", {"batch_size": 720})],
)
def test_transformers_train(tmp_path: Path, recipe: str, options: dict[str, Any]) -> None:
    run = tiny_run(tmp_path / "run", recipe, heads=1, coarsening=2, epochs=1, **options)
    summary = train(run)
    assert 0 <= summary["test_accuracy"] <= 1 and 0 <= summary["test_accuracy_serial"] <= 1
    assert 0 <= summary["forward_reduction"] < 1


@pytest.mark.parametrize("permuted", [False, True])
def test_sequential_mnist(monkeypatch: pytest.MonkeyPatch, permuted: bool) -> None:
    """The pixels in order, or all in one other order, the same for training and test images."""
    pictures = torch.arange(784.0).view(1, 1, 28, 28).repeat(5, 1, 1, 1)
    labels = torch.arange(5)
    of_mnist = Dataset(
        train_inputs=pictures, train_labels=labels, test_inputs=pictures[:3], test_labels=labels[:3], classes=10
    )
    monkeypatch.setattr(seq_mnist, "_images", lambda data_dir: of_mnist)
    recipe = find_recipe("seq-mnist")
    problem = recipe.build(replace(recipe.defaults, permuted=permuted, train_images=4, hidden_size=3))
    data = problem.dataset
    assert data.train_inputs.shape == (4, 784, 1) and data.test_inputs.shape == (3, 784, 1)
    assert torch.equal(data.train_inputs[0], data.test_inputs[2])
    assert torch.equal(data.train_inputs[0, :, 0], torch.arange(784.0)) is not permuted
    assert torch.equal(data.train_inputs[0, :, 0].sort().values, torch.arange(784.0))
    assert problem.network(data.train_inputs[:2]).shape == (2, 10)
