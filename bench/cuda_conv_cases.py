"""Sweeps of convolutions in CUDA C++ for bench/cuda_kernels.py: right, and how long, beside Triton's step by step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from gpu_timing import copies_past_cache, graph_times
from torch import Tensor

from lpgpu.kernels import conv_step, dispatch
from lpgpu.kernels.conv_step import cuda_sweep
from lpgpu.kernels.conv_step.layers import Filter, Saved, packed
from lpgpu.kernels.cuda import choice
from lpgpu.kernels.precision import set_precision
from lpgpu.kernels.sweep import Sweep

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
DT = 0.1

Inputs = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ConvCase:
    """`intervals` intervals, each swept `steps` steps, of blocks of two convolutions with tanh."""

    operation: str
    channels: int
    size: int
    images: int
    intervals: int
    steps: int
    dtype: torch.dtype = torch.bfloat16

    @property
    def name(self) -> str:
        """As in the rows."""
        dtype = str(self.dtype).removeprefix("torch.")
        shape = f"C={self.channels} {self.size}x{self.size} images={self.images}"
        return f"{self.operation} {shape} intervals={self.intervals} steps={self.steps} {dtype}"

    @property
    def sweep(self) -> Sweep:
        """Through each interval, but onto the point of the next one where there are several."""
        interval = self.steps + (self.intervals > 1)
        layers = self.intervals * interval
        if self.operation == "conv-adjoint":
            return Sweep(layers, interval - 1, interval, self.steps, reverse=True)
        return Sweep(layers, 0, interval, self.steps)

    def inputs(self, device: str = "cuda") -> Inputs:
        """Random ones."""
        layers, c = self.sweep.num_layers, self.channels

        def states(points: int) -> Tensor:
            made = torch.randn(points, self.images, self.size, self.size, c, device=device)
            return made.to(self.dtype).movedim(-1, 2)

        filters = []
        for _ in range(2):
            w = torch.randn(layers, c, c, 3, 3, device=device) * (9 * c) ** -0.5
            filters.append(Filter(w.to(self.dtype), 0.1 * torch.randn(layers, c, device=device).to(self.dtype)))
        saved = [states(layers).tanh_() for _ in range(2)] if self.operation == "conv-adjoint" else []
        return {"u": states(layers + 1), "filters": packed(filters), "saved": saved}

    def run(self, t: Inputs) -> Tensor:
        """The sweep in place, by what `dispatch` and `choice` say."""
        if self.operation == "conv-adjoint":
            conv_step.adjoint_sweep(t["u"], Saved(t["saved"]), t["filters"], DT, "tanh", self.sweep)
        else:
            conv_step.sweep(t["u"], t["filters"], DT, "tanh", self.sweep)
        return t["u"]


def copied(t: Inputs, dtype: torch.dtype | None = None) -> Inputs:
    """The same numbers, of which the states are others'."""
    if dtype is None:
        return t | {"u": t["u"].clone()}
    filters = [Filter(w.to(dtype), None if b is None else b.to(dtype)) for w, b in t["filters"]]
    return {"u": t["u"].to(dtype), "filters": filters, "saved": [each.to(dtype) for each in t["saved"]]}


def conv_cases() -> list[ConvCase]:
    """A serial solve and a sweep of MGRIT of the network that is measured, then wider and smaller images."""
    shapes = [(8, 28, 50, 1, 64), (8, 28, 50, 4, 15), (16, 32, 64, 1, 64), (64, 14, 64, 1, 32), (32, 16, 64, 1, 32)]
    kinds, dtypes = ("conv-forward", "conv-adjoint"), (torch.bfloat16, torch.float32)
    return [
        ConvCase(operation=kind, channels=c, size=s, images=images, intervals=intervals, steps=steps, dtype=dtype)
        for dtype in dtypes
        for c, s, images, intervals, steps in shapes
        for kind in kinds
        if dtype == torch.bfloat16 or (c, s) in ((8, 28), (32, 16))
    ]


def conv_rows(case: ConvCase, *, check: bool) -> Iterator[dict[str, Any]]:
    """One row: its error, whether it is the same bits each time, its time and Triton's."""
    torch.manual_seed(0)
    set_precision("tf32x3")
    inputs = case.inputs()
    with dispatch.backend("reference"):
        expected = case.run(copied(inputs, torch.float64))
    before = dispatch.launches[f"conv_{case.operation[5:]}_sweep"]
    with choice.choice("anywhere"):
        came = case.run(copied(inputs))
        again = all(torch.equal(case.run(copied(inputs)), came) for _ in range(3))
        launched = dispatch.launches[f"conv_{case.operation[5:]}_sweep"] - before
        error = float((came.double() - expected).norm() / expected.norm())
        shared = cuda_sweep.shared_bytes(
            case.channels, "bf16" if case.dtype == torch.bfloat16 else "tf32x3", case.size, case.size
        )
        row: dict[str, Any] = {"case": case.name, "error": error, "same bits again": again, "shared bytes": shared}
        if launched != 4:
            yield row | {"failed": f"launched {launched} times, expected 4: {dispatch.reasons}"}
            return
        if not error <= TOLERANCE[case.dtype] or not again:
            yield row | {"wrong": True}
            return
        if not check:
            copies = [copied(inputs) for _ in range(min(4, copies_past_cache(inputs["u"].nbytes)))]
            row["seconds"] = vars(graph_times(case.run, copies, replays=10))
    if not check:
        with choice.choice("nowhere"):
            row["Triton"] = graph_times(case.run, copies, replays=10).p50
    yield row
