"""How a launch specialises a Triton kernel, written down as a `Configuration`."""

from collections.abc import Mapping
from typing import Any

import torch

from lpgpu.kernels.configuration import Configuration

TRITON_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}


def specialised(
    kernel: Any, name: str, tensors: Mapping[str, torch.dtype | None], constexprs: Mapping[str, Any], **options: Any
) -> Configuration:
    """`kernel` with these tensors (None: absent) and constants; `dt` is fp64, every other argument a 32-bit integer."""
    absent = {name: None for name, dtype in tensors.items() if dtype is None}
    signature = {}
    for argument in kernel.arg_names:
        dtype = tensors.get(argument)
        if argument in constexprs or argument in absent:
            signature[argument] = "constexpr"
        elif dtype is not None:
            signature[argument] = f"*{TRITON_NAMES[dtype]}"
        else:
            signature[argument] = "fp64" if argument == "dt" else "i32"
    return Configuration(kernel=kernel, name=name, signature=signature, constexprs={**constexprs, **absent}, **options)
