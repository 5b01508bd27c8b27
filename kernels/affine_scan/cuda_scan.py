"""Launching the affine scan in CUDA C++: one pass, as many blocks along the steps as fill the device. See scan.cuh."""

import math

import numpy as np
import torch
from torch import Tensor

from lpgpu.kernels.cuda import choice, modules
from lpgpu.kernels.devices import arch_of, multiprocessors_of
from lpgpu.kernels.dispatch import launches, say_once

SOURCE = "affine_scan/scan"
THREADS = 256
COLUMNS = 32  # of a block
SPAN = 64  # steps that a block takes at a time
MOST_PARTS = 64  # every block reads the words of all
STORAGE = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}

MEASURED = {torch.float32: (128, 2048, 288), torch.bfloat16: (128, 2048, 288)}
"""dtype → least columns, most, least steps where one scan, with a D, was faster than Triton's.

bench/results/h100-graphs/cuda.jsonl has fp32 at both ends, and bf16 at 2000 columns; 64 scans of 16 steps were slower.
"""

_STEPPED = np.dtype([("start", np.uint64), ("interval", np.int64), ("step", np.int64)])
ARGUMENTS = np.dtype(
    [
        ("columns", np.int64), ("steps", np.int32), ("tiles", np.int32), ("parts", np.int32), ("words", np.uint64),
        ("v", _STEPPED), ("phi", _STEPPED), ("anchors", _STEPPED), ("decay", _STEPPED),
    ],
    align=True,
)  # fmt: skip
"""`ScanArguments` of scan.cuh, byte for byte."""


def shared_bytes(dtype: torch.dtype) -> int:
    """Shared memory of a block: six maps a thread."""
    return 6 * THREADS * (16 if dtype == torch.float64 else 8)


def parts_of(columns: int, intervals: int, steps: int, dtype: torch.dtype, resident: int) -> int:
    """Blocks that share the steps of a column: one where columns fill the device, or in fp64, else as many as do.

    `resident`: blocks that the device holds at once.
    """
    if dtype == torch.float64:
        return 1
    alone = -(-columns // COLUMNS) * intervals
    return max(1, min(-(-steps // SPAN), resident // alone, MOST_PARTS))


def is_measured(
    columns: int, intervals: int, steps: int, dtype: torch.dtype, decays: bool, *, arch: int, multiprocessors: int
) -> bool:
    """Whether this scan is within what an H100 measured to be faster than Triton's."""
    least, most, least_steps = MEASURED.get(dtype, (1, 0, 0))
    on_h100 = arch == 90 and multiprocessors >= 132
    return on_h100 and intervals == 1 and decays and least <= columns <= most and steps >= least_steps


def is_chosen(v: Tensor, phi: Tensor, decay: Tensor | None) -> bool:
    """Whether the CUDA kernel scans these tensors: `kernels.cuda.choice`; where it should and cannot, that is said."""
    wanted, (intervals, steps) = choice.where(), phi.shape[:2]
    if wanted == "nowhere" or v.device.type != "cuda" or steps < SPAN:
        return False
    where = {"arch": arch_of(v.device), "multiprocessors": multiprocessors_of(v.device)}
    columns = math.prod(v.shape[2:])
    if wanted == "measured" and not is_measured(columns, intervals, steps, v.dtype, decay is not None, **where):
        return False
    if reason := refusal(v):
        say_once("affine_scan in CUDA C++", f"{reason}; Triton's kernel runs instead")
        return False
    return True


def refusal(v: Tensor) -> str | None:
    """Why these tensors cannot be scanned by the CUDA kernel, or None."""
    if v.dtype not in STORAGE:
        return f"there is no kernel for {v.dtype}"
    if not _has_columns(v):
        return f"a state of {tuple(v.shape)} does not lie in one piece"
    return modules.refusal(SOURCE, v.device)


def affine_scan(
    v: Tensor, phi: Tensor, anchors: Tensor, decay: Tensor | None, reverse: bool, parts: int | None = None
) -> None:
    """As the package's `affine_scan`, in one launch, for states that lie in one piece; `parts`: None as `parts_of`."""
    intervals, steps, columns = v.shape[0], v.shape[1] - 1, math.prod(v.shape[2:])
    if 0 in (intervals, steps, columns):
        return
    phi, anchors = (t if _has_columns(t) else t.contiguous() for t in (phi, anchors))
    decay = decay if decay is None or _has_columns(decay) else decay.contiguous()
    shared, tiles = shared_bytes(v.dtype), -(-columns // COLUMNS)
    name = f"affine_scan_{STORAGE[v.dtype]}"
    if parts is None:
        parts = parts_of(columns, intervals, steps, v.dtype, _resident(name, v.device, shared))
    fours = -(-parts // 4)
    words = torch.zeros(
        intervals * tiles * 2 * fours * 128 * 16 if parts > 1 else 0, dtype=torch.uint8, device=v.device
    )

    def stepped(t: Tensor | None, first: int) -> tuple[int, int, int]:
        if t is None:
            return 0, 0, 0
        return t[:, first].data_ptr(), t.stride(0), -t.stride(1) if reverse else t.stride(1)

    first, last = (steps - 1, steps) if reverse else (0, 0)
    arguments = np.array(
        (
            columns, steps, tiles, parts, words.data_ptr(),
            stepped(v, last), stepped(phi, first), stepped(anchors, first), stepped(decay, first),
        ),
        dtype=ARGUMENTS,
    )  # fmt: skip
    launches["affine_scan_cuda"] += 1
    loaded = modules.function(SOURCE, name, v.device, cooperative=parts > 1)
    modules.launch(loaded, (tiles * parts, intervals), THREADS, shared, arguments, v.device)


def _resident(name: str, device: torch.device, shared: int) -> int:
    loaded = modules.function(SOURCE, name, device, cooperative=True)
    return modules.resident_blocks(loaded, THREADS, shared, device)


def _has_columns(t: Tensor) -> bool:
    """Whether the elements of a state lie side by side."""
    return t[:1, :1].is_contiguous()
