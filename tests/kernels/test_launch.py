"""Launches of kernels: counted, planned once for each combination of shapes and settings, or not made at all."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lpgpu.kernels import dispatch
from lpgpu.kernels.launch import Launch, forget_plans, launch


class Kernel:
    """Notes what it is launched with."""

    __name__ = "kernel"

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **options: self.seen.append((grid, arguments, options))


class Plan:
    """One program for each layer; counts how often it is asked."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.asked = 0

    def __call__(self, operands: tuple[Tensor | None, ...], rows: int) -> Launch:
        self.asked += 1
        (x, _) = operands
        assert x is not None
        return Launch(self.kernel, (len(x),), (x.stride(0), rows), {"num_warps": 4})


@pytest.fixture
def plan() -> Iterator[Plan]:
    forget_plans()
    dispatch.launches.clear()
    yield Plan(Kernel())
    forget_plans()


def test_a_launch_takes_tensors_scalars_and_numbers(plan: Plan) -> None:
    x = torch.zeros(3, 2)
    launch(plan, (x, None), (16,), (0.5,))
    assert plan.kernel.seen == [((3,), (x, None, 0.5, 2, 16), {"num_warps": 4})]
    assert dispatch.launches == {"kernel": 1}


def test_a_plan_is_made_once_for_equal_shapes_and_settings(plan: Plan) -> None:
    for scalar in (0.5, 0.25):
        launch(plan, (torch.randn(3, 2), None), (16,), (scalar,))
    assert (plan.asked, len(plan.kernel.seen)) == (1, 2)


@pytest.mark.parametrize(
    ("x", "other", "rows"),
    [
        (torch.zeros(4, 2), None, 16),
        (torch.zeros(3, 4)[:, ::2], None, 16),
        (torch.zeros(3, 2, dtype=torch.float64), None, 16),
        (torch.zeros(3, 2), torch.zeros(1), 16),
        (torch.zeros(3, 2), None, 32),
    ],
    ids=["shape", "strides", "dtype", "a tensor more", "settings"],
)
def test_a_plan_is_made_anew_for_others(plan: Plan, x: Tensor, other: Tensor | None, rows: int) -> None:
    launch(plan, (torch.zeros(3, 2), None), (16,))
    launch(plan, (x, other), (rows,))
    assert plan.asked == 2


def test_nothing_is_launched_where_there_is_no_program(plan: Plan) -> None:
    launch(plan, (torch.zeros(0, 2), None), (16,))
    assert not plan.kernel.seen and not dispatch.launches
