"""The dense kernels as they are shipped, to be compiled without a GPU."""

import math
from collections.abc import Iterator

import torch

from lpgpu.kernels.configuration import Configuration
from lpgpu.kernels.dense_step import configurations_picard, tiles
from lpgpu.kernels.dense_step.triton_kernels import dense_step_kernel, dense_sweep_kernel
from lpgpu.kernels.precision import Precision
from lpgpu.kernels.specialisation import TRITON_NAMES, specialised

_RESIDENT: list[tuple[int, torch.dtype, Precision]] = [
    (8, torch.bfloat16, "ieee"),
    (64, torch.bfloat16, "ieee"),
    (128, torch.float16, "ieee"),
    (256, torch.bfloat16, "ieee"),
    (64, torch.float32, "tf32x3"),
    (64, torch.float32, "tf32"),
    (128, torch.float32, "tf32x3"),
    (128, torch.float32, "bf16x3"),
    (128, torch.float32, "bf16"),
    (32, torch.float64, "ieee"),
]
_TILED: list[tuple[int, torch.dtype, Precision]] = [
    (8, torch.bfloat16, "ieee"),
    (512, torch.bfloat16, "ieee"),
    (512, torch.float32, "tf32x3"),
    (512, torch.float32, "bf16x3"),
    (32, torch.float64, "ieee"),
]


def configurations() -> list[Configuration]:
    """Every kernel, forward and adjoint, at the widths that matter; the largest tile of each."""
    return [*_resident(), *_tiled(), *configurations_picard.configurations()]


def _resident() -> Iterator[Configuration]:
    for width, dtype, precision in _RESIDENT:
        for tile, archs in _tiles_by_archs(width, dtype):
            yield from _sweeps(width, dtype, precision, tile, archs)


def _tiles_by_archs(width: int, dtype: torch.dtype) -> Iterator[tuple[tiles.Tile, tuple[int, ...]]]:
    """Each tile of the resident sweep, with the architectures that take it: sm_86 only where its own is another."""
    by_arch = {arch: tiles.resident_tile(width, 1 << 20, dtype, arch) for arch in (80, 86, 90)}
    for tile in dict.fromkeys(by_arch.values()):
        archs = tuple(arch for arch, of_arch in by_arch.items() if of_arch == tile)
        if tile is not None:
            yield tile, tuple(arch for arch in archs if arch != 86) or archs


def _sweeps(
    width: int, dtype: torch.dtype, precision: Precision, tile: tiles.Tile, archs: tuple[int, ...]
) -> Iterator[Configuration]:
    """Forward and adjoint, with a right-hand side; and with every correction, which takes the most memory."""
    for adjoint, full in ((False, False), (True, False), (False, True), (True, True)):
        absent = [*(() if full else ("delta", "anchors", "products")), "b" if adjoint else "saved"]
        names = ("u", "w", "b", "saved", "rhs", "delta", "anchors", "products")
        constants = {
            **_strides(width, adjoint=adjoint),
            "WIDTH": width,
            "ROWS": tile.rows,
            "COLS": tile.cols,
            "ACTIVATION": "tanh",
            "ADJOINT": adjoint,
            "REVERSE": adjoint,
            "PRECISION": precision,
            "STAGES": tile.stages,
        }
        yield specialised(
            dense_sweep_kernel,
            f"{_name(width, dtype, precision, adjoint)}{' all terms' if full else ''}",
            {name: None if name in absent else dtype for name in names},
            constants,
            num_warps=tile.warps,
            num_stages=tile.stages,
            archs=archs,
            uses_dots=precision != "ieee" or dtype.itemsize == 2,
        )


def _tiled() -> Iterator[Configuration]:
    for width, dtype, precision in _TILED:
        tile = tiles.step_tile(width, dtype)
        for adjoint in (False, True):
            tensors = {
                "x": dtype,
                "out": dtype,
                "w": dtype,
                "b": None if adjoint else dtype,
                "saved": dtype if adjoint else None,
                "rhs": dtype,
                "delta": None,
                "anchors": None,
                "diagonal": None,
            }
            constants = {
                **_strides(width, adjoint=adjoint),
                "WIDTH": width,
                "ROWS": tile.rows,
                "COLS": tile.cols,
                "SUMMED": tile.summed,
                "ACTIVATION": "tanh",
                "ADJOINT": adjoint,
                "MULTIPLY": True,
                "PRECISION": precision,
                "STAGES": tile.stages,
            }
            yield specialised(
                dense_step_kernel,
                _name(width, dtype, precision, adjoint),
                tensors,
                constants,
                num_warps=tile.warps,
                num_stages=tile.stages,
                uses_dots=precision != "ieee" or dtype.itemsize == 2,
            )


def _strides(width: int, *, adjoint: bool) -> dict[str, int]:
    w_in, w_out = (width, 1) if adjoint else (1, width)
    align = math.gcd(16, width)
    return {"stride_row": width, "stride_unit": 1, "w_in": w_in, "w_out": w_out, "b_unit": 1, "ALIGN": align}


def _name(width: int, dtype: torch.dtype, precision: Precision, adjoint: bool) -> str:
    dots = f" {precision}" if dtype == torch.float32 else ""
    return f"H={width} {TRITON_NAMES[dtype]}{dots} {'adjoint' if adjoint else 'forward'}"
