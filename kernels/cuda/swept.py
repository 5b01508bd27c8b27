"""Tensors over the steps of a sweep, as kernels in CUDA C++ are told of them (swept.cuh)."""

import numpy as np
from torch import Tensor

from lpgpu.kernels.sweep import Sweep

SWEPT = np.dtype([("start", np.uint64), ("interval", np.int64), ("step", np.int64), ("row", np.int64)], align=True)
"""`Swept` of swept.cuh, byte for byte."""


def swept(t: Tensor | None, first: int, geometry: Sweep) -> tuple[int, int, int, int]:
    """`SWEPT` of a tensor over layers, or over points, from `first` on; zeros where there is none."""
    if t is None:
        return 0, 0, 0, 0
    stride = t.stride(0)
    return t[first].data_ptr(), geometry.interval * stride, geometry.direction * stride, t.stride(1)


def last_steps(geometry: Sweep) -> int:
    """Steps of the last interval, which may be shorter when marching forward."""
    first = geometry.first + (geometry.num_intervals - 1) * geometry.interval
    return geometry.steps if geometry.reverse else min(geometry.steps, geometry.num_layers - first)
