"""Inputs for fused kernels: on any device, in several memory orders, what is to be written NaN until it is."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lpgpu.kernels import dispatch
from lpgpu.kernels.sweep import Terms
from tests.assertions import TOLERANCE, relative_error

FULL = os.environ.get("LPGPU_GPU_FULL") == "1"
ACTIVATIONS = ["identity", "relu", "silu", "smooth_relu", "tanh"]


def some(always: list[Any], *more: Any) -> list[Any]:
    """Parameters of a GPU test: every kernel, dtype and tier once, and with `LPGPU_GPU_FULL=1` all combinations."""
    return [*always, *(more if FULL else ())]


def random(*shape: int, dtype: torch.dtype, device: str, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(shape, dtype=torch.float64)).to(device, dtype)


def spread(t: Tensor, every: int = 2) -> Tensor:
    """`t` as a strided slice of a larger tensor; what lies between is NaN."""
    larger = t.new_full((every * len(t) + 1, *t.shape[1:]), torch.nan)
    larger[1::every] = t
    return larger[1::every]


def innermost(dimension: int) -> Callable[[Tensor], Tensor]:
    """A memory order: this dimension varies fastest."""
    return lambda t: t.movedim(dimension, -1).contiguous().movedim(-1, dimension)


def guarded(states: Callable[[int], Tensor], points: int) -> tuple[Tensor, Callable[[], None]]:
    """States between two of NaN, and what checks afterwards that nothing was written there."""
    whole = states(points + 2)
    ends = whole[:: points + 1]
    ends.fill_(torch.nan)

    def check() -> None:
        assert ends.isnan().all(), "written outside the window"

    return whole[1:-1], check


def like(t: Tensor, values: Tensor) -> Tensor:
    """A tensor in the very memory order of `t`, with other values."""
    made = torch.empty_strided(values.shape, t.stride(), dtype=t.dtype, device=t.device)
    return made.copy_(values)


def doubled(t: Tensor | None) -> Tensor | None:
    """The same numbers for the oracle: fp64, on the CPU."""
    return None if t is None else t.detach().to("cpu", torch.float64, copy=True)


def doubled_terms(terms: Terms) -> Terms:
    return Terms(*map(doubled, terms.tensors()))


def assert_near(came: Tensor | None, expected: Tensor | None, what: str, *, factor: float = 1.0) -> None:
    """Near, as the dtype of what came demands, and NaN in the same places."""
    assert (came is None) == (expected is None), what
    if came is None or expected is None:
        return
    unwritten = came.isnan().cpu()
    assert torch.equal(unwritten, expected.isnan()), f"{what}: not written where it should be, or the reverse"
    error = relative_error(came.cpu().nan_to_num(), expected.nan_to_num())
    assert error <= factor * TOLERANCE[came.dtype], f"{what} is off by {error:.2e}"


class Launched:
    """`with Launched() as launched:` … `launched.names` are the kernels launched within, with their number."""

    def __enter__(self) -> "Launched":
        self._before = dispatch.launches.copy()
        return self

    def __exit__(self, *_: object) -> None:
        self.names = dict(dispatch.launches - self._before)
