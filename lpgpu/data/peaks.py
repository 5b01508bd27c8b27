"""Points of the plane, classed by the level of MATLAB's peaks function at them.

    f(x, y) = 3 (1−x)² exp(−x² − (y+1)²) − 10 (x/5 − x³ − y⁵) exp(−x² − y²) − ⅓ exp(−(x+1)² − y²)

on [−3, 3]². Five classes: five bands of equal width between the least and the greatest value of f on a 256 × 256 grid.
The problem of E. Haber and L. Ruthotto, Stable architectures for deep neural networks (2017).
"""

import torch
from torch import Tensor

from lpgpu.data.dataset import Dataset

CLASSES = 5
HALF_WIDTH = 3.0
GRID = 256
DRAWS = 65536  # points per round of rejection sampling; the rarest class gets about 1 in 50 of them


def peaks(x: Tensor, y: Tensor) -> Tensor:
    """MATLAB's peaks function f(x, y), elementwise."""
    return (
        3 * (1 - x) ** 2 * torch.exp(-(x**2) - (y + 1) ** 2)
        - 10 * (x / 5 - x**3 - y**5) * torch.exp(-(x**2) - y**2)
        - torch.exp(-((x + 1) ** 2) - y**2) / 3
    )


def peaks_class(points: Tensor) -> Tensor:
    """The band, 0 … 4 from low to high, in which f lies at each of `points` `[n, 2]`; int64 `[n]`."""
    return torch.bucketize(peaks(points[:, 0], points[:, 1]), _band_edges(points.dtype))


def load_peaks(seed: int = 0, *, train_points: int = 5000, test_points: int = 200) -> Dataset:
    """Points drawn uniformly within each class, float32 `[n, 2]`, as many of every class.

    Raises ValueError when a number of points is no positive multiple of five, the number of classes.
    """
    for name, count in (("train_points", train_points), ("test_points", test_points)):
        if count < 1 or count % CLASSES:
            raise ValueError(
                f"{name}={count}: expected a positive multiple of {CLASSES}, as many points of every class"
            )
    generator = torch.Generator().manual_seed(seed)
    train_inputs, train_labels = _draw(train_points // CLASSES, generator)
    test_inputs, test_labels = _draw(test_points // CLASSES, generator)
    return Dataset(
        train_inputs=train_inputs,
        train_labels=train_labels,
        test_inputs=test_inputs,
        test_labels=test_labels,
        classes=CLASSES,
    )


def _band_edges(dtype: torch.dtype) -> Tensor:
    """The four values between the five bands, ascending."""
    axis = torch.linspace(-HALF_WIDTH, HALF_WIDTH, GRID, dtype=torch.float64)
    values = peaks(*torch.meshgrid(axis, axis, indexing="xy"))
    return torch.linspace(float(values.min()), float(values.max()), CLASSES + 1, dtype=dtype)[1:-1]


def _draw(per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`per_class` points of each class, by rejection; points `[5 per_class, 2]` and labels, class by class."""
    kept: list[list[Tensor]] = [[] for _ in range(CLASSES)]
    while min(sum(map(len, points)) for points in kept) < per_class:
        points = (2 * torch.rand(DRAWS, 2, generator=generator) - 1) * HALF_WIDTH
        labels = peaks_class(points)
        for label, chosen in enumerate(kept):
            chosen.append(points[labels == label])
    inputs = torch.cat([torch.cat(chosen)[:per_class] for chosen in kept])
    return inputs, torch.arange(CLASSES).repeat_interleave(per_class)
