"""The affine scan as it is shipped, to be compiled without a GPU."""

import torch

from lpgpu.kernels.affine_scan.tiles import BLOCK, STAGES, WARPS
from lpgpu.kernels.affine_scan.triton_kernels import affine_scan_kernel
from lpgpu.kernels.configuration import Configuration
from lpgpu.kernels.specialisation import TRITON_NAMES, specialised


def configurations() -> list[Configuration]:
    """In the dtypes that matter, with and without D, and in both directions."""
    return [
        specialised(
            affine_scan_kernel,
            f"{'reverse ' if reverse else ''}{'D ' if with_decay else ''}{TRITON_NAMES[dtype]}",
            {"v": dtype, "phi": dtype, "anchors": dtype, "decay": dtype if with_decay else None},
            {"BLOCK": BLOCK, "REVERSE": reverse, "STAGES": STAGES},
            num_warps=WARPS,
            num_stages=STAGES,
            uses_dots=False,
        )
        for dtype in (torch.bfloat16, torch.float32)
        for with_decay in (True, False)
        for reverse in (False, True)
    ]
