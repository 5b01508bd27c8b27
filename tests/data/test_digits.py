"""The digits are the documented ones, split the documented way."""

import torch

from lpgpu.data import load_digits


def test_shapes_ranges_and_sizes():
    data = load_digits()
    assert data.train_inputs.shape == (1437, 1, 8, 8)
    assert data.test_inputs.shape == (360, 1, 8, 8)
    assert data.train_inputs.dtype == torch.float32
    assert data.train_labels.dtype == torch.int64
    assert data.train_inputs.min() == 0 and data.train_inputs.max() == 1
    assert data.classes == 10


def test_split_is_stratified_and_loses_nothing():
    data = load_digits()
    train, test = data.train_labels.bincount(), data.test_labels.bincount()
    assert (train + test).sum() == 1797
    assert ((test / (train + test) - 360 / 1797).abs() < 0.01).all()
    images = torch.cat([data.train_inputs, data.test_inputs]).flatten(1)
    assert len(images.unique(dim=0)) == 1797  # all images differ, so no test image is a training image


def test_split_is_always_the_same():
    torch.manual_seed(1)
    first = load_digits()
    torch.manual_seed(2)
    second = load_digits()
    assert torch.equal(first.train_inputs, second.train_inputs)
    assert torch.equal(first.test_labels, second.test_labels)
