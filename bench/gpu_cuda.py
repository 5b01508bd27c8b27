"""The kernels in CUDA C++ (bench/cuda_kernels.py) as items of `bench/gpu.py`: cubins are built while all is checked."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from cuda_kernels import Case, cases, prepare, rows_of
from explain_cuda import explained, march
from gpu_timing import REHEARSING, same_precision
from machine import this_machine

from lpgpu.kernels.cuda import modules
from lpgpu.kernels.implicit_gru.cuda_march import Plan

Item = Callable[[], Iterator[dict[str, Any]]]


def cubins_awaited(seconds: float) -> str | None:
    """Wait until another worker has built all cubins; why they are not to be had, or None."""
    until, device = time.monotonic() + seconds, torch.device("cuda", torch.cuda.current_device())
    while True:
        modules.cubin.cache_clear()
        reason = next(filter(None, (modules.refusal(source, device) for source in modules.SOURCES)), None)
        if reason is None or not modules.has_cupy() or time.monotonic() > until:
            return reason
        time.sleep(0.5)


def _build() -> Iterator[dict[str, Any]]:
    prepare()
    yield {"right": True}


def _measure(case: Case) -> Iterator[dict[str, Any]]:
    precision = same_precision()
    prepare()
    for row in rows_of(case, check=False):
        if "seconds" in row:
            row["model"] = _model(case, row.get("plan"))
        wrong = {"failed": f"relative error {row['error']:.1e}, or other bits: no time"} if "wrong" in row else {}
        yield row | {"precision": precision} | wrong


def _model(case: Any, plan: dict[str, Any] | None) -> float | None:
    """Seconds that bench/explain_cuda.py expects."""
    found = march(case, Plan(**plan), this_machine()) if plan else explained(case, this_machine())
    return found.seconds if found else None


def items(*, check: bool) -> dict[str, Item]:
    """The build, or a measurement of every case. A CPU has nothing that could stand in for them."""
    if REHEARSING:
        return {}
    return (
        {"cuda build": _build}
        if check
        else {f"cuda {case.name}": partial(_measure, case) for case in cases(quick=False)}
    )
