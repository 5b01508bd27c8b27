"""A GRU that reads MNIST pixel by pixel, row after row: 784 steps of one feature; `--permuted`: in one random order.

    h_k = GRU(x_k, h_{k−1}),   scores = linear(h_784 of the last layer)

Sequential and permuted MNIST are the usual tests of long memory (Le, Jaitly & Hinton 2015). A small Δt is a memory of
1/Δt steps from the start, without which nothing is learned for long. It is also what MGRIT finds hard: the settings are
those that kept the gradient within a few percent all through a training (docs/experiments/training_curves.md). The data
are not part of the install: see `lpgpu.data.load_mnist` for what `--data-dir` may hold.
"""

from dataclasses import dataclass, replace

import torch

from lpgpu.data import MNIST
from lpgpu.train.setup.images import ImageOptions
from lpgpu.train.setup.networks import GRUOptions, SequenceNetwork
from lpgpu.train.setup.option_types import option
from lpgpu.train.setup.recipe import Problem, Recipe


@dataclass(frozen=True, kw_only=True)
class PixelOptions(ImageOptions, GRUOptions):
    """Options of sequential MNIST."""

    permuted: bool = option(False, "read the pixels in one random order, the same for all images and seeds")


def build(options: PixelOptions) -> Problem:
    """Network and data of the recipe."""
    images = options.images(MNIST)
    steps = images.train_inputs[0].numel()
    order = torch.randperm(steps, generator=torch.Generator().manual_seed(0)) if options.permuted else slice(None)
    dataset = replace(
        images,
        train_inputs=images.train_inputs.reshape(-1, steps, 1)[:, order],
        test_inputs=images.test_inputs.reshape(-1, steps, 1)[:, order],
    )
    return Problem(network=SequenceNetwork(1, dataset.classes, options), dataset=dataset)


RECIPE = Recipe(
    name="seq-mnist",
    summary="GRU that reads MNIST pixel by pixel, 784 steps (needs the data set)",
    defaults=PixelOptions(
        epochs=5,
        batch_size=40,
        learning_rate=5e-3,
        clip=1.0,
        hidden_size=48,
        num_layers=1,
        dt=0.02,
        levels=2,
        coarsening=8,
        relaxation="F",
        iterations=2,
        adjoint_iterations=2,
        coarse_operator="picard",
        threads=1,
    ),
    build=build,
    prepare=lambda options: options.images(MNIST),
)
