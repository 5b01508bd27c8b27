"""The fused affine scan against the formula in fp64, on a device and in a dtype: shared by interpreter and GPU."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lpgpu.kernels.affine_scan import affine_scan
from tests.kernels.fused.inputs import Launched, assert_near, doubled, innermost, random

ORDERS = {"contiguous": lambda t: t, "batch innermost": innermost(2), "one anchor": lambda t: t[:, :1].expand_as(t)}


@dataclass(frozen=True)
class Case:
    """K intervals of S steps with states [B, H], and the memory orders of v and the anchors."""

    shape: tuple[int, int, int, int]
    orders: tuple[str, str] = ("contiguous", "contiguous")
    with_decay: bool = True
    reverse: bool = False
    dtype: torch.dtype = torch.float64
    device: str = "cpu"

    def tensor(self, steps: int) -> Tensor:
        intervals, _, *state = self.shape
        return random(intervals, steps, *state, dtype=self.dtype, device=self.device)


def expected(v: Tensor, phi: Tensor, anchors: Tensor, decay: Tensor | None, reverse: bool) -> Tensor:
    """Step after step, in fp64."""
    v, phi, anchors = doubled(v), doubled(phi), doubled(anchors)
    factor = torch.ones_like(phi) if decay is None else doubled(decay)
    steps = range(phi.shape[1])
    for j in reversed(steps) if reverse else steps:
        source, target = (j + 1, j) if reverse else (j, j + 1)
        v[:, target] = phi[:, j] + factor[:, j] * (v[:, source] - anchors[:, j])
    return v


def check(case: Case) -> None:
    steps = case.shape[1]
    v = ORDERS[case.orders[0]](case.tensor(steps + 1))
    phi, anchors = case.tensor(steps), ORDERS[case.orders[1]](case.tensor(steps))
    decay = case.tensor(steps).sigmoid() if case.with_decay else None
    v[:, : -1 if case.reverse else None][:, 0 if case.reverse else 1 :] = torch.nan
    exact = expected(v, phi, anchors, decay, case.reverse)
    with Launched() as launched:
        affine_scan(v, phi, anchors, decay, reverse=case.reverse)
    assert launched.names == {"affine_scan_kernel": 1}
    assert_near(v, exact, "states")
