"""Penalties: their values by hand, their gradients by finite differences."""

import pytest
import torch

from lpgpu.train.loop.regularization import depth_smoothness, tikhonov


def parameters() -> list[torch.Tensor]:
    return [torch.randn(5, *shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 3), (3,))]


def test_tikhonov_by_hand():
    assert tikhonov([torch.tensor([3.0]), torch.tensor([[4.0]])]).item() == 12.5


def test_depth_smoothness_by_hand():
    theta = torch.tensor([[0.0, 1.0], [2.0, 1.0], [2.0, 4.0]])  # differences (2, 0) and (0, 3): ½ (4 + 9) / Δt
    assert depth_smoothness([theta], dt=0.5).item() == 13.0
    assert depth_smoothness([theta[:1]], dt=0.5).item() == 0.0


@pytest.mark.parametrize("penalty", [tikhonov, lambda thetas: depth_smoothness(thetas, dt=0.25)])
def test_gradients(penalty):
    assert torch.autograd.gradcheck(lambda *thetas: penalty(thetas), parameters())
