"""The microbenchmarks of bench/kernels.py as items of `bench/gpu.py`, in turn over the operations."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import zip_longest
from typing import Any
from unittest.mock import patch

import torch
from gpu_timing import DEVICE, REHEARSING, same_precision
from kernel_case import Case
from kernel_cases import cases
from kernel_rows import measure
from machine import H100, this_machine

from lpgpu.kernels.cuda import choice
from lpgpu.kernels.implicit_gru import tiles as gru_tiles

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


def _one_stage(run: Callable[[Case], Iterator[dict[str, Any]]], case: Case) -> Iterator[dict[str, Any]]:
    """With one stage instead of two: nothing is loaded ahead, but two blocks fit on a multiprocessor."""
    tile = gru_tiles.tile

    def with_one_stage(*arguments: Any, **options: Any) -> gru_tiles.Tile:
        return replace(tile(*arguments, **options), num_stages=1)

    with patch.object(gru_tiles, "tile", with_one_stage):
        for row in run(case):
            yield row | {"stages": 1}


def items(*, check: bool) -> dict[str, Item]:
    """A check or a measurement of every case; first the adjoint sweep of many rows as it could be launched instead."""
    run, chosen = _check if check else _measure, in_turn(cases(DEVICE, quick=REHEARSING))
    found: dict[str, Item] = {
        f"kernel {case.name} one stage": partial(_one_stage, run, case)
        for case in chosen
        if re.match(r"gru-adjoint-sweep H=(100|128) rows=(4096|16384) steps=\d+ bf16", case.name)
    }
    return found | {f"kernel {case.name}": partial(run, case) for case in chosen}
