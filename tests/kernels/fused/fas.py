"""The fused FAS arithmetic against the reference in fp64, on a device and in a dtype: shared by interpreter and GPU."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lpgpu.kernels import fas
from tests.kernels.fused.inputs import Launched, assert_near, doubled, innermost, random, spread

ORDERS = {"contiguous": lambda t: t, "channels last": innermost(2), "spread": spread, "every second column": None}


@dataclass(frozen=True)
class Case:
    """Shape [points, …] with at least three dimensions, and the memory order of each of φ, u and Φ_c."""

    shape: tuple[int, ...]
    orders: tuple[str, str, str] = ("contiguous", "spread", "contiguous")
    dtype: torch.dtype = torch.float64
    device: str = "cpu"

    def tensor(self, which: int, points: int | None = None) -> Tensor:
        shape = (self.shape[0] if points is None else points, *self.shape[1:])
        order = ORDERS[self.orders[which]]
        if order is None:
            wide = random(*shape[:-1], 2 * shape[-1], dtype=self.dtype, device=self.device)
            return wide[..., ::2]
        return order(random(*shape, dtype=self.dtype, device=self.device))


def check(case: Case, coarse_points: int) -> None:
    phi, u, coarse_phi = case.tensor(0), case.tensor(1), case.tensor(2, coarse_points)
    before = doubled(phi), doubled(u)
    expected = (doubled(phi) - doubled(u)).square().sum().item()
    right_hand_side = doubled(phi[:coarse_points]) - doubled(coarse_phi)

    with Launched() as launched:
        norms = [fas.residual_norm(phi, u) for _ in range(2)]
    assert launched.names == {"fas_residual_kernel": 2, "fas_sum_kernel": 2}
    assert norms[0].dtype == torch.float64 and norms[0].shape == ()
    assert norms[0].item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(*norms)

    copy = coarse_phi.clone()
    with Launched() as launched:
        norm = fas.restrict_(coarse_phi, phi, u)
    assert launched.names == {"fas_residual_kernel": 1, "fas_sum_kernel": 1}
    assert norm.item() == pytest.approx(expected, rel=1e-12)
    assert_near(coarse_phi, right_hand_side, "right-hand side with the norm")

    with Launched() as launched:
        assert fas.coarse_right_hand_side_(copy, phi[:coarse_points]) is copy
    assert launched.names == {"fas_right_hand_side_kernel": 1}
    assert_near(copy, right_hand_side, "right-hand side")
    assert torch.equal(doubled(phi), before[0]) and torch.equal(doubled(u), before[1])

    check_shared_intervals(case)
    for which, t in enumerate((phi, u, coarse_phi)):
        if case.orders[which] == "spread":
            assert t._base is not None and t._base[0::2].isnan().all()


def check_shared_intervals(case: Case) -> None:
    """φ's first point is of no coarse layer here, and its last of another rank's interval."""
    phi, u, coarse_phi = case.tensor(0, 5), case.tensor(1, 4), case.tensor(2, 3)
    expected = (doubled(phi[:4]) - doubled(u)).square().sum().item()
    right_hand_side = doubled(phi[1:4]) - doubled(coarse_phi)
    assert fas.restrict_(coarse_phi, phi, u, 1).item() == pytest.approx(expected, rel=1e-12)
    assert_near(coarse_phi, right_hand_side, "right-hand side of shared intervals")
