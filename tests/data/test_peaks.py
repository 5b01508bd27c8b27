"""The peaks function against its known extrema, and the sampling of its classes."""

import pytest
import torch

from lpgpu.data import load_peaks
from lpgpu.data.peaks import peaks, peaks_class


@pytest.mark.parametrize(
    ("x", "y", "value"),
    [
        (-0.0093, 1.5814, 8.1062),  # the maximum and the minimum, as published for MATLAB's peaks
        (0.2283, -1.6255, -6.5511),
        (-0.4600, -0.6292, 3.7766),
        (0.0, 0.0, 3 * 2.718281828**-1 - 2.718281828**-1 / 3),  # by hand: the middle term vanishes
    ],
)
def test_known_values(x: float, y: float, value: float):
    computed = peaks(torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64))
    assert computed.item() == pytest.approx(value, abs=1e-4)


def test_bands_are_five_equal_ones_between_the_extrema():
    low, high = -6.5511, 8.1062
    points = torch.rand(2000, 2, dtype=torch.float64) * 6 - 3
    values = peaks(points[:, 0], points[:, 1])
    band = (values - low) / (high - low) * 5
    clear = (band - band.round()).abs() > 0.01  # the grid's extrema are those of the function to three digits
    assert torch.equal(peaks_class(points)[clear], band.long().clamp(0, 4)[clear])


def test_classes_are_balanced_and_points_in_the_square():
    data = load_peaks(3)
    assert data.train_inputs.shape == (5000, 2) and data.test_inputs.shape == (200, 2)
    assert data.train_labels.bincount().tolist() == [1000] * 5
    assert data.test_labels.bincount().tolist() == [40] * 5
    assert data.train_inputs.abs().max() <= 3
    assert torch.equal(peaks_class(data.train_inputs), data.train_labels)


def test_points_follow_the_seed_alone():
    state = torch.get_rng_state()
    first, again, other = load_peaks(1), load_peaks(1), load_peaks(2)
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert not torch.equal(first.train_inputs, other.train_inputs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [0, -5, 7])
def test_number_of_points_must_be_shared_by_five_classes(count: int):
    with pytest.raises(ValueError, match=f"train_points={count}: expected a positive multiple of 5"):
        load_peaks(train_points=count)
