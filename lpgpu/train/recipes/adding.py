"""A GRU that adds two marked numbers of a sequence of any length: `--steps 100000` is one.

    h_k = GRU(x_k, h_{k−1}),   y = linear(h_T),   loss = mean of (y − s)²

The usual test of memory over a given distance (Hochreiter & Schmidhuber 1997; Le, Jaitly & Hinton 2015; Arjovsky, Shah
& Bengio 2016): s is the sum of the two numbers, see `lpgpu.data.load_adding`. Whoever always answers 1 has a mean
squared error of 1/6; below that, both marks have been found. A mark is one step long, so that a coarse grid must see
every step: hence Picard's operator.
"""

from dataclasses import dataclass, replace

from torch import nn

from lpgpu.data import load_adding
from lpgpu.data.adding import BASELINE
from lpgpu.train.setup.metric import MEAN_SQUARED_ERROR
from lpgpu.train.setup.networks import GRUOptions, SequenceNetwork
from lpgpu.train.setup.option_types import option
from lpgpu.train.setup.recipe import Problem, Recipe


@dataclass(frozen=True, kw_only=True)
class AddingOptions(GRUOptions):
    """Options of the adding problem."""

    steps: int = option(128, "T, the length of every sequence", least=2)
    sequences: int = option(10000, "training sequences; a tenth as many for testing", least=10)


def build(options: AddingOptions) -> Problem:
    """Network and data of the recipe."""
    count = options.sequences
    dataset = load_adding(options.steps, train_sequences=count, test_sequences=count // 10, seed=options.seed)
    return Problem(
        network=SequenceNetwork(2, 1, options),
        dataset=dataset,
        loss=nn.functional.mse_loss,
        metric=replace(MEAN_SQUARED_ERROR, baseline=BASELINE, baseline_name="always answering 1"),
    )


RECIPE = Recipe(
    name="adding",
    summary="GRU that adds two marked numbers of a generated sequence of any length (needs no data)",
    defaults=AddingOptions(
        epochs=15,
        batch_size=50,
        learning_rate=5e-3,
        clip=1.0,
        hidden_size=32,
        num_layers=1,
        levels=3,
        coarsening=4,
        coarse_operator="picard",
        adjoint_iterations=2,
        threads=1,
    ),
    build=build,
)
