"""The options of recipes whose images are those of MNIST or Fashion-MNIST, loaded once.

The data are not part of the install: see `lpgpu.data.load_mnist` for what `--data-dir` may hold.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from lpgpu.data import Dataset, Source, load_mnist
from lpgpu.train.setup.option_types import option
from lpgpu.train.setup.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class ImageOptions(TrainOptions):
    """Options of a recipe with a large set of images."""

    train_images: int = option(0, "train on so many images only, the first ones; 0: on all", least=0)
    test_images: int = option(0, "test on so many images only, the first ones; 0: on all", least=0)

    def images(self, source: Source) -> Dataset:
        """Those of `source`, float32 `[n, 1, 28, 28]`, as many as these options ask for. Raises as `load_mnist`."""
        dataset = all_images(source, self.data_dir)
        train, test = slice(self.train_images or None), slice(self.test_images or None)
        return replace(
            dataset,
            train_inputs=dataset.train_inputs[train],
            train_labels=dataset.train_labels[train],
            test_inputs=dataset.test_inputs[test],
            test_labels=dataset.test_labels[test],
        )


@lru_cache(maxsize=1)  # looked for before a run, used in it, and by every run of a comparison
def all_images(source: Source, data_dir: Path | None) -> Dataset:
    """The whole data set."""
    return load_mnist(source, data_dir)
