"""The convolution kernels as they are shipped, to be compiled without a GPU."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from lpgpu.kernels.configuration import Configuration
from lpgpu.kernels.conv_step import configurations_picard, tiles
from lpgpu.kernels.conv_step.triton_kernels import conv_gradient_kernel, conv_step_kernel
from lpgpu.kernels.precision import Precision
from lpgpu.kernels.specialisation import TRITON_NAMES, specialised

_SHIPPED: list[tuple[int, torch.dtype, Precision]] = [
    (8, torch.bfloat16, "ieee"),
    (16, torch.float16, "ieee"),
    (64, torch.bfloat16, "ieee"),
    (64, torch.float32, "tf32x3"),
    (64, torch.float32, "bf16x3"),
    (8, torch.float64, "ieee"),
]


def configurations() -> list[Configuration]:
    """Steps forward and adjoint, the gradient of their weights, and Picard steps, at the channel counts that matter."""
    steps = [each for shipped in _SHIPPED for each in (*_steps(*shipped), _gradient(*shipped))]
    return steps + configurations_picard.configurations()


def _steps(channels: int, dtype: torch.dtype, precision: Precision) -> Iterator[Configuration]:
    tile = tiles.step_tile(channels, dtype)
    for adjoint in (False, True):
        tensors: dict[str, torch.dtype | None] = {name: dtype for name in ("x", "w", "base", "out", "rhs")}
        tensors |= {"slope": dtype if adjoint else None, "b": None if adjoint else dtype}
        tensors |= {"saved": None, "delta": None, "anchors": None}
        w_in, w_out = (1, channels) if adjoint else (channels, 1)  # as `packed` lays them out
        constants = {
            "w_in": w_in,
            "w_out": w_out,
            "w_row": 3 * channels * channels,
            "w_col": channels * channels,
            "b_channel": 1,
            "CHANNELS": channels,
            "PIXELS": tile.pixels,
            "COLS": tile.cols,
            "SUMMED": tile.summed,
            "ACTIVATION": "tanh",
            "ADJOINT": adjoint,
            "PRECISION": precision,
            "STAGES": tile.stages,
        }
        name = _name(channels, dtype, precision, "adjoint" if adjoint else "forward")
        yield _configuration(conv_step_kernel, name, tensors, constants, channels, tile)


def _gradient(channels: int, dtype: torch.dtype, precision: Precision) -> Configuration:
    tile = tiles.gradient_tile(channels, dtype)
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = {"d": dtype, "slope": dtype, "x": dtype, "dw": accumulator, "db": accumulator}
    constants = {
        "CHANNELS": channels,
        "PIXELS": tile.pixels,
        "ROWS": tile.rows,
        "COLS": tile.cols,
        "ACTIVATION": "tanh",
        "FROM_SAVED": False,
        "PRECISION": precision,
        "STAGES": tile.stages,
    }
    name = _name(channels, dtype, precision, "gradient")
    return _configuration(conv_gradient_kernel, name, tensors, constants, channels, tile)


def _configuration(
    kernel: Any,
    name: str,
    tensors: Mapping[str, torch.dtype | None],
    constants: dict[str, Any],
    channels: int,
    tile: tiles.Tile | tiles.GradientTile,
) -> Configuration:
    width = 32  # of the images, whose channels are innermost
    of_pixels = {
        "stride_image": width * width * channels,
        "stride_channel": 1,
        "stride_row": width * channels,
        "stride_col": channels,
        "ALIGN": math.gcd(16, channels),
    }
    return specialised(kernel, name, tensors, of_pixels | constants, num_warps=tile.warps, num_stages=tile.stages)


def _name(channels: int, dtype: torch.dtype, precision: Precision, what: str) -> str:
    dots = f" {precision}" if dtype == torch.float32 else ""
    return f"C={channels} {TRITON_NAMES[dtype]}{dots} {what}"
