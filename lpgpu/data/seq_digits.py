"""The digits of scikit-learn read pixel by pixel, row after row: a sequence problem that ships with the install."""

from dataclasses import replace

from torch import Tensor

from lpgpu.data.dataset import Dataset
from lpgpu.data.digits import load_digits

STEPS = 64


def load_seq_digits() -> Dataset:
    """1437 training and 360 test sequences, float32 `[n, 64, 1]`: the images of `load_digits`, same split."""
    images = load_digits()
    return replace(images, train_inputs=_rows(images.train_inputs), test_inputs=_rows(images.test_inputs))


def _rows(images: Tensor) -> Tensor:
    return images.reshape(-1, STEPS, 1)
