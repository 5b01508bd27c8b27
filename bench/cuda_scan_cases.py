"""The affine scan in CUDA C++ for bench/cuda_kernels.py: right, and how long, beside Triton's and the reference."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from gpu_timing import copies_past_cache, graph_times
from torch import Tensor

from lpgpu.kernels.affine_scan import cuda_scan, operators, reference
from lpgpu.kernels.cuda import choice

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


@dataclass(frozen=True, kw_only=True)
class ScanCase:
    """`intervals` scans of `steps` steps over `columns` columns."""

    intervals: int
    steps: int
    columns: int
    dtype: torch.dtype = torch.float32
    operation: str = "affine-scan"

    @property
    def name(self) -> str:
        """As in the rows."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.operation} {self.intervals} x {self.steps} steps, {self.columns} columns, {dtype}"

    def inputs(self, device: str = "cuda") -> dict[str, Tensor]:
        """Random ones; all states but the given one are NaN."""
        shape = (self.intervals, self.steps, self.columns)
        made = {name: torch.randn(shape, device=device) for name in ("phi", "anchors")}
        made["decay"] = torch.rand(shape, device=device)
        made["v"] = torch.full((self.intervals, self.steps + 1, self.columns), torch.nan, device=device)
        made["v"][:, 0] = torch.randn(self.intervals, self.columns, device=device)
        return {name: t.to(self.dtype) for name, t in made.items()}


def scan_cases() -> list[ScanCase]:
    """Many columns; few columns and many steps; many intervals; half and double precision."""
    return [
        ScanCase(intervals=1, steps=4096, columns=2048),
        ScanCase(intervals=1, steps=16384, columns=128),
        ScanCase(intervals=64, steps=16, columns=2048),
        ScanCase(intervals=1, steps=1000, columns=2000, dtype=torch.bfloat16),
        ScanCase(intervals=1, steps=1000, columns=200, dtype=torch.float64),
    ]


def scan_rows(case: ScanCase, *, check: bool) -> Iterator[dict[str, Any]]:
    """One row: its error, whether it is the same bits each time, its time and that of others."""
    torch.manual_seed(0)
    inputs = case.inputs()
    expected = {name: t.double() for name, t in inputs.items()}
    run(reference.affine_scan, expected)
    came = _scanned(inputs)
    error = float(torch.linalg.vector_norm(came.double() - expected["v"]) / torch.linalg.vector_norm(expected["v"]))
    again = all(torch.equal(_scanned(inputs), came) for _ in range(5))
    row: dict[str, Any] = {"case": case.name, "error": error, "same bits again": again}
    if not error <= TOLERANCE[case.dtype] or not again:
        yield row | {"wrong": True}
        return
    if not check:
        nbytes = sum(t.nbytes for t in inputs.values())
        copies = [{n: t.clone() for n, t in inputs.items()} for _ in range(min(8, copies_past_cache(nbytes)))]
        times = graph_times(lambda t: run(cuda_scan.affine_scan, t), copies, replays=10)
        row |= {"seconds": vars(times), "GB/s": nbytes / times.p50 / 1e9}
        with choice.choice("nowhere"):
            row["Triton"] = graph_times(lambda t: run(operators.affine_scan, t), copies, replays=10).p50
        if case.steps <= 1000:
            row["PyTorch"] = graph_times(lambda t: run(reference.affine_scan, t), copies[:1], replays=5).p50
    yield row


def run(scan: Any, t: dict[str, Tensor]) -> None:
    """Scan one set of tensors in place."""
    scan(t["v"], t["phi"], t["anchors"], t["decay"], False)


def _scanned(inputs: dict[str, Tensor]) -> Tensor:
    copy = inputs | {"v": inputs["v"].clone()}
    run(cuda_scan.affine_scan, copy)
    return copy["v"]
