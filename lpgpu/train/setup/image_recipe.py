"""What the recipes of MNIST and Fashion-MNIST share: all but the pictures.

The network is `image_classifier` (`lpgpu.train.setup.networks`), two 3×3 convolutions a step. T = 5 and m = 4 as
published for layer-parallel training on these images (S. Günther et al., SIAM J. Math. Data Sci. 2, 2020; A. Kirby et
al., 2020); depth, width and optimizer are ours.
"""

from dataclasses import dataclass

from lpgpu.data import Source
from lpgpu.train.setup.images import ImageOptions
from lpgpu.train.setup.networks import ODEOptions, image_classifier
from lpgpu.train.setup.recipe import Problem, Recipe


@dataclass(frozen=True, kw_only=True)
class ODEImageOptions(ImageOptions, ODEOptions):
    """Options of an ODE network for images."""


def image_recipe(source: Source, name: str, pictures: str) -> Recipe:
    """The recipe called `name`, on the data set of `source`, `pictures` in a few words."""

    def build(options: ODEImageOptions) -> Problem:
        dataset = options.images(source)
        return Problem(network=image_classifier(28, dataset.classes, options), dataset=dataset)

    return Recipe(
        name=name,
        summary=f"convolutional ODE network on {pictures}, 28×28 pixels (needs the data set)",
        defaults=ODEImageOptions(
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
        prepare=lambda options: options.images(source),
    )
