"""Human activity recognition (UCI HAR): a GRU over 128 steps of 9 channels, six classes.

    h_k = GRU(x_k, h_{k−1}),   scores = linear(h_128 of the last layer)

After G. E. Moon and E. C. Cyr, Parallel training of GRU networks with a multi-grid solver for long sequences (ICLR
2022), whose setting is the default: 2 layers of 100, implicit, Δt = 1, batch 100, Adam with 1e-3; MGRIT on 3 levels
with m = 4, 2 cycles forward and 1 adjoint. Different here: the coarse grids are Δ-corrected (not with `--delta none`),
and the channels are standardised with the mean and standard deviation of the training set.

The data are not part of the install: see `lpgpu.data.load_uci_har` for what `--data-dir` may hold.
"""

from functools import lru_cache
from pathlib import Path

from lpgpu.data import Dataset, load_uci_har
from lpgpu.train.setup.networks import GRUOptions, SequenceNetwork
from lpgpu.train.setup.recipe import Problem, Recipe


def build(options: GRUOptions) -> Problem:
    """Network and data of the recipe."""
    dataset = _dataset(options.data_dir)
    network = SequenceNetwork(dataset.train_inputs.shape[-1], dataset.classes, options)
    return Problem(network=network, dataset=dataset)


@lru_cache(maxsize=1)  # looked for before a run, used in it, and by every run of a comparison
def _dataset(data_dir: Path | None) -> Dataset:
    return load_uci_har(data_dir)


RECIPE = Recipe(
    name="uci-har",
    summary="GRU that tells six activities from 128 steps of a smartphone's motion sensors (needs the data set)",
    defaults=GRUOptions(epochs=10, batch_size=100, threads=1),
    build=build,
    prepare=lambda options: _dataset(options.data_dir),
)
