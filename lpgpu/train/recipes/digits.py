"""A convolutional ODE network on scikit-learn's handwritten digits: 1437 training and 360 test images of 8×8 pixels.

    u_0 = relu(conv(x)),   u_{k+1} = u_k + Δt relu(conv_k(u_k)),   scores = linear(mean over 2×2 pixels of u_N)

All convolutions are 3×3, zero-padded; T = 1. No dropout, no normalisation, no augmentation. The depth smoothness γ/2 Σ
‖θ_{k+1} − θ_k‖²/Δt does two things: it regularises, and it makes every m-th layer speak for its neighbours, which is
what rediscretised coarse grids live on: with it a Picard operator has the same errors, at more evaluations.
"""

from torch import nn

from lpgpu.data import load_digits
from lpgpu.nn import ConvBlock
from lpgpu.train.setup.networks import ODEOptions
from lpgpu.train.setup.recipe import Problem, Recipe


def build(options: ODEOptions) -> Problem:
    """Network and data of the recipe."""
    dataset = load_digits()
    channels = options.channels
    layers = options.stack(lambda: ConvBlock(channels, convolutions=1))
    stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU())
    head = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(channels * 4 * 4, dataset.classes))
    return Problem(network=nn.Sequential(stem, layers, head), dataset=dataset)


RECIPE = Recipe(
    name="digits",
    summary="convolutional ODE network on handwritten digits, 8×8 pixels (ships with scikit-learn)",
    defaults=ODEOptions(
        epochs=16,
        learning_rate=1e-2,
        decay=0.95,
        smoothness=1e-4,
        layers=32,
        channels=16,
        coarse_operator="rediscretised",
        threads=1,
    ),
    build=build,
)
