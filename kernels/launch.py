"""Launching Triton kernels: what a launch depends on is planned once for each combination of shapes and strides.

A *plan* is a function of tensors and settings that looks at no number in the tensors and says how a kernel is launched
on them: grid, tile, strides. `launch` calls it once for each combination and keeps what it said.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lpgpu.kernels.arguments import forms_of
from lpgpu.kernels.dispatch import launches

_MOST_PLANS = 4096  # a training run meets a few hundred


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched: its arguments are tensors, scalars of the call, then `numbers`.

    Attributes:
        kernel: the `triton.jit` function.
        grid: how many programs, in up to three dimensions; with a zero there is nothing to launch.
        numbers: sizes and strides.
        options: the keyword arguments: tile, dtypes, warps.
    """

    kernel: Any
    grid: tuple[int, ...]
    numbers: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


Operands = tuple[Any, ...]
"""A kernel's tensors, None where one is absent."""
Plan = Callable[..., Launch]

_plans: dict[Any, Launch] = {}


def launch(
    plan: Plan, tensors: Sequence[Tensor | None], settings: tuple[Any, ...] = (), scalars: tuple[Any, ...] = ()
) -> None:
    """Launch what `plan(tensors, *settings)` says on `tensors` and `scalars`; the settings are hashable."""
    device = next(t.device for t in tensors if t is not None)
    key = plan, settings, device, forms_of(tensors)
    planned = _plans.get(key)
    if planned is None:
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        planned = _plans[key] = plan(tensors, *settings)
    if 0 in planned.grid:
        return
    launches[planned.kernel.__name__] += 1
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        start(planned.kernel, planned.grid, (*tensors, *scalars, *planned.numbers), planned.options)
    else:
        with torch.cuda.device(device):
            start(planned.kernel, planned.grid, (*tensors, *scalars, *planned.numbers), planned.options)


def start(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Launch on the current device's current stream."""
    kernel[grid](*arguments, **options)


def forget_plans() -> None:
    """Plan every launch anew: after a change of what plans read, such as the tiles."""
    _plans.clear()
