"""A GRU that adds two marked numbers of a sequence of any length: `--steps 100000` is one.

    h_k = GRU(x_k, h_{k−1}),   scores = linear(h_T)

The usual test of memory over a given distance (Hochreiter & Schmidhuber 1997), as a question with four answers: see
`lpgpu.data.load_adding`. A mark is one step long, so that a coarse grid must see every step: hence Picard's operator.
"""

from dataclasses import dataclass

from lpgpu.data import load_adding
from lpgpu.train.setup.networks import GRUOptions, SequenceClassifier
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
    return Problem(network=SequenceClassifier(2, dataset.classes, options), dataset=dataset)


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
