"""A dense ODE network on the Indian Pines scene: 16 kinds of land cover from the spectrum of a pixel.

    u_0 = tanh(K x + b),   u_{k+1} = u_k + Δt tanh(A_k u_k + b_k),   scores = linear(u_N)

T = 20 and tanh as published (S. Günther et al., SIAM J. Math. Data Sci. 2, 2020); depth, width, optimizer and the share
of pixels to train on are ours. The layers start from a tenth of PyTorch's weights: over T = 20 the whole ones make a
flow so steep that a cycle of MGRIT leaves more than half of the residual.

The data are not part of the install: see `lpgpu.data.load_indian_pines` for what `--data-dir` may hold.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from lpgpu.data import Dataset, load_indian_pines
from lpgpu.nn import Activate, DenseBlock
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.networks import ODEOptions
from lpgpu.train.setup.option_types import option
from lpgpu.train.setup.recipe import Problem, Recipe


@dataclass(frozen=True, kw_only=True)
class PixelOptions(ODEOptions):
    """Options of this recipe."""

    train_share: float = option(0.5, "share of every class's pixels to train on; the rest test", above=0)

    initial: float = option(0.1, "factor on PyTorch's initial weights of the layers", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_share >= 1:
            raise InputError(f"train_share is {self.train_share}; expected a number between 0 and 1")


def build(options: PixelOptions) -> Problem:
    """Network and data of the recipe."""
    dataset = _dataset(options.data_dir, options.train_share)
    width = options.channels
    layers = options.stack(lambda: DenseBlock(width))
    with torch.no_grad():
        for theta in layers.parameters():
            theta.mul_(options.initial)
    stem = nn.Sequential(nn.Linear(dataset.train_inputs.shape[-1], width), Activate("tanh"))
    return Problem(network=nn.Sequential(stem, layers, nn.Linear(width, dataset.classes)), dataset=dataset)


@lru_cache(maxsize=1)
def _dataset(data_dir: Path | None, train_share: float) -> Dataset:
    return load_indian_pines(data_dir, train_share=train_share)


RECIPE = Recipe(
    name="indian-pines",
    summary="dense ODE network that tells land cover from the spectrum of a pixel (needs the data set)",
    defaults=PixelOptions(
        epochs=60,
        batch_size=50,
        learning_rate=3e-3,
        smoothness=1e-4,
        layers=128,
        channels=32,
        final_time=20.0,
        threads=1,
    ),
    build=build,
    prepare=lambda options: _dataset(options.data_dir, options.train_share),
)
