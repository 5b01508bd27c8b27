"""The GRU's kernels as they are shipped, to be compiled without a GPU."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import triton.language as tl

from lpgpu.kernels.configuration import Configuration
from lpgpu.kernels.implicit_gru import configurations_picard, triton_adjoint, triton_kernels
from lpgpu.kernels.implicit_gru.plans import dot_operands
from lpgpu.kernels.implicit_gru.tiles import Kind, Tile, tile
from lpgpu.kernels.implicit_gru.triton_cell import RUNTIME
from lpgpu.kernels.precision import Precision
from lpgpu.kernels.specialisation import TRITON_NAMES, specialised

_BF16, _FP16, _FP32, _FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
Case = tuple[int, torch.dtype, Precision]
_RESIDENT: list[Case] = [
    (64, _BF16, "ieee"),
    (100, _BF16, "ieee"),
    (128, _BF16, "ieee"),
    (128, _FP16, "ieee"),
    (64, _FP32, "tf32x3"),
    (64, _FP32, "bf16x3"),
    (100, _FP32, "bf16x3"),
    (128, _FP32, "bf16x3"),
    (128, _FP32, "tf32"),
    (128, _FP32, "bf16"),
    (32, _FP64, "ieee"),
]
_TILED: list[tuple[int, torch.dtype, Precision, int | None]] = [  # the last: rows
    (512, _BF16, "ieee", None),
    (1000, _BF16, "ieee", 256),
    (201, _BF16, "ieee", 256),
    (512, _FP16, "ieee", None),
    (1000, _FP16, "ieee", 256),
    (512, _FP32, "tf32x3", None),
    (512, _FP32, "bf16x3", None),
    (512, _FP32, "bf16", None),
    (512, _FP32, "bf16", 256),
    (128, _FP32, "tf32x3", 256),
    (32, _FP64, "ieee", None),
]
_KERNELS: dict[Kind, Any] = {
    "forward": triton_kernels.gru_sweep,
    "adjoint": triton_adjoint.gru_adjoint_sweep,
    "recomputed": triton_adjoint.gru_adjoint_recomputed,
}
_TERMS = ("g", "delta", "anchors", "products")
_COEFFICIENTS = ("a_out", "c_out", "c_n_out")


def configurations() -> list[Configuration]:
    """Sweeps and steps, forward and adjoint, at the widths that matter; plain and, in bf16, with every term."""
    return [*_resident(), *_tiled(), *_elementwise(), *_at_zero(), *configurations_picard.configurations()]


def _resident() -> Iterator[Configuration]:
    for width, dtype, precision in _RESIDENT:
        for kind, kernel in _KERNELS.items():
            for full in (False, True) if (width, dtype) == (100, _BF16) else (False,):
                tiles = {
                    arch: tile(width, dtype, arch, precision=precision, kind=kind, arrays=3 * full) for arch in (80, 90)
                }
                archs = tuple(arch for arch, chosen in tiles.items() if chosen.kind == "resident")
                if archs:
                    chosen = tiles[archs[-1]]
                    name = f"{_name(width, dtype, precision)}{' all terms' if full else ''}"
                    shape = {"PADDED": chosen.columns, "ROWS": chosen.rows}
                    absent = () if full else _TERMS
                    yield _specialised(kernel, name, (width, dtype, precision), chosen, shape, absent, archs)
                    if (width, dtype, kind) == (128, _BF16, "adjoint"):  # two of them fit on a multiprocessor
                        one = replace(chosen, num_stages=1)
                        case = width, dtype, precision
                        yield _specialised(kernel, f"{name}, one stage", case, one, shape, absent, archs)


def _tiled() -> Iterator[Configuration]:
    for width, dtype, precision, rows in _TILED:
        of_arch = {arch: tile(width, dtype, arch, precision=precision, steps=1, num_rows=rows) for arch in (80, 90)}
        for arch, chosen in of_arch.items():
            if arch == 90 and chosen == of_arch[80]:
                continue
            archs = (80, 90) if of_arch[80] == of_arch[90] else (arch,)
            shape = {"ROWS": chosen.rows, "COLUMNS": chosen.columns, "DEPTH": chosen.depth}
            name = f"{_name(width, dtype, precision)}, {chosen.rows} rows"
            cases = [
                (triton_kernels.gru_step_tiled, name, (*_TERMS, *_COEFFICIENTS)),
                (triton_adjoint.gru_adjoint_tiled, name, _TERMS),
            ]
            if dtype == _BF16 and rows is None:
                cases += [
                    (triton_kernels.gru_step_tiled, f"{name}, all terms", _COEFFICIENTS),
                    (triton_kernels.gru_step_tiled, f"{name}, coefficients", (*_TERMS, "out")),
                    (triton_kernels.gru_step_tiled, f"{name}, decay", (*_TERMS, "c_out", "c_n_out")),
                    (triton_adjoint.gru_adjoint_tiled, f"{name}, all terms", ()),
                ]
            for kernel, case, absent in cases:
                yield _specialised(kernel, case, (width, dtype, precision), chosen, shape, absent, archs)


def _elementwise() -> Iterator[Configuration]:
    for kernel in (triton_adjoint.gru_gate_gradients, triton_adjoint.gru_diagonal):
        shape = {"PADDED": 256, "ROWS": 4}
        chosen = replace(tile(128, _BF16, 90, steps=1), num_warps=4)
        yield _specialised(kernel, _name(128, _BF16, "ieee"), (128, _BF16, "ieee"), chosen, shape, (), (80, 90))


def _at_zero() -> Iterator[Configuration]:
    chosen = replace(tile(128, _BF16, 90, steps=1), num_warps=4)
    case: Case = (128, _BF16, "ieee")
    yield _specialised(triton_kernels.gru_at_zero, _name(*case), case, chosen, {"PADDED": 256, "ROWS": 4}, (), (80, 90))


def _specialised(
    kernel: Any,
    name: str,
    case: Case,
    chosen: Tile,
    shape: dict[str, int],
    absent: tuple[str, ...],
    archs: tuple[int, ...],
) -> Configuration:
    """With strides that are multiples of the width, as those of contiguous tensors are."""
    width, dtype, precision = case
    constants: dict[str, Any] = {
        "WIDTH": width,
        "STAGES": chosen.num_stages,
        "ALIGNED": math.gcd(16, width),
        "IMPLICIT": True,
        "ACC": tl.float64 if dtype == _FP64 else tl.float32,
        **dot_operands(dtype, precision),
        **shape,
    }
    constants = {argument: value for argument, value in constants.items() if argument in kernel.arg_names}
    scalars = {*RUNTIME, "dt", "diagonal_layer", "diagonal_row"}
    tensors = {
        argument: None if argument in absent else dtype
        for argument in kernel.arg_names
        if argument not in constants and argument not in scalars
    }
    return specialised(
        kernel, name, tensors, constants, num_warps=chosen.num_warps, num_stages=chosen.num_stages, archs=archs,
        uses_dots="DOT" in constants,
    )  # fmt: skip


def _name(width: int, dtype: torch.dtype, precision: Precision) -> str:
    return f"H={width} {TRITON_NAMES[dtype]}{f' {precision}' if dtype == _FP32 else ''}"
