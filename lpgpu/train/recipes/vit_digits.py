"""A vision transformer on scikit-learn's handwritten digits: 16 patches of 2×2 pixels, 16 pre-norm blocks.

    u_0 = W x_patch + P,   u_{k+1} = u_k + f_k(u_k),   scores = W' norm(mean over patches of u_N)

As `char-lm`, without the causal mask.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lpgpu.data import load_digits
from lpgpu.train.setup.networks import TransformerOptions
from lpgpu.train.setup.recipe import Problem, Recipe


class VisionTransformer(nn.Module):
    """Scores `[batch, classes]` of images `[batch, 1, 8, 8]`."""

    def __init__(self, classes: int, options: TransformerOptions) -> None:
        super().__init__()
        width = options.channels
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.position = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = options.transformer(causal=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        u = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(u).mean(1)))


def build(options: TransformerOptions) -> Problem:
    """Network and data of the recipe."""
    images = load_digits()
    mean, std = images.train_inputs.mean(), images.train_inputs.std()
    dataset = replace(
        images, train_inputs=(images.train_inputs - mean) / std, test_inputs=(images.test_inputs - mean) / std
    )
    return Problem(network=VisionTransformer(dataset.classes, options), dataset=dataset)


RECIPE = Recipe(
    name="vit-digits",
    summary="vision transformer of 16 layers on handwritten digits, 8×8 pixels (ships with scikit-learn)",
    defaults=TransformerOptions(
        epochs=30,
        batch_size=64,
        learning_rate=1e-3,
        optimizer="adamw",
        clip=1.0,
        layers=16,
        channels=32,
        final_time=16.0,
        levels=2,
        coarsening=4,
        coarse_operator="picard",
        relaxation="F",
        iterations=1,
        adjoint_iterations=1,
        threads=1,
    ),
    build=build,
)
