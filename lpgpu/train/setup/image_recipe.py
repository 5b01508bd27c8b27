"""What the recipes of MNIST and Fashion-MNIST share: all but the pictures.

The network is `image_classifier` (`lpgpu.train.setup.networks`), two 3×3 convolutions a step. T = 5 and m = 4 as
published for layer-parallel training on these images (S. Günther et al., SIAM J. Math. Data Sci. 2, 2020; A. Kirby et
al., 2020); depth, width and optimizer are ours.

The data are not part of the install: see `lpgpu.data.load_mnist` for what `--data-dir` may hold.
"""

from functools import lru_cache
from pathlib import Path

from lpgpu.data import Dataset, Source, load_mnist
from lpgpu.train.setup.networks import ImageOptions, image_classifier
from lpgpu.train.setup.recipe import Problem, Recipe


def image_recipe(source: Source, name: str, pictures: str) -> Recipe:
    """The recipe called `name`, on the data set of `source`, `pictures` in a few words."""

    @lru_cache(maxsize=1)  # looked for before a run, used in it, and by every run of a comparison
    def load(data_dir: Path | None) -> Dataset:
        return load_mnist(source, data_dir)

    def build(options: ImageOptions) -> Problem:
        dataset = options.first_images(load(options.data_dir))
        return Problem(network=image_classifier(28, dataset.classes, options), dataset=dataset)

    return Recipe(
        name=name,
        summary=f"convolutional ODE network on {pictures}, 28×28 pixels (needs the data set)",
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
        prepare=lambda options: load(options.data_dir),
    )
