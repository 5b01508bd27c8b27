"""The Picard kernel over convolutional layers as it is shipped, to be compiled without a GPU."""

import math
from collections.abc import Iterator

import torch

from lpgpu.kernels.configuration import Configuration
from lpgpu.kernels.conv_step import tiles
from lpgpu.kernels.conv_step.triton_picard import conv_picard_kernel
from lpgpu.kernels.precision import Precision
from lpgpu.kernels.specialisation import TRITON_NAMES, specialised

_SHIPPED: list[tuple[int, torch.dtype, Precision]] = [
    (8, torch.bfloat16, "ieee"),
    (64, torch.bfloat16, "ieee"),
    (64, torch.float32, "tf32x3"),
    (8, torch.float64, "ieee"),
]
_ROLES = {
    # which tensors there are; whether all layers of a run are given the same states
    "first": (("b", "base", "rhs"), True),
    "inner": (("b",), True),
    "second": (("b", "base", "rhs", "following"), False),
    "adjoint": (("slope", "base", "rhs"), False),
    "adjoint inner": (("slope", "saved"), False),
}
_ON_SM_86 = ("first", "adjoint")  # which take the most; it has less shared memory, and else the same
_OPTIONAL = ("slope", "b", "saved", "base", "rhs", "following")


def configurations() -> list[Configuration]:
    """Each role of the kernel: of the first iteration or a later one, an inner convolution or the last."""
    return [each for shipped in _SHIPPED for each in _of(*shipped)]


def _of(channels: int, dtype: torch.dtype, precision: Precision) -> Iterator[Configuration]:
    width = 32  # of the images, whose channels are innermost
    for role, (present, shared) in _ROLES.items():
        if dtype == torch.float64 and role not in ("first", "adjoint"):
            continue
        tile, adjoint = tiles.picard_tile(channels, dtype, shared), "adjoint" in role
        w_in, w_out = (1, channels) if adjoint else (channels, 1)  # as `packed` lays them out
        tensors: dict[str, torch.dtype | None] = {name: dtype for name in ("x", "w", "out")}
        tensors |= {name: dtype if name in present else None for name in _OPTIONAL}
        constants = {
            "stride_image": width * width * channels, "stride_channel": 1, "stride_row": width * channels,
            "stride_col": channels, "w_in": w_in, "w_out": w_out, "w_row": 3 * channels * channels,
            "w_col": channels * channels, "b_channel": 1, "ALIGN": math.gcd(16, channels),
            "CHANNELS": channels, "PIXELS": tile.pixels, "COLS": tile.cols, "SUMMED": tile.summed,
            "LAYERS": tile.layers, "ACTIVATION": "tanh", "ADJOINT": adjoint, "PRECISION": precision,
            "STAGES": tile.stages,
        }  # fmt: skip
        dots = f" {precision}" if dtype == torch.float32 else ""
        yield specialised(
            conv_picard_kernel, f"C={channels} {TRITON_NAMES[dtype]}{dots} {role}", tensors, constants,
            num_warps=tile.warps, num_stages=tile.stages,
            archs=(80, 86, 90) if role in _ON_SM_86 and dtype != torch.float64 else (80, 90),
        )  # fmt: skip
