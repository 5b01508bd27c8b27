"""The microbenchmarks of bench/kernels.py as items of `bench/gpu.py`, in turn over the operations."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from gpu_timing import DEVICE, REHEARSING, same_precision
from kernel_case import Case
from kernel_cases import cases
from kernel_rows import measure
from machine import H100, this_machine

from lpgpu.kernels.cuda import choice

Item = Callable[[], Iterator[dict[str, Any]]]


def in_turn(chosen: list[Case]) -> list[Case]:
    """One case of every operation, then the next one of each: whatever the time allows, all have some."""
    by_operation: dict[str, list[Case]] = {}
    for case in chosen:
        by_operation.setdefault(case.operation, []).append(case)
    return [case for turn in zip_longest(*by_operation.values()) for case in turn if case is not None]


def _error(case: Case) -> float:
    """Checked side by side with others: where memory is short it waits for theirs."""
    for _ in range(5):
        try:
            return case.error(case.make())
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            time.sleep(3)
    return case.error(case.make())


def _check(case: Case) -> Iterator[dict[str, Any]]:
    error = _error(case)
    row = {"error": error, "allowed": case.allowed}
    yield row if error <= case.allowed else {**row, "failed": f"relative error {error:.1e}"}


def _measure(case: Case) -> Iterator[dict[str, Any]]:
    precision = same_precision()
    with choice.choice("nowhere"):  # kernels in CUDA C++ have rows of their own
        row = measure(case, H100 if REHEARSING else this_machine())
    wrong = {"failed": f"relative error {row.error:.1e}: no time"} if row.times is None else {}
    yield asdict(row) | {"percent": row.percent, "precision": precision} | wrong


def items(*, check: bool) -> dict[str, Item]:
    """A check or a measurement of every case."""
    return {
        f"kernel {case.name}": partial(_check if check else _measure, case)
        for case in in_turn(cases(DEVICE, quick=REHEARSING))
    }
