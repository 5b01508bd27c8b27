"""Launches of kernels: counted, planned once for each combination of shapes and settings, or not made at all."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lpgpu.kernels import dense_step, dispatch, implicit_gru
from lpgpu.kernels import launch as launching
from lpgpu.kernels.implicit_gru import Cell
from lpgpu.kernels.launch import Launch, forget_plans, launch
from lpgpu.kernels.sweep import Sweep, Terms


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


def host_calls(call: Callable[[], object]) -> tuple[int, int]:
    """Python functions called, and kernels launched, by a call whose launch plans are made already."""
    call()
    calls, before = 0, sum(dispatch.launches.values())

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return calls, sum(dispatch.launches.values()) - before


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(("steps", "most", "launches"), [("resident", 80, 1), ("tiled", 45, 3)])
def test_the_host_does_little_for_each_launch(
    steps: str, most: int, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors of a CPU, with kernels that are not run: no size, tile or stride is worked out a second time."""
    monkeypatch.setattr(launching, "start", lambda *_: None)
    monkeypatch.setattr(dispatch, "interpreted", lambda: True)
    width = 64 if steps == "resident" else 600
    u, w, b = torch.zeros(13, 2, width), torch.zeros(12, width, width), torch.zeros(12, width)
    h, x = torch.zeros(13, 2, width), torch.zeros(12, 2, 3 * width)
    cell = Cell(torch.zeros(3 * width, width), None, 1.0, "classic")
    sweep, terms = Sweep(12, 0, 4, 3), Terms(g=torch.zeros(13, 2, width))
    with dispatch.backend("fused"):
        for call in (
            lambda: dense_step.sweep(u, w, b, 0.1, "tanh", sweep, terms),
            lambda: implicit_gru.sweep(h, x, cell, sweep, terms),
        ):
            calls, launched = host_calls(call)
            assert launched == launches
            assert calls <= most * launches
