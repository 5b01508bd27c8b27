"""The digits of scikit-learn read pixel by pixel, row after row: a sequence problem that ships with the install."""

from dataclasses import replace

from lpgpu.data.dataset import Dataset
from lpgpu.data.digits import load_digits

STEPS = 64


def load_seq_digits() -> Dataset:
    """1437 training and 360 test sequences, float32 `[n, 64, 1]`: the images of `load_digits`, same split.

    Standardised: the mean of all training pixels is subtracted, and the result divided by their standard deviation.
    """
    images = load_digits()
    mean, std = images.train_inputs.mean(), images.train_inputs.std(correction=0)
    train, test = (((part - mean) / std).reshape(-1, STEPS, 1) for part in (images.train_inputs, images.test_inputs))
    return replace(images, train_inputs=train, test_inputs=test)
