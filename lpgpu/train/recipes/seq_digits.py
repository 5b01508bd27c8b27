"""A GRU that reads scikit-learn's handwritten digits pixel by pixel, row after row: 64 steps of one feature.

    h_k = GRU(x_k, h_{k−1}),   scores = linear(h_64 of the last layer)

The smallest problem on which a recurrent network is trained parallel in time; its data ship with the install. Pixels
jump from step to step, and a coarse grid sees but every m-th of them: hence two levels with m = 2, and a small Δt. With
m = 4, three levels and Δt = 1, good for the smooth signals of `uci-har`, the solves stall here and nothing is learnt.

Seed 0 reached a test accuracy of 90.6 %, 91.4 % with exact inference.
"""

from lpgpu.data import load_seq_digits
from lpgpu.train.setup.networks import GRUOptions, SequenceNetwork
from lpgpu.train.setup.recipe import Problem, Recipe


def build(options: GRUOptions) -> Problem:
    """Network and data of the recipe."""
    dataset = load_seq_digits()
    return Problem(network=SequenceNetwork(1, dataset.classes, options), dataset=dataset)


RECIPE = Recipe(
    name="seq-digits",
    summary="GRU that reads handwritten digits pixel by pixel, 64 steps (ships with scikit-learn)",
    defaults=GRUOptions(
        epochs=40,
        batch_size=16,
        learning_rate=5e-3,
        decay=0.95,
        tikhonov=1e-4,
        hidden_size=100,
        num_layers=1,
        dt=0.25,
        levels=2,
        coarsening=2,
        threads=1,
    ),
    build=build,
)
