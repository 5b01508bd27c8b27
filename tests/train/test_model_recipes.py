"""The recipes of transformers, of stages and of long sequences: tiny runs to the end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lpgpu.data import DataError, Dataset
from lpgpu.train import InputError, find_recipe, train
from lpgpu.train.setup import images
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 3}, "heads is 3, channels is 32; expected a number of heads that divides it"),
        ({"dropout": 1.5}, r"dropout is 1\.5; expected a finite number ≥ 0 and ≤ 1"),
    ],
)
def test_transformers_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(find_recipe("vit-digits").defaults, **changes)


@pytest.mark.usefixtures("no_plots")
def test_data_that_cannot_be_made_leave_nothing_behind(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "adding", steps=10**11, sequences=10**4)
    with pytest.raises(DataError, match="more than there is"):
        train(run)
    assert not run.folder.exists()


@pytest.mark.parametrize("permuted", [False, True])
def test_sequential_mnist(monkeypatch: pytest.MonkeyPatch, permuted: bool) -> None:
    """The pixels in order, or all in one other order, the same for training and test images."""
    pictures = torch.arange(784.0).view(1, 1, 28, 28).repeat(5, 1, 1, 1)
    labels = torch.arange(5)
    of_mnist = Dataset(
        train_inputs=pictures, train_labels=labels, test_inputs=pictures[:3], test_labels=labels[:3], classes=10
    )
    monkeypatch.setattr(images, "all_images", lambda source, data_dir: of_mnist)
    recipe = find_recipe("seq-mnist")
    problem = recipe.build(replace(recipe.defaults, permuted=permuted, train_images=4, hidden_size=3))
    data = problem.dataset
    assert data.train_inputs.shape == (4, 784, 1) and data.test_inputs.shape == (3, 784, 1)
    assert torch.equal(data.train_inputs[0], data.test_inputs[2])
    assert torch.equal(data.train_inputs[0, :, 0], torch.arange(784.0)) is not permuted
    assert torch.equal(data.train_inputs[0, :, 0].sort().values, torch.arange(784.0))
    assert problem.network(data.train_inputs[:2]).shape == (2, 10)


@pytest.mark.parametrize(("recipe", "metric"), [("adding", "mean_squared_error"), ("lorenz", "accuracy")])
def test_generated_sequences_train(tmp_path: Path, recipe: str, metric: str) -> None:
    """Of a length that is no multiple of the interval's."""
    run = tiny_run(tmp_path / "run", recipe, steps=21, sequences=40, batch_size=20, epochs=1, coarsening=4)
    summary = train(run)
    assert all(0 <= summary[f"test_{metric}{of}"] <= (1 if recipe == "lorenz" else 9) for of in ("", "_serial"))
    assert 0 <= summary["forward_reduction"] < 1


@pytest.mark.parametrize("recipe", ["adding", "lorenz"])
def test_sequences_are_as_long_and_as_many_as_asked_for(recipe: str) -> None:
    made = find_recipe(recipe)
    data = made.build(replace(made.defaults, steps=33, sequences=40, seed=3)).dataset
    assert data.train_inputs.shape[:2] == (40, 33) and len(data.test_inputs) == {"adding": 4, "lorenz": 10}[recipe]
    assert not torch.equal(
        data.train_inputs, made.build(replace(made.defaults, steps=33, sequences=40)).dataset.train_inputs
    )


def test_stages_train_with_batch_norm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage is a part that is solved; running statistics move, and come back with the checkpoint."""
    pictures = torch.randn(40, 1, 28, 28)
    dataset = Dataset(
        train_inputs=pictures,
        train_labels=torch.arange(40) % 10,
        test_inputs=pictures[:10],
        test_labels=torch.arange(10),
        classes=10,
    )
    monkeypatch.setattr(images, "all_images", lambda source, data_dir: dataset)
    run = tiny_run(tmp_path / "run", "resnet-fashion", layers=4, coarsening=2, epochs=1, batch_size=20)
    summary = train(run)
    assert 0 <= summary["test_accuracy"] <= 1 and 0 <= summary["forward_reduction"] < 1
    kept = torch.load(run.checkpoint, weights_only=True)["network"]
    assert [tuple(kept[f"stages.{s}.layers.first.2.weight"].shape) for s in range(3)] == [
        (4, width, width, 3, 3) for width in (2, 4, 8)
    ]
    assert kept["stages.2.layers.second.0.num_batches_tracked"].tolist() == [2] * 4
    assert kept["stages.2.layers.second.0.running_mean"].abs().min() > 0
