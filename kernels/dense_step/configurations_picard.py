"""The Picard kernels over dense layers as they are shipped, to be compiled without a GPU."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from lpgpu.kernels.configuration import Configuration
from lpgpu.kernels.dense_step import tiles
from lpgpu.kernels.dense_step.triton_picard import dense_picard_kernel, dense_picard_sweep_kernel
from lpgpu.kernels.precision import Precision
from lpgpu.kernels.specialisation import TRITON_NAMES, specialised

_SHIPPED: list[tuple[int, torch.dtype, Precision]] = [
    (8, torch.bfloat16, "ieee"),
    (64, torch.bfloat16, "ieee"),
    (512, torch.float16, "ieee"),
    (64, torch.float32, "tf32x3"),
    (64, torch.float32, "bf16x3"),
    (32, torch.float64, "ieee"),
]
_MANY_ROWS = 1 << 20


def configurations() -> list[Configuration]:
    """Marches and single iterations, forward and adjoint, with a right-hand side; the largest tiles."""
    return [each for shipped in _SHIPPED for adjoint in (False, True) for each in _of(*shipped, adjoint)]


def _of(width: int, dtype: torch.dtype, precision: Precision, adjoint: bool) -> Iterator[Configuration]:
    name = f"H={width} {TRITON_NAMES[dtype]}{f' {precision}' if dtype == torch.float32 else ''}"
    name = f"{name} {'adjoint' if adjoint else 'forward'}"
    tensors = {"u": dtype, "w": dtype, "b": None if adjoint else dtype, "saved": dtype if adjoint else None}
    tensors["rhs"] = dtype
    march = tiles.picard_march_tile(width, dtype, 1)
    if march is not None:
        constants = _constants(march, width, precision, adjoint=adjoint)
        yield _specialised(dense_picard_sweep_kernel, name, tensors, constants, march, archs=(80, 86, 90))
    first, second = (tiles.picard_tile(width, _MANY_ROWS, dtype, order, adjoint) for order in (1, 2))
    one = tensors | {"out": dtype, "before": None, "following": None}
    constants = _constants(first, width, precision, adjoint=adjoint) | {"SUMMED": first.summed}
    yield _specialised(dense_picard_kernel, name, one, constants, first)
    if (width, precision) == (8, "ieee") or dtype == torch.float64:
        return
    several = one | {"before": dtype, "following": dtype}
    constants = _constants(second, width, precision, adjoint=adjoint) | {"SUMMED": second.summed}
    yield _specialised(dense_picard_kernel, f"{name} order 2", several, constants, second)


def _specialised(
    kernel: Any, name: str, tensors: dict[str, torch.dtype | None], constants: dict[str, Any], tile: tiles.PicardTile,
    archs: tuple[int, ...] = (80, 90),
) -> Configuration:  # fmt: skip
    dtype = tensors["u"]
    if dtype == torch.float64:
        archs = tuple(arch for arch in archs if arch != 86)  # which has no matrix instruction for it
    uses_dots = constants["PRECISION"] != "ieee" or (dtype is not None and dtype.itemsize == 2)
    return specialised(
        kernel, name, tensors, constants, num_warps=tile.warps, num_stages=tile.stages, archs=archs,
        uses_dots=uses_dots,
    )  # fmt: skip


def _constants(tile: tiles.PicardTile, width: int, precision: Precision, *, adjoint: bool) -> dict[str, Any]:
    w_in, w_out = (width, 1) if adjoint else (1, width)
    return {
        "stride_row": width, "stride_unit": 1, "w_in": w_in, "w_out": w_out, "b_unit": 1, "ALIGN": math.gcd(16, width),
        "WIDTH": width, "ROWS": tile.rows, "COLS": tile.cols, "LAYERS": tile.layers, "ACTIVATION": "tanh",
        "ADJOINT": adjoint, "PRECISION": precision, "STAGES": tile.stages,
    }  # fmt: skip
