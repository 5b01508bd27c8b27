"""A residual network of three ODE stages with BatchNorm on Fashion-MNIST, 28×28 pixels, ten classes.

The network is that of `lpgpu.nn.resnet`: `--layers` are those of each stage, `--channels` the width of the first, which
doubles where the image is halved: 28, 14 and 7 pixels. T is the final time of each stage.

The data are not part of the install: see `lpgpu.data.load_mnist` for what `--data-dir` may hold.
"""

from dataclasses import dataclass
from typing import Literal

from lpgpu.data import FASHION_MNIST
from lpgpu.nn.resnet import StagedResNet
from lpgpu.train.setup.image_recipe import ODEImageOptions
from lpgpu.train.setup.option_types import option
from lpgpu.train.setup.recipe import Problem, Recipe

STAGES = 3


@dataclass(frozen=True, kw_only=True)
class StageOptions(ODEImageOptions):
    """Options of the network of stages."""

    norm: Literal["batch", "group", "none"] = option("batch", "what normalises before each convolution")


def build(options: StageOptions) -> Problem:
    """Network and data of the recipe."""
    dataset = options.images(FASHION_MNIST)
    widths = [options.channels * 2**s for s in range(STAGES)]
    network = StagedResNet(1, dataset.classes, widths, lambda s, block: options.stack(block), options.norm)
    return Problem(network=network, dataset=dataset)


RECIPE = Recipe(
    name="resnet-fashion",
    summary="residual network of three ODE stages with BatchNorm on Fashion-MNIST (needs the data set)",
    defaults=StageOptions(
        epochs=5,
        batch_size=100,
        learning_rate=2e-3,
        decay=0.8,
        layers=32,
        channels=8,
        final_time=2.0,
        levels=2,
        coarsening=8,
        relaxation="F",
        iterations=1,
        adjoint_iterations=1,
    ),
    build=build,
    prepare=lambda options: options.images(FASHION_MNIST),
)
