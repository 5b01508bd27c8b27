"""A GRU that tells from a signal of the Lorenz system, of any length, which of four systems it is of.

    h_k = GRU(x_k, h_{k−1}),   scores = linear(h_T)

The signal is smooth and its class a matter of means over many turns, so the longer the sequence (`--steps`), the more
can be known; T is what solves are parallel in. The data are generated: see `lpgpu.data.load_lorenz`.
"""

from dataclasses import dataclass
from functools import lru_cache

from lpgpu.data import Dataset, load_lorenz
from lpgpu.train.setup.networks import GRUOptions, SequenceNetwork
from lpgpu.train.setup.option_types import option
from lpgpu.train.setup.recipe import Problem, Recipe


@dataclass(frozen=True, kw_only=True)
class LorenzOptions(GRUOptions):
    """Options of the signals."""

    steps: int = option(512, "T, the length of every sequence", least=1)
    sequences: int = option(2000, "training sequences; a fourth as many for testing", least=16)


def build(options: LorenzOptions) -> Problem:
    """Network and data of the recipe."""
    dataset = _signals(options.steps, options.sequences, options.seed)
    return Problem(network=SequenceNetwork(1, dataset.classes, options), dataset=dataset)


@lru_cache(maxsize=1)  # one for all runs of a seed in a comparison
def _signals(steps: int, sequences: int, seed: int) -> Dataset:
    return load_lorenz(steps, train_sequences=sequences, test_sequences=sequences // 4, seed=seed)


RECIPE = Recipe(
    name="lorenz",
    summary="GRU that tells four Lorenz systems apart by a generated signal of any length (needs no data)",
    defaults=LorenzOptions(
        epochs=8,
        batch_size=50,
        learning_rate=3e-3,
        clip=1.0,
        hidden_size=32,
        num_layers=1,
        dt=0.25,
        levels=2,
        coarsening=4,
        coarse_operator="picard",
        adjoint_iterations=2,
        threads=1,
    ),
    build=build,
)
