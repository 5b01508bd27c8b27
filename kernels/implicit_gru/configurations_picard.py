"""The Picard kernels of the GRU as they are shipped, to be compiled without a GPU."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import triton.language as tl

from lpgpu.kernels.configuration import Configuration
from lpgpu.kernels.implicit_gru import tiles
from lpgpu.kernels.implicit_gru.plans import dot_operands
from lpgpu.kernels.implicit_gru.tiles import Kind, Tile
from lpgpu.kernels.implicit_gru.triton_picard import gru_adjoint_picard, gru_picard, gru_picard_sweep
from lpgpu.kernels.precision import Precision
from lpgpu.kernels.specialisation import TRITON_NAMES, specialised

Case = tuple[int, torch.dtype, Precision]
_SHIPPED: list[Case] = [
    (64, torch.bfloat16, "ieee"),
    (128, torch.bfloat16, "ieee"),
    (64, torch.float32, "tf32x3"),
    (128, torch.float32, "tf32x3"),
    (512, torch.float16, "ieee"),
    (32, torch.float64, "ieee"),
]
_ROWS = 1 << 20
_KERNELS: dict[Kind, Any] = {"forward": gru_picard, "adjoint": gru_adjoint_picard}


def configurations() -> list[Configuration]:
    """Marches where W stays on chip, and single iterations, the first and those after it; with g."""
    return [each for case in _SHIPPED for each in (*_marches(*case), *_iterations(*case))]


def _marches(width: int, dtype: torch.dtype, precision: Precision) -> Iterator[Configuration]:
    for arch in _archs(dtype):
        tile = tiles.tile(width, dtype, arch, precision=precision, num_rows=_ROWS)
        if tile.kind == "resident":
            shape = {"PADDED": tile.columns}
            yield _specialised(gru_picard_sweep, (width, dtype, precision), tile, shape, (), (arch,))


def _iterations(width: int, dtype: torch.dtype, precision: Precision) -> Iterator[Configuration]:
    for kind, kernel in _KERNELS.items():
        of_arch = {
            arch: tiles.picard_tile(width, dtype, arch, precision=precision, kind=kind) for arch in _archs(dtype)
        }
        for tile in dict.fromkeys(of_arch.values()):
            archs = tuple(arch for arch, own in of_arch.items() if own == tile)
            shape = {"COLUMNS": tile.columns, "DEPTH": tile.depth}
            case = width, dtype, precision
            yield _specialised(kernel, case, tile, shape, ("before", "following"), archs)
            if width != 128 and dtype != torch.float64:
                second = tuple(arch for arch in archs if arch != 86)
                yield _specialised(kernel, case, tile, shape, (), second)


def _archs(dtype: torch.dtype) -> tuple[int, ...]:
    """sm_86 makes no fp64 products."""
    return (80, 90) if dtype == torch.float64 else (80, 86, 90)


def _specialised(
    kernel: Any, case: Case, tile: Tile, shape: dict[str, int], absent: tuple[str, ...], archs: tuple[int, ...]
) -> Configuration:
    width, dtype, precision = case
    constants: dict[str, Any] = {
        "WIDTH": width,
        "ROWS": tile.rows,
        "STAGES": tile.num_stages,
        "ALIGNED": math.gcd(16, width),
        "IMPLICIT": True,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
        **dot_operands(dtype, precision),
        **shape,
    }
    constants = {argument: value for argument, value in constants.items() if argument in kernel.arg_names}
    names = ("h", "lam", "out", "x", "a", "c", "w", "b", "g", "before", "following")
    tensors = {name: None if name in absent else dtype for name in names if name in kernel.arg_names}
    name = f"H={width} {TRITON_NAMES[dtype]}{f' {precision}' if dtype == torch.float32 else ''}"
    if "before" in kernel.arg_names and not absent:
        name += ", a second iteration"
    return specialised(
        kernel, name, tensors, constants, num_warps=tile.num_warps, num_stages=tile.num_stages, archs=archs
    )
