"""The FAS kernels as they are shipped, to be compiled without a GPU."""

import torch

from lpgpu.kernels.configuration import Configuration
from lpgpu.kernels.fas.tiles import BLOCK, PROGRAMS, WARPS
from lpgpu.kernels.fas.triton_kernels import fas_residual_kernel, fas_right_hand_side_kernel, fas_sum_kernel
from lpgpu.kernels.specialisation import TRITON_NAMES, specialised


def configurations() -> list[Configuration]:
    """Every kernel in the dtypes that matter."""
    shipped = [
        specialised(
            fas_sum_kernel, "fp64", {"partial_sums": torch.float64, "out": torch.float64}, {"BLOCK": PROGRAMS},
            num_warps=WARPS, uses_dots=False,
        )
    ]  # fmt: skip
    for dtype in (torch.bfloat16, torch.float32):
        strides = {"size": 16 * BLOCK, "phi_layer": BLOCK, "u_layer": BLOCK, "coarse_layer": BLOCK, "BLOCK": BLOCK}
        states = {"phi": dtype, "u": dtype, "partial_sums": torch.float64}
        pair = {"coarse_phi": dtype, "phi": dtype}
        for kernel, name, tensors in (
            (fas_residual_kernel, "norm", {**states, "coarse_phi": None}),
            (fas_residual_kernel, "norm and right-hand side", {**states, "coarse_phi": dtype}),
            (fas_right_hand_side_kernel, "right-hand side", pair),
        ):
            constants = {key: value for key, value in strides.items() if key in kernel.arg_names}
            full_name = f"{name} {TRITON_NAMES[dtype]}"
            shipped.append(specialised(kernel, full_name, tensors, constants, num_warps=WARPS, uses_dots=False))
    return shipped
