"""The adding problem (Hochreiter & Schmidhuber 1997, section 5.4): what do the two marked numbers of a sequence add to?

Inputs are pairs: a number that is uniform in [0, 1], and a mark, which is 1 at one step of the first half, at one step
of the second half, and 0 elsewhere, as in Arjovsky, Shah & Bengio 2016. The target is the sum s of the two marked
numbers. Whoever always answers its mean, 1, has the mean squared error Var s = 2/12, about 0.167.
"""

import torch
from torch import Tensor

from lpgpu.data.dataset import Dataset
from lpgpu.data.errors import DataError

BASELINE = 1 / 6


def load_adding(steps: int, *, train_sequences: int = 5000, test_sequences: int = 1000, seed: int = 0) -> Dataset:
    """Sequences, float32 `[n, steps, 2]`, and the sums of their marked numbers, float32 `[n, 1]`. A seed draws its own.

    Raises:
        ValueError: for fewer than 2 steps, or no sequences.
        DataError: for more than the memory can hold.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}; expected at least 2, one for each mark")
    if min(train_sequences, test_sequences) < 1:
        raise ValueError(f"there are {train_sequences} and {test_sequences} sequences; expected at least one of each")
    generator = torch.Generator().manual_seed(seed)
    train_inputs, train_labels = _drawn(train_sequences, steps, generator)
    test_inputs, test_labels = _drawn(test_sequences, steps, generator)
    return Dataset(
        train_inputs=train_inputs, train_labels=train_labels, test_inputs=test_inputs, test_labels=test_labels
    )


def _drawn(count: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    try:
        x = torch.zeros(count, steps, 2)
    except RuntimeError as error:
        size = f"{8 * count * steps / 2**30:.3g} GiB"
        raise DataError(f"{count} sequences of {steps} steps take {size}, more than there is; take fewer") from error
    half, rows = steps // 2, torch.arange(count)
    x[..., 0].uniform_(generator=generator)
    first = torch.randint(half, (count,), generator=generator)
    second = half + torch.randint(steps - half, (count,), generator=generator)
    x[rows, first, 1] = x[rows, second, 1] = 1.0
    return x, (x[rows, first, 0] + x[rows, second, 0])[:, None]
