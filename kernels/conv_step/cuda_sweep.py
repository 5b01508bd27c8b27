"""Launching the sweeps of convolutions in CUDA C++: all steps of an image in one block, its state in shared memory.

For images that are small enough (`shared_bytes`). See conv_sweep.cuh.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lpgpu.kernels.conv_step.layers import Filter
from lpgpu.kernels.cuda import choice, modules
from lpgpu.kernels.cuda.swept import SWEPT, last_steps, swept
from lpgpu.kernels.devices import arch_of, shared_limit
from lpgpu.kernels.dispatch import launches, say_once
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import Sweep, Terms

Kind = Literal["forward", "adjoint"]

SOURCE = "conv_step/conv_sweep"
WARPS = 8
ACTIVATIONS = ("identity", "relu", "silu", "smooth_relu", "tanh")
"""In the order of `Activation` in conv_cells.cuh."""
CHANNELS = {("bf16", torch.bfloat16): (4, 8, 16, 32, 64), ("tf32x3", torch.float32): (4, 8, 16, 32)}
"""(operand, dtype) → the numbers of channels that kernels are compiled for."""
_STORAGE = {torch.bfloat16: "bf16", torch.float32: "fp32"}
_OPERANDS = {"bf16": (16, 2, 2), "tf32x3": (8, 1, 4)}  # units of a chunk, of a register, registers of weights

_FILTER = np.dtype(
    [("w", SWEPT), ("b", SWEPT), ("saved", SWEPT), ("out", np.int64), ("in", np.int64), ("tap", np.int64)], align=True
)
ARGUMENTS = np.dtype(
    [
        ("height", np.int32), ("width", np.int32), ("convolutions", np.int32), ("activation", np.int32),
        ("num_rows", np.int32), ("images", np.int32), ("all_steps", np.int32), ("last_steps", np.int32),
        ("source", SWEPT), ("target", SWEPT), ("g", SWEPT), ("delta", SWEPT), ("anchors", SWEPT),
        ("filters", _FILTER, 2), ("dt", np.float32),
    ],
    align=True,
)  # fmt: skip
"""`ConvArguments` of conv_cells.cuh, byte for byte."""


@dataclass(frozen=True)
class Plan:
    """Which kernel runs a sweep, and what its blocks take."""

    operand: str
    channels: int
    shared_bytes: int


def shared_bytes(channels: int, operand: str, height: int, width: int) -> int:
    """Dynamic shared memory of a block: `ConvShape::shared_bytes` of conv_sweep.cuh."""
    chunk, per_register, registers = _OPERANDS[operand]
    column_tiles, words = -(-channels // 8), channels // per_register
    pitch = words + 4 if words % 8 == 0 else words
    filters = -(-9 * channels // chunk) * column_tiles * 32 * registers
    states = -(-height * width // (16 * WARPS)) * column_tiles * 2 * 32 * WARPS * 2
    places = 2 if filters <= 8192 else 1
    return 4 * (states + 2 * (height + 2) * (width + 2) * pitch + places * filters)


def plan_of(
    kind: Kind, u: Tensor, filters: list[Filter], activation: str, sweep: Sweep, terms: Terms,
    saved: Sequence[Tensor] = (),
) -> Plan | None:  # fmt: skip
    """How this sweep runs in one launch, or None where Triton's kernels run it step by step.

    Only with `LPGPU_CUDA=1`, as long as it has not been measured. Where it should run and cannot, that is said once.
    """
    if choice.where() != "anywhere" or u.device.type != "cuda" or sweep.steps == 1 or 0 in u.shape:
        return None
    _, _, channels, height, width = u.shape
    operand = "bf16" if u.dtype == torch.bfloat16 else dot_precision(u.dtype)
    if channels not in CHANNELS.get((operand, u.dtype), ()) or activation not in ACTIVATIONS or len(filters) > 2:
        return None
    plan = Plan(operand, channels, shared_bytes(channels, operand, height, width))
    if plan.shared_bytes > shared_limit(arch_of(u.device)):
        return None
    if reason := refusal(u, filters, [*saved, *terms.tensors()]) or no_room(kind, plan, u):
        say_once("conv_step in CUDA C++", f"{reason}; Triton's kernel runs instead")
        return None
    return plan


def refusal(u: Tensor, filters: list[Filter], others: Sequence[Tensor | None]) -> str | None:
    """Why no sweep can be launched on these tensors, or None: channels lie innermost, and are read by pairs."""
    channels, width = u.shape[2], u.shape[4]
    for t in (u, *others):
        if t is None:
            continue
        if t.stride()[2:] != (1, width * channels, channels):
            return f"a tensor {tuple(t.shape)} with strides {t.stride()} has not its channels innermost and no gaps"
        if t.data_ptr() % (2 * t.itemsize) or any(stride % 2 for stride in t.stride()[:2]):
            return f"a tensor {tuple(t.shape)} with strides {t.stride()} cannot be read by pairs of channels"
    for w, b in filters:
        if w.stride(3) != 3 * w.stride(4) or (b is not None and b.stride(1) != 1):
            return f"a filter {tuple(w.shape)} with strides {w.stride()} has gaps between its taps or biases"
    return modules.refusal(SOURCE, u.device)


def no_room(kind: Kind, plan: Plan, u: Tensor) -> str | None:
    """Why no multiprocessor holds a block, or None."""
    try:
        loaded = _loaded(kind, plan, u)
    except RuntimeError as error:
        return str(error)
    if modules.resident_blocks(loaded, 32 * WARPS, plan.shared_bytes, u.device):
        return None
    return f"no multiprocessor holds a block of {_name(kind, plan, u.dtype)} with {plan.shared_bytes} bytes"


def sweep(
    u: Tensor, filters: list[Filter], dt: float, activation: str, geometry: Sweep, terms: Terms, plan: Plan,
    saved: Sequence[Tensor] = (),
) -> None:  # fmt: skip
    """As `conv_step.sweep`, or `conv_step.adjoint_sweep` with what was `saved`, in one launch."""
    kind: Kind = "adjoint" if saved else "forward"
    layer, source, target = geometry.first, geometry.sources(0).start, geometry.targets(0).start
    rows = geometry.num_intervals * u.shape[1]

    def of_layers(t: Tensor | None) -> tuple[int, int, int, int]:
        return swept(t, layer, geometry)

    of_filters = [
        (of_layers(w), of_layers(b), of_layers(saved[i] if saved else None), w.stride(1), w.stride(2), w.stride(4))
        for i, (w, b) in enumerate(filters)
    ]
    arguments = np.array(
        (
            u.shape[3], u.shape[4], len(filters), ACTIVATIONS.index(activation),
            rows, u.shape[1], geometry.steps, last_steps(geometry),
            swept(u, source, geometry), swept(u, target, geometry),
            swept(terms.g, target, geometry), of_layers(terms.delta), of_layers(terms.anchors),
            (of_filters * 2)[:2], dt,
        ),
        dtype=ARGUMENTS,
    )  # fmt: skip
    launches[f"conv_{kind}_sweep"] += 1
    modules.launch(_loaded(kind, plan, u), (rows, 1), 32 * WARPS, plan.shared_bytes, arguments, u.device)


def _name(kind: Kind, plan: Plan, dtype: torch.dtype) -> str:
    return f"conv_{kind}_{plan.operand}_{_STORAGE[dtype]}_c{plan.channels}"


def _loaded(kind: Kind, plan: Plan, u: Tensor) -> Any:
    return modules.function(SOURCE, _name(kind, plan, u.dtype), u.device, cooperative=False)
