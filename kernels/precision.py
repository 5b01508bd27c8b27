"""One knob for how fp32 products are computed, in the fused kernels and in the library's GEMMs alike.

"ieee": fp32 throughout. "tf32x3": three TF32 products, as accurate as fp32 to rounding, on the matrix units. "bf16x3":
three bf16 products of operands split in two, which keep 16 bits and take half the memory on chip. "tf32", "bf16":
operands rounded to 10 or 7 bits. Sums are kept in fp32 always; fp64 and half-precision tensors are not touched.
An MGRIT residual cannot fall below the precision its Φ is computed in: of the order of an operand's rounding relative
to the states, 2⁻¹¹ with "tf32" and 2⁻⁸ with "bf16".
"""

from typing import Literal, get_args

import torch

Precision = Literal["ieee", "tf32x3", "bf16x3", "tf32", "bf16"]

_OF_TORCH: dict[str, Precision] = {"highest": "tf32x3", "high": "tf32", "medium": "bf16"}
_TO_TORCH: dict[Precision, str] = {
    "ieee": "highest",
    "tf32x3": "highest",
    "bf16x3": "highest",
    "tf32": "high",
    "bf16": "medium",
}

_chosen: Precision | None = None


def set_precision(precision: Precision) -> None:
    """Choose for the whole process; the library's products follow, which are those of cuDNN too.

    PyTorch's GEMMs follow by `torch.set_float32_matmul_precision`, cuDNN's convolutions and recurrent networks by
    `torch.backends.cudnn.allow_tf32`: they have nothing between TF32 ("tf32" and "bf16") and fp32.

    Raises:
        ValueError: for a name that is none of ieee, tf32x3, bf16x3, tf32, bf16.

    >>> before = get_precision()
    >>> set_precision("tf32")
    >>> get_precision(), torch.backends.cudnn.allow_tf32
    ('tf32', True)
    >>> set_precision(before)
    """
    global _chosen
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(get_args(Precision))}")
    torch.set_float32_matmul_precision(_TO_TORCH[precision])
    _set_cudnn(allow_tf32=precision in ("tf32", "bf16"))
    _chosen = precision


def get_precision() -> Precision:
    """What was chosen; where torch's own setting has been changed since, or nothing was, what that amounts to."""
    of_torch = _of_library()
    return _chosen if _chosen is not None and _TO_TORCH[_chosen] == of_torch else _OF_TORCH[of_torch]


def dot_precision(dtype: torch.dtype) -> Precision:
    """What a fused kernel's products of `dtype` tensors take: the knob for fp32; others go in as they are ("ieee")."""
    return get_precision() if dtype == torch.float32 else "ieee"


def library_precisions() -> tuple[str, ...]:
    """What PyTorch's GEMMs and cuDNN's convolutions and recurrent networks take, whichever way it was set."""
    cudnn = torch.backends.cudnn
    newer = [getattr(cudnn, name) for name in ("conv", "rnn") if hasattr(cudnn, name)]
    if not newer:  # a PyTorch that has the older way only
        return _of_library(), str(cudnn.allow_tf32)
    return _of_library(), *(operations.fp32_precision for operations in newer)


def _set_cudnn(*, allow_tf32: bool) -> None:
    """By the older setting, which both ways to ask can read; by the newer one where another setting overrides it."""
    cudnn = torch.backends.cudnn
    cudnn.allow_tf32 = allow_tf32
    for operations in (getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None)):
        if operations is not None and (operations.fp32_precision == "tf32") != allow_tf32:
            operations.fp32_precision = "tf32" if allow_tf32 else "ieee"


def _of_library() -> str:
    """torch's setting: "highest", "high" or "medium". It raises once `torch.backends` has been told something else."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "high" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "highest"
