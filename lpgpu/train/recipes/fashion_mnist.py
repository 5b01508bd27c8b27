"""A convolutional ODE network on Fashion-MNIST: pictures of clothes, 28×28 pixels, ten classes.

The network is `lpgpu.train.networks.image_classifier`, two 3×3 convolutions a step. T = 5 and m = 4 as published for
layer-parallel training on these images (S. Günther et al., SIAM J. Math. Data Sci. 2, 2020; A. Kirby et al., 2020);
depth, width and optimizer are ours.

The data are not part of the install: see `lpgpu.data.load_mnist` for what `--data-dir` may hold.
"""

from functools import lru_cache
from pathlib import Path

from lpgpu.data import FASHION_MNIST, Dataset, load_mnist
from lpgpu.train.networks import ImageOptions, image_classifier
from lpgpu.train.recipe import Problem, Recipe


def build(options: ImageOptions) -> Problem:
    """Network and data of the recipe."""
    dataset = options.first_images(_dataset(options.data_dir))
    return Problem(network=image_classifier(28, dataset.classes, options), dataset=dataset)


@lru_cache(maxsize=1)
def _dataset(data_dir: Path | None) -> Dataset:
    return load_mnist(FASHION_MNIST, data_dir)


RECIPE = Recipe(
    name="fashion-mnist",
    summary="convolutional ODE network on Fashion-MNIST, 28×28 pixels (needs the data set)",
    defaults=ImageOptions(
        epochs=5,
        batch_size=100,
        optimizer="sgd",
        learning_rate=2e-2,
        decay=0.8,
        layers=32,
        channels=8,
        final_time=5.0,
    ),
    build=build,
    prepare=lambda options: _dataset(options.data_dir),
)
